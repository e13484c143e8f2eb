"""Segmentation and depth: their figures, losses and crops, and the protocols on small pictures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices, mini_encoder, named
from PIL import Image
from sklearn.metrics import jaccard_score
from small_vit import small_vit
from test_elsewhere import exported
from test_results import one_device  # noqa: F401

from byol_jax.convert.native import save_encoder
from byol_jax.core import starting_from
from byol_jax.data import pairs as pairs_module
from byol_jax.data.crops import Crops, crop_batches, cropped, whole_batches
from byol_jax.data.pairs import VOID, Pairs, depths, masks, nearest, open_pairs
from byol_jax.data.source import Decoding
from byol_jax.evals import depth, segmentation
from byol_jax.evals.dense import DensePart, DensePlan, DenseTask, train_dense
from byol_jax.evals.features import NothingToJudge
from byol_jax.evaluate import config_for_export, evaluate, table
from byol_jax.faults import TrainingError
from byol_jax.losses import pixel_cross_entropy, reverse_huber
from byol_jax.methods.dense import dense
from byol_jax.models.dense_head import dense_head

KEY = jax.random.key(0)

# --- figures -------------------------------------------------------------------------------------


def test_miou_is_that_of_scikit_learn_and_of_a_loop():
    """Fails if void counts, classes are confused with answers, or images are averaged."""
    random = np.random.RandomState(0)
    truths = [random.randint(-1, 4, (5, 7)), random.randint(0, 2, (3, 4))]
    founds = [np.where(random.rand(*t.shape) < 0.6, np.maximum(t, 0), 2) for t in truths]
    total = sum(segmentation.confusion(f, t, 6) for f, t in zip(founds, truths, strict=True))
    truth = np.concatenate([t.ravel() for t in truths])
    found = np.concatenate([f.ravel() for f in founds])[truth >= 0]
    truth = truth[truth >= 0]
    by_class = jaccard_score(truth, found, average=None, labels=range(4))
    np.testing.assert_allclose(segmentation.intersection_over_union(total)[:4], by_class)
    assert np.isnan(segmentation.intersection_over_union(total)[4:]).all()
    share = []
    for c in range(4):
        both = either = 0
        for t, f in zip(truth, found, strict=True):
            both += t == c and f == c
            either += t == c or f == c
        share.append(both / either)
    figures = segmentation.scores(total)
    assert figures["miou"] == pytest.approx(100 * np.mean(share))
    assert figures["pixels"] == pytest.approx(100 * np.mean(truth == found))
    recall = [np.mean(found[truth == c] == c) for c in range(4)]
    assert figures["classes"] == pytest.approx(100 * np.mean(recall))
    with pytest.raises(NothingToJudge, match="void"):
        segmentation.scores(np.zeros((2, 2), np.int64))


def test_depth_figures_are_those_of_a_loop():
    """Fails if unknown pixels count, or averages over pixels and over images are confused."""
    random = np.random.RandomState(1)
    truths = [random.uniform(1, 9, (4, 6)), random.uniform(1, 3, (2, 3)), np.zeros((2, 2))]
    founds = [t * random.uniform(0.5, 1.9, t.shape) for t in truths]
    truths[0][1, :4] = 0
    founds[1][0, 0] = -3  # as good as no depth
    per_pixel, per_image = depth.scores(
        np.array([depth.sums(f, t) for f, t in zip(founds, truths, strict=True)])
    )

    def figures(pairs):
        delta, square, rel = [0, 0, 0], 0.0, 0.0
        for f, t in pairs:
            f = max(f, 0.001)
            for i in range(3):
                delta[i] += max(f / t, t / f) < 1.25 ** (i + 1)
            square += (f - t) ** 2
            rel += abs(f - t) / t
        n = len(pairs)
        return [100 * d / n for d in delta] + [(square / n) ** 0.5, rel / n]

    of_image = [
        [(a, b) for a, b in zip(f.ravel(), t.ravel(), strict=True) if b > 0]
        for f, t in zip(founds[:2], truths[:2], strict=True)
    ]
    np.testing.assert_allclose(list(per_pixel.values()), figures(of_image[0] + of_image[1]))
    means = np.mean([figures(p) for p in of_image], 0)
    np.testing.assert_allclose(list(per_image.values()), means)
    assert np.abs(means - list(per_pixel.values())).max() > 0.01
    with pytest.raises(NothingToJudge, match="No depth is known"):
        depth.scores(np.zeros((2, 6)))


# --- losses --------------------------------------------------------------------------------------


def test_losses_by_hand(x64):
    """Fails if void, unknown or masked pixels count, or c is not a fifth of the largest error."""
    random = np.random.RandomState(2)
    logits, classes = random.randn(3, 2, 4, 5), random.randint(-1, 5, (3, 2, 4))
    mask = np.array([1, 1, 0], np.float32)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = [(b, i, j) for b, i, j in np.ndindex(2, 2, 4) if classes[b, i, j] >= 0]
    expected = -np.mean([log_p[(*p, classes[p])] for p in at])
    np.testing.assert_allclose(pixel_cross_entropy(logits, classes, mask), expected, rtol=1e-12)

    truth = random.uniform(1, 5, (3, 2, 4)) * (random.rand(3, 2, 4) < 0.7)
    found = truth + random.randn(3, 2, 4)
    found[2] += 100  # of a masked image
    errors = [abs(found[p] - truth[p]) for p in np.ndindex(2, 2, 4) if truth[p] > 0]
    c = max(errors) / 5
    values = [e if e <= c else (e * e + c * c) / (2 * c) for e in errors]
    assert any(e <= c for e in errors)
    value, gradient = jax.value_and_grad(reverse_huber)(found, truth, mask)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-12)
    assert (np.asarray(gradient)[(truth == 0) | (mask == 0)[:, None, None]] == 0).all()
    assert np.isfinite(jax.grad(reverse_huber)(truth, truth, mask)).all()


# --- crops ---------------------------------------------------------------------------------------

PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # a view is then the pixels
COLOURS = np.array([[0, 50, 200], [90, 10, 30], [255, 128, 0], [20, 220, 120]], np.uint8)


def blocks(random, height=40, width=52, side=8):
    """An image of blocks of four colours, and the mask that is a function of its colours."""
    few = random.randint(0, 4, (-(-height // side), -(-width // side)))
    mask = np.kron(few, np.ones((side, side), int))[:height, :width]
    return COLOURS[mask], mask.astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_map_that_is_a_function_of_the_image_stays_one(dtype):
    """Fails if a crop, scale or mirroring is not that of the image, or one is off by a pixel."""
    random = np.random.RandomState(3)
    image, mask = blocks(random)
    target = mask if dtype == np.uint8 else mask.astype(np.float32) + 1
    crops = Crops(33, (0.6, 1.9), 0.5, **PLAIN)
    mirrored, padded = set(), 0
    for u in [[0.001, 0.5, 0.5, 0.1], *random.rand(12, 4)]:
        view, found = cropped(image, target, crops, np.array(u))
        assert view.shape == (33, 33, 3)
        assert found.shape == (33, 33)
        known = found >= 0 if dtype == np.uint8 else found > 0
        padded += (~known).sum()
        assert (view[~known] == 0).all()
        if dtype == np.float32:  # of a camera nearer by the scale
            found = np.rint(found * (0.6 + 1.3 * u[0])).astype(int) - 1
        apart = np.abs(view[:, :, None] - COLOURS[None, None].astype(int)).max(-1)
        pure = (apart.min(-1) < 1) & known  # not mixed at the border of two blocks
        assert pure.sum() > 0.4 * known.sum()
        np.testing.assert_array_equal(apart.argmin(-1)[pure], found[pure])
        mirrored.add(u[3] < 0.5)
    assert mirrored == {True, False}
    assert padded


def some_pairs(count, make=blocks, seed=4):
    random = np.random.RandomState(seed)
    images, targets = zip(*(make(random) for _ in range(count)), strict=True)
    names = tuple(map(str, range(count)))
    return Pairs("some", names, images, targets, names, ())


def test_batches_are_a_function_of_the_seed_and_whole_images_are_whole():
    """Fails if a pass leaves images out or repeats them, or padding counts."""
    pairs, crops = some_pairs(5), Crops(16, (0.5, 2.0), 0.5, **PLAIN)
    first, again, other = (crop_batches(pairs, crops, 2, seed) for seed in (0, 0, 1))
    seen, different = [], False
    for _ in range(4):
        a, b, c = next(first), next(again), next(other)
        for k in a:
            np.testing.assert_array_equal(a[k], b[k])
        seen += a["index"].tolist()
        different |= (a["views"] != c["views"]).any()
    assert different
    assert len(set(seen[:4])) == len(set(seen[4:])) == 4  # of five, in batches of two
    mixed = pairs._replace(
        images=(pairs.images[0][:30], *pairs.images[1:]),
        targets=(pairs.targets[0][:30], *pairs.targets[1:]),
    )
    found = list(whole_batches(mixed, crops, 2, multiple=16))
    assert [b["mask"].tolist() for b in found] == [[1, 1], [1, 1], [1, 0]]
    assert found[0]["views"].shape == (2, 1, 48, 64, 3)
    np.testing.assert_allclose(found[0]["views"][0, 0, :30, :52], mixed.images[0], atol=1e-4)
    np.testing.assert_array_equal(found[0]["target"][0, :30, :52], mixed.targets[0])
    assert (found[0]["target"][0, 30:] == -1).all()
    assert (found[0]["target"][:, :, 52:] == -1).all()
    assert (found[2]["target"][1] == -1).all()


# --- training ------------------------------------------------------------------------------------


def segment(encoder, pairs, *, frozen, steps=30, devices=2, test=None):
    """(state, figures, the encoder's arrays) of a head trained on some pairs."""
    crops = Crops(16, (1.0, 1.0), 0.5, (0.5,) * 3, (0.3,) * 3)

    def part(pairs):
        return DensePart(
            pairs.num_examples,
            lambda batch_size, seed: crop_batches(pairs, crops, batch_size, seed),
            lambda batch_size: whole_batches(pairs, crops, batch_size, 2),
        )

    def judge(found):
        total = sum(segmentation.confusion(f, t, 4) for f, t in found)
        return segmentation.scores(total)

    dtype = encoder.config["dtype"]
    head = dense_head(4, width=8, taps=1, dtype=dtype, param_dtype=dtype)
    task = DenseTask(head, pixel_cross_entropy, lambda y: y.argmax(-1), judge, "miou", True)
    plan = DensePlan((0.3,), steps, 4, 0.0, frozen)
    mesh = first_devices(devices)
    state, judged, weights = train_dense(encoder, part(pairs), task, plan, 0.3, mesh)
    return state, judged(part(test or pairs)), weights


@pytest.mark.usefixtures("quick")
def test_a_head_learns_masks_and_not_those_of_other_images():
    """Fails if masks are not those of their images, or the encoder of `frozen` moves at all; and if
    a head could do without the image, with shifted masks.
    """
    encoder = mini_encoder("float32")
    params, stats = encoder.init(KEY, jnp.zeros((1, 1, 16, 16, 3)))
    given = starting_from(encoder, params, stats)
    pairs, test = some_pairs(8), some_pairs(4, seed=5)
    state, right, weights = segment(given, pairs, frozen=True, test=test)
    assert right["miou"] > 60
    for k, v in named((params, stats)).items():
        np.testing.assert_array_equal(named(weights)[k], v, err_msg=k)
    assert set(state.params) == {"head"}
    shifted = pairs._replace(targets=pairs.targets[1:] + pairs.targets[:1])
    _, wrong, _ = segment(given, shifted, frozen=True, test=test)
    assert wrong["pixels"] < 35  # of four classes alike
    assert wrong["miou"] < 25


@pytest.mark.usefixtures("quick")
def test_fine_tuning_moves_every_parameter_and_devices_do_not_matter(x64):
    """Fails if a part of the encoder is not trained, or a loss is averaged per device."""
    encoder = mini_encoder("float64")
    start = encoder.init(KEY, jnp.zeros((1, 1, 16, 16, 3)))
    given = starting_from(encoder, *start)
    pairs = some_pairs(8)
    pairs.targets[0][:20] = VOID  # devices have different numbers of pixels that count
    states = [segment(given, pairs, frozen=False, steps=3, devices=n)[0] for n in (1, 4)]
    one, four = (named((s.params, s.extra)) for s in states)
    for k, v in one.items():
        np.testing.assert_allclose(four[k], v, rtol=1e-9, atol=1e-12, err_msg=k)
    moved = named((states[0].params["encoder"], states[0].extra["stats"]))
    for k, v in named(start).items():
        assert (moved[k] != v).all(), k


def test_a_transformer_answers_for_every_pixel():
    """Fails if the head does not take patches, or the answer is not of the size of the image."""
    vit = small_vit("float32").encoder
    method = dense(vit, dense_head(3, width=4), pixel_cross_entropy, frozen=False)
    images = np.zeros((2, 1, 8, 12, vit.channels), np.float32)
    target = np.zeros((2, 8, 12), np.int32)
    batch = {"views": images, "target": target, "mask": np.ones(2, np.float32)}
    params, extra = jax.eval_shape(method.init, KEY, batch)
    found = jax.eval_shape(method.features, params, extra, images)
    assert found["dense"].shape == (2, 1, 8, 12, 3)
    value, _ = jax.eval_shape(method.loss, params, extra, batch, KEY, 0)
    assert value.shape == ()


# --- files ---------------------------------------------------------------------------------------


def save_pairs(folder, counts, kind="masks"):
    """Pictures of blocks with masks, void 9 at the upper left, or depths in centimetres."""
    random = np.random.RandomState(6)
    for part, count in counts.items():
        for name in ("images", kind):
            (folder / part / name).mkdir(parents=True)
        for i in range(count):
            image, mask = blocks(random, 24, 32)
            Image.fromarray(image).save(folder / part / "images" / f"{i}.png")
            if kind == "masks":
                mask[:2, :2] = 9
                stored = Image.fromarray(mask)
                if i % 2:  # with a palette, as VOC's
                    stored.putpalette(random.randint(0, 255, 768).astype(np.uint8).tolist())
            else:
                stored = Image.fromarray(100 * (mask.astype(np.uint16) + 1))
            stored.save(folder / part / kind / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An export of the tiny encoder."""
    folder = tmp_path_factory.mktemp("encoder") / "export"
    return exported(folder, save_encoder, name="tiny", width=0.25, channels=3)[0]


def asked(folder, **options):
    config = config_for_export()
    config.data.name, config.data.dir = "folder", str(folder)
    values = {
        "dense_crop": 16,
        "dense_steps": 4,
        "dense_batch": 4,
        "dense_width": 4,
        "dense_taps": 1,
        "dense_lrs": (0.1,),
        "void": (9,),
    }
    for key, value in (values | options).items():
        config.eval[key] = value
    return config


@pytest.mark.usefixtures("quick")
def test_segment_by_command(encoder, tmp_path, capsys):
    """Fails if a mask with a palette is read as colours, a part is left out, or one that is broken
    counts; if the constant answer is not the commonest class, or the table lacks a row.
    """
    folder = save_pairs(tmp_path / "data", {"train": 8, "val": 2, "test": 4})
    (folder / "test/masks/3.png").write_bytes(b"\x89PNG broken")
    (folder / "classes.txt").write_text("sky\nroad\ntree\ncar\n")
    config = asked(folder, dense_lrs=(0.1, 0.01), output_stride=2, dense_side=20)
    config.data.max_damaged = 0.3
    result = evaluate(None, "segment", config, tmp_path / "out", encoder=encoder)
    assert json.loads((tmp_path / "out/segment.json").read_text()) == result
    assert (result["train_images"], result["test_images"], result["damaged"]) == (8, 3, 1)
    assert (result["output_stride"], result["encoder"]) == (2, "frozen")
    assert "test/masks" not in capsys.readouterr().out
    truth = open_pairs(str(folder), "test", Decoding(), masks((9,)), 20)
    assert truth.targets[0].shape == (20, 27)
    assert (truth.targets[0][0, 0], truth.targets[1][0, 0]) == (VOID, VOID)
    train = open_pairs(str(folder), "train", Decoding(), masks((9,)), 20)
    usual = np.bincount(np.concatenate([t.ravel() for t in train.targets]))[:4].argmax()
    (prior,) = [name for name in result["rows"] if name.startswith("always")]
    assert prior == f"always {('sky', 'road', 'tree', 'car')[usual]}"
    known = np.concatenate([t[t != VOID] for t in truth.targets])
    assert result["rows"][prior]["pixels"] == pytest.approx(100 * (known == usual).mean())
    confusion = np.array(result["confusion"]["simclr"])
    assert confusion.sum() == len(known)
    assert segmentation.scores(confusion)["miou"] == pytest.approx(result["miou"])
    assert set(result["iou"]["untrained encoder"]) == {"sky", "road", "tree", "car"}
    assert "untrained encoder" in table("segment", result)


@pytest.mark.usefixtures("quick")
def test_depth_by_command(encoder, tmp_path):
    """Fails if depths are not in metres, or the constant answer is not the median."""
    folder = save_pairs(tmp_path / "data", {"train": 6, "test": 3}, "depths")
    config = asked(folder, depth_unit=0.01)
    config.eval.void = (255,)
    result = evaluate(None, "depth", config, tmp_path / "out", encoder=encoder)
    truth = open_pairs(str(folder), "train", Decoding(), depths(0.01))
    values = np.concatenate([t.ravel() for t in truth.targets])
    assert sorted(set(np.rint(values))) == [1, 2, 3, 4]
    rows = result["rows"]
    prior = rows[f"always {np.median(values):.2f} m"]
    test = open_pairs(str(folder), "test", Decoding(), depths(0.01))
    errors = np.concatenate([t.ravel() for t in test.targets]) - np.median(values)
    assert prior["rms"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    assert set(rows) == {f"always {np.median(values):.2f} m", "untrained encoder", "simclr"}
    assert result["delta1"] == rows["simclr"]["delta1"]
    assert f"{prior['rms']:.3f}" in table("depth", result)


def test_bad_input_is_refused_in_one_line(encoder, tmp_path, monkeypatch):
    """Fails if any of these is taken, or found out only after training."""
    folder = save_pairs(tmp_path / "data", {"train": 2, "test": 2})

    def refused(match, protocol="segment", error=ValueError, **options):
        config = asked(folder, **options)
        with pytest.raises(error, match=match) as found:
            evaluate(None, protocol, config, tmp_path / "out", encoder=encoder)
        assert "\n" not in str(found.value)
        assert not (tmp_path / "out/segment.json").exists()

    refused(r"expected DIR/train/images and DIR/train/depths", "depth", void=(255,))
    refused(r"eval\.output_stride is 3; expected one of 1, 2, 4", output_stride=3)
    refused(r"eval\.dense_scales is \(2\.0, 1\.0\)", dense_scales=(2.0, 1.0))
    refused(r"eval\.void has no effect on --protocol=depth: only segment reads it", "depth")
    refused("leaves a part empty; add a val/ folder", dense_lrs=(0.1, 0.2))
    mask = np.array(Image.open(folder / "test/masks/0.png"))
    Image.fromarray(np.where(mask == 3, 7, mask)).save(folder / "test/masks/0.png")
    refused(r"0\.png of .*/test has the class 7, but the training masks have 0 to 3")
    Image.fromarray(mask).save(folder / "test/masks/0.png")
    (folder / "test/masks/1.png").rename(folder / "test/masks/other.png")
    refused(r"1 image of .* without a map in .* the first of them 1\.png")
    (folder / "test/masks/other.png").rename(folder / "test/masks/1.png")
    wrong = Image.fromarray(np.zeros((24, 32, 3), np.uint8))
    wrong.save(folder / "test/masks/1.png")
    refused("1 image cannot be read", error=TrainingError)
    bad = open_pairs(str(folder), "test", Decoding(), masks((9,)))
    assert "mode RGB; expected numbers per pixel" in bad.damaged[0][1]
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(folder / "test/masks/1.png")
    bad = open_pairs(str(folder), "test", Decoding(), masks((9,)))
    assert "32 x 24 px and its map 30 x 24 px" in bad.damaged[0][1]
    monkeypatch.setattr(pairs_module, "half_of_memory", lambda: 2000)
    refused("set eval.dense_side to a smaller size")
    config = asked(folder)
    config.data.name = "digits"
    with pytest.raises(ValueError, match=r"data\.name is 'digits'; segment reads folders"):
        evaluate(None, "segment", config, tmp_path / "out", encoder=encoder)


def test_nearest_is_pillows():
    """Fails if a scaled map lies half a pixel beside its scaled image."""
    values = np.random.RandomState(7).randint(0, 255, (13, 29)).astype(np.uint8)
    for size in ((7, 40), (20, 29), (39, 11)):
        theirs = Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(nearest(values, *size), np.asarray(theirs))
