"""Pretext tasks of photographs: undone by independent programs, uniform, without shortcuts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, make_batch, mini_encoder, named, start_state
from pretext_oracles import crops, is_around, is_solved, turned_back
from scipy.ndimage import label
from scipy.stats import chisquare

from byol_jax import optim
from byol_jax.config import default_config
from byol_jax.core import Encoder, Features
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.feed import build_feed
from byol_jax.methods.classify import classify
from byol_jax.methods.probe import with_probe
from byol_jax.methods.regress import regress
from byol_jax.models import heads
from byol_jax.models.heads import Head
from byol_jax.models.network import network
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.train_step import make_train_step
from byol_jax.views.tasks import tiles
from byol_jax.views.tasks.inpainting import inpainting
from byol_jax.views.tasks.jigsaw import jigsaw, permutation_set
from byol_jax.views.tasks.relative import relative
from byol_jax.views.tasks.rotation import rotation

KEY = jax.random.key(0)
STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@functools.cache
def photographs(count=256, size=48):
    from sklearn.datasets import load_sample_images

    return crops(load_sample_images().images, count, size)


def made(quiz, images, key=KEY):
    """(views, target) of images [B, S, S, C]."""
    batch = {"views": images[:, None], "label": np.arange(len(images))}
    out = compiled(jax.jit(quiz.task), batch, key)(batch, key)
    assert (out["label"] == batch["label"]).all()
    assert len(out["views"][0]) == 1 + max(max(views) for views in quiz.asked)
    return np.asarray(out["views"]), np.asarray(out["target"])


def is_uniform(targets, choices):
    return chisquare(np.bincount(np.ravel(targets), minlength=choices)).pvalue > 0.01


# --- inverse oracles -----------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [4, 2])
def test_rotations_are_undone(turns):
    """Fails if a turn is inexact, the other way round, or not the one that is asked for."""
    images = photographs()[:, :16, :16]
    views, target = made(rotation(turns, every=False), images)
    for view, k, image in zip(views[:, 0], target[:, 0], images, strict=True):
        np.testing.assert_array_equal(turned_back(view, k, turns), image)
    assert is_uniform(target, turns)
    views, target = made(rotation(turns), images[:4])
    assert (target == np.arange(turns)).all()
    assert views.shape == (4, turns, 16, 16, 3)
    for view, k, image in zip(views[3], target[3], images[[3] * turns], strict=True):
        np.testing.assert_array_equal(turned_back(view, k, turns), image)


@pytest.mark.parametrize("normalise", [True, False])
def test_puzzles_are_solved(normalise):
    """Fails if the label is of another permutation or of its inverse, a tile leaves its cell, the
    channels are farther apart than they may, or a tile is normalised by something else than itself.
    """
    images, k = photographs() if normalise else photographs()[:40], 20
    options = {"tile": 10, "jitter": 4, "shift": 2, "project": 0.0, "normalise": normalise}
    views, target = made(jigsaw(k, **options), images)
    table = permutation_set(k)[target[:, 0]]

    def solved(table):
        return np.mean(
            [is_solved(*row, 3, 2, normalise) for row in zip(views, images, table, strict=True)]
        )

    assert solved(table) == 1
    assert solved(np.argsort(table, axis=1)) < 0.2  # parts of the sky are of one colour
    assert not normalise or is_uniform(target, k)


def test_neighbours_are_found():
    """Fails if a label is of another side, the first tile is not the centre, or a pair is asked
    for twice.
    """
    images = photographs()
    views, target = made(relative(8, tile=10, jitter=5), images)

    def found(target):
        return np.mean([is_around(*row) for row in zip(views, images, target, strict=True)])

    assert found(target) == 1
    assert found(np.roll(target, 1, 0)) < 0.1
    assert (np.sort(target, 1) == np.arange(8)).all()
    assert is_uniform(target[:, 0], 8)
    views, target = made(relative(2, tile=10, jitter=5), images[:8])
    assert all(is_around(*row) for row in zip(views, images[:8], target, strict=True))
    assert target.shape == (8, 2)


def test_tiles_are_jittered():
    """Fails if a tile has fewer places than it should, or channels move together, or a cell's
    border can be reached.
    """
    y, x = np.mgrid[:30, :30].astype(np.float32)
    image = np.stack([100 * y + x] * 3, -1)
    batch = jnp.asarray(np.tile(image[None], (400, 1, 1, 1)))
    cut = jax.jit(functools.partial(tiles.cut, grid=3, tile=3, jitter=2, shift=1))
    corner = np.asarray(cut(batch, KEY))[:, 4, 0, 0]  # [400, 3]: cell (1, 1), a gap of 4
    places = np.stack([corner // 100, corner % 100], -1)
    assert places.min() == 12
    assert places.max() == 12 + 3
    apart = places[:, 0] - places[:, 1]
    assert {tuple(p) for p in apart.tolist()} == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert (np.diff(np.asarray(cut(batch, KEY))[:, :, :, 0], axis=2) == 100).all()


# --- the set of permutations ---------------------------------------------------------------------


def test_permutations():
    """Fails if the set is not the greedy one, depends on anything but its arguments, or is not as
    far apart as the authors' 100, whose mean Hamming distance is 8.08 (their file
    permutations_100_max.bin; its least is 2).
    """
    table = permutation_set(100)
    assert (np.sort(table, 1) == np.arange(9)).all()
    distance = (table[:, None] != table[None]).sum(-1)
    pairs = distance[np.triu_indices(100, 1)]
    assert round(pairs.mean(), 2) == 8.08
    assert pairs.min() == 6
    np.testing.assert_array_equal(table[:20], permutation_set(20))
    permutation_set.cache_clear()
    np.testing.assert_array_equal(table[:20], permutation_set(20))
    # The rule, by a loop over all 24 permutations of four tiles.
    small = permutation_set(24, 2)
    assert len({tuple(p) for p in small}) == 24
    for n in range(1, 24):
        left = sorted(tuple(p) for p in small[n:])
        far = [[sum(a != b for a, b in zip(p, q, strict=True)) for q in small[:n]] for p in left]
        best = max(range(len(left)), key=lambda i: (min(far[i]), sum(far[i]), -i))
        assert left[best] == tuple(small[n])


# --- shortcuts -----------------------------------------------------------------------------------


def guessed(features, target):
    """Share of held-out answers that a linear classifier of features gets right."""
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9) + (x.std(0) == 0)
    half = len(x) // 2
    weights = np.linalg.lstsq(x[:half], np.eye(8)[target[:half]], rcond=1e-6)[0]
    return ((x[half:] @ weights).argmax(1) == target[half:]).mean()


def aberration(view):
    """How far green lies from red: correlations of the two, moved by up to 1 px."""
    red, green = (view[..., c] - view[..., c].mean() for c in (0, 1))
    moved = [np.roll(green, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return [(red * m)[1:-1, 1:-1].mean() / (red.std() * m.std()) for m in moved]


def test_colours_do_not_tell_the_place():
    """Fails if a lens that shifts green outwards gives the answer away where channels are dropped.

    A linear reader of the shift finds the place of the neighbour without that countermeasure.
    """
    random, cells = np.random.RandomState(0), np.arange(9)
    noise = random.rand(600, 24, 24, 1).astype(np.float32)
    images = np.tile(noise, (1, 1, 1, 3))
    for cell in cells:
        dy, dx = cell // 3 - 1, cell % 3 - 1
        at = np.s_[:, 8 * (cell // 3) : 8 * (cell // 3) + 8, 8 * (cell % 3) : 8 * (cell % 3) + 8]
        images[(*at, 1)] = np.roll(noise[..., 0], (dy, dx), (1, 2))[at]
    read = {}
    for drop in (False, True):
        views, target = made(relative(1, tile=6, jitter=1, drop=drop), images)
        read[drop] = guessed(np.array([aberration(v) for v in views[:, 1]]), target[:, 0])
    assert read[False] > 0.9
    assert read[True] < 0.125 + 3 * (0.125 * 0.875 / 300) ** 0.5


def test_borders_do_not_tell_the_place():
    """Fails if a mark along the image's border is in a tile, where there is a gap."""
    images = np.random.RandomState(1).rand(600, 24, 24, 3).astype(np.float32)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 1.0
    read = {}
    for tile, jitter in ((8, 0), (5, 1)):
        views, target = made(relative(1, tile=tile, jitter=jitter), images)
        edges = views[:, 1].mean(-1)
        edges = np.stack(
            [
                edges[:, 0].mean(1),
                edges[:, -1].mean(1),
                edges[:, :, 0].mean(1),
                edges[:, :, -1].mean(1),
            ],
            1,
        )
        pairs = np.stack([a * b for a in edges.T for b in edges.T], 1)
        read[tile] = guessed(np.concatenate([edges, pairs], 1), target[:, 0])
    assert read[8] > 0.9
    assert read[5] < 0.125 + 3 * (0.125 * 0.875 / 300) ** 0.5


def test_colours_are_projected():
    """Fails if the projection is not of the colours before they were normalised."""
    images, a = photographs()[:64, :4, :4], np.array([-1, 2, -1])
    mean, std = (np.array(STATISTICS[k], np.float32) for k in ("mean", "std"))
    out = tiles.project_colours(jnp.asarray((images - mean) / std), KEY, 0.25, *STATISTICS.values())
    back = np.asarray(out) * std + mean
    changed = np.abs(back - images).max((1, 2, 3)) > 1e-5
    assert 6 <= changed.sum() <= 26
    want = np.where(changed[:, None, None, None], images - (images @ a)[..., None] * a / 6, images)
    np.testing.assert_allclose(back, want, atol=1e-6)
    np.testing.assert_allclose(back[changed] @ a, 0, atol=1e-6)


def test_dropped_channels_are_noise():
    """Fails if more than one channel is left, or the noise is as strong as what is left."""
    views, _ = made(relative(1, tile=10, drop=True, jitter=5), photographs()[:64])
    strength = np.sort(views.std((2, 3)), -1)
    assert np.median(strength[..., 1] / strength[..., 2]) < 0.2  # parts of the sky are as even
    assert len({tuple(row) for row in np.argsort(views.std((2, 3)), -1)[..., 2]}) > 4
    np.testing.assert_allclose(np.square(views).mean((2, 3, 4)), 1, rtol=1e-4)


# --- the method ----------------------------------------------------------------------------------


def small(quiz):
    encoder = mini_encoder("float32")
    head = heads.mlp((quiz.choices,), last_bias=True)
    return classify(network(encoder, heads.mlp(())), head, quiz)


def test_class_labels_change_nothing_and_shuffled_answers_give_chance():
    """Fails if a label of the data set reaches a pre-trained parameter (bitwise), or an answer that
    was exchanged with another is still found.
    """
    method = with_probe(small(rotation()), heads.linear(3), 16)
    optimizer = optim.sgd(optim.constant(0.1))
    batch = {**make_batch(8, "float32", views=1)}
    batch |= {k: np.asarray(v) for k, v in method.task(batch, KEY).items() if k != "label"}
    state = start_state(method, optimizer, batch)
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch, KEY)
    found = [
        named(step(state, {**batch, "label": label.astype(np.int32)}, KEY)[0])
        for label in (batch["label"], np.zeros(8))
    ]
    for k, value in found[0].items():
        if "probe" not in k:
            np.testing.assert_array_equal(value, found[1][k], err_msg=k)
    assert (found[0]["params/probe/bias"] != found[1]["params/probe/bias"]).any()
    # Images that are bright above: learnt in a few steps, but not from answers in another order.
    random, task, above = np.random.default_rng(0), jax.jit(method.task), np.zeros((8, 1, 1))
    above[:4] = 1
    for shuffled in (False, True):
        learnt, right = state, []
        for _ in range(40):
            images = above + 0.3 * random.standard_normal((8, 1, 8, 8, 3))
            made = {k: np.asarray(v) for k, v in task({"views": images.astype("f4")}, KEY).items()}
            if shuffled:
                made["target"] = random.permuted(made["target"], axis=1)
            learnt, metrics = step(learnt, batch | made, KEY)
            right.append(float(metrics["task/top1"]))
        chance = 25 + 300 * (0.25 * 0.75 / 320) ** 0.5
        assert np.mean(right[30:]) < chance if shuffled else np.mean(right[30:]) > 60


def test_the_loss_and_the_pictures(quick):
    """Fails if a question is about other views, masked rows count, or the pictures are not of the
    answers: loss and accuracy by hand.
    """
    quiz = relative(2, tile=4, jitter=1)
    method = small(quiz)
    images = photographs()[:6, :18, :18]
    batch = {
        "views": jnp.asarray(images[:, None]),
        "mask": np.array([1, 1, 0, 1, 1, 1], np.float32),
    }
    batch = dict(quiz.task(batch, KEY))
    state = start_state(method, optim.sgd(optim.constant(0.1)), batch)
    arguments = (state.params, state.extra, jnp.asarray(images))

    @jax.jit
    def both(params, extra, images):
        drawn = method.pictures(params, extra, images, KEY)
        return *method.loss(params, extra, batch, KEY, jnp.int32(0)), drawn

    value, aux, pictures = compiled(both, *arguments)(*arguments)
    h = np.asarray(aux.features["h"], np.float64)
    own = {k: np.asarray(v, np.float64) for k, v in state.params["classifier"]["fc1"].items()}
    pairs = np.stack([np.concatenate([h[:, 0], h[:, q]], -1) for q in (1, 2)], 1)
    logits = pairs @ own["kernel"] + own["bias"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target, count = np.asarray(batch["target"]), batch["mask"] > 0
    picked = np.take_along_axis(log_p, target[..., None], -1)[..., 0]
    np.testing.assert_allclose(value, -picked[count].mean(), rtol=1e-5)
    hits = (logits.argmax(-1) == target)[count].mean()
    np.testing.assert_allclose(aux.metrics["task/top1"], 100 * hits, rtol=1e-5)
    asked = np.asarray(pictures["right"])
    assert asked.shape == (6, 12, 12, 3)
    np.testing.assert_array_equal(asked[0, 4:8, 4:8], batch["views"][0, 0])
    cell = [0, 1, 2, 3, 5, 6, 7, 8][target[0, 1]]
    y, x = 4 * (cell // 3), 4 * (cell % 3)
    np.testing.assert_array_equal(asked[0, y : y + 4, x : x + 4], batch["views"][0, 2])


@pytest.mark.parametrize(
    "quiz", [rotation(), jigsaw(24, grid=2, tile=4, jitter=1, shift=0, project=0)]
)
def test_right_answers_undo_what_is_shown(quiz):
    """Fails if the picture of the answers is not the image again where they are right."""
    images = jnp.asarray(photographs()[:3, :12, :12])
    batch = quiz.task({"views": images[:, None]}, KEY)
    views, target = batch["views"], batch["target"]
    right = quiz.shown(views, target, target)
    asked, answer = right["asked"], right["found"]
    assert asked.shape == answer.shape
    assert not np.array_equal(asked, answer)
    if "right" in right:
        np.testing.assert_array_equal(answer, right["right"])
        tile = views[0, int(np.argsort(permutation_set(24, 2)[target[0, 0]])[1])]
        np.testing.assert_array_equal(answer[0, :4, 4:8], tile)
    else:
        np.testing.assert_array_equal(answer, np.tile(images, (1, 2, 2, 1)))


# --- inpainting ----------------------------------------------------------------------------------


def test_a_square_is_hidden():
    """Fails if a pixel of the hole is seen, one outside is not, or the band is hidden."""
    images = photographs()[:64]
    batch = inpainting(size=0.5, band=4, band_weight=10.0)({"views": images[:, None]}, KEY)
    want = images.copy()
    weight = np.zeros((48, 48))
    for y in range(48):
        for x in range(48):
            edge = min(y - 12, 35 - y, x - 12, 35 - x)  # 24 px from 12 on
            weight[y, x] = 0 if edge < 0 else 10 if edge < 4 else 1
            want[:, y, x] *= edge < 4
    np.testing.assert_array_equal(batch["views"][:, 0], want)
    np.testing.assert_array_equal(batch["weight"], np.tile(weight, (64, 1, 1)))
    np.testing.assert_array_equal(batch["target"], images)
    np.testing.assert_array_equal(batch["hidden"], batch["weight"] == 1)


def test_blobs_are_hidden():
    """Fails if the share is another one, all images have one mask, or pixels are hidden singly."""
    images = photographs()[:64] + 1
    batch = inpainting("random", area=0.25)({"views": images[:, None]}, KEY)
    views, hidden = np.asarray(batch["views"][:, 0]), np.asarray(batch["weight"]) == 1
    np.testing.assert_array_equal(views, np.where(hidden[..., None], 0, images))
    np.testing.assert_array_equal(batch["hidden"], hidden)
    assert (hidden.sum((1, 2)) == 48 * 48 // 4).all()
    assert len({mask.tobytes() for mask in hidden}) == 64
    assert max(label(mask)[1] for mask in hidden) <= 6
    often = hidden.mean(0)
    assert often.min() > 0.05
    assert often.max() < 0.6


def drawing():
    """Regression with an encoder that passes the image on, and a decoder that scales it."""

    def apply(params, stats, images, train, key=None):
        return Features(images.mean((2, 3)), (images,)), stats

    encoder = Encoder(lambda key, images: ({}, {}), apply, 3, 3, {})
    decoder = Head(
        lambda key, x: ({"scale": jnp.ones(())}, {}),
        lambda params, stats, x, train: (params["scale"] * x + 0.5, stats),
        3,
    )
    return regress(encoder, decoder, inpainting(size=0.5, band=2), **STATISTICS)


def test_the_error_is_of_the_hole():
    """Fails if a pixel outside counts, the band is not weighted, or masked rows count; or if the
    signal-to-noise ratio is of the band, or of normalised images: by loops.
    """
    images, scale = photographs()[:3, :16, :16], 0.75
    method = drawing()
    batch = dict(method.task({"views": jnp.asarray(images[:, None])}, KEY))
    batch |= {"mask": np.array([1, 0, 1], np.float32)}
    params, extra = method.init(KEY, batch)
    params["decoder"]["scale"] = jnp.float32(scale)
    value, aux = method.loss(params, extra, batch, KEY, jnp.int32(0))
    losses, errors, blanks = [], [], []
    for i in (0, 2):
        for y in range(4, 12):
            for x in range(4, 12):
                band = min(y - 4, 11 - y, x - 4, 11 - x) < 2
                error = ((scale * images[i, y, x] * band + 0.5 - images[i, y, x]) ** 2).mean()
                losses.append(error * (10 if band else 1))
                errors.append(error)
                blanks.append((images[i, y, x] ** 2).mean())
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    answers = method.answered(params, extra, batch, KEY)["task"]
    mean, std = (np.array(x) for x in STATISTICS.values())
    hole, full = images[:, 6:10, 6:10] * std + mean, np.clip(0.5 * std + mean, 0, 1)
    for k, colour in (("psnr", full), ("psnr_blank", mean)):
        want = -10 * np.log10(np.square(hole - colour).mean((1, 2, 3)))
        np.testing.assert_allclose(answers[k], want, rtol=1e-5)
    share = np.mean(errors) / np.mean(blanks)
    np.testing.assert_allclose(aux.metrics["task/error"], share, rtol=1e-5)
    pictures = method.pictures(params, extra, jnp.asarray(images), KEY)
    outside = np.asarray(batch["weight"]) == 0
    np.testing.assert_array_equal(np.asarray(pictures["found"])[outside], images[outside])
    np.testing.assert_allclose(np.asarray(pictures["found"])[:, 7, 7], 0.5, rtol=1e-6)


def test_a_map_that_cannot_be_doubled_is_refused():
    """Fails if the decoder makes an image of another size."""
    decoder = pixel_decoder(12, 3, bottleneck=4, width=4)
    with pytest.raises(ValueError, match="map of 4 x 4 cannot be doubled to an image of 12 px"):
        decoder.init(KEY, jnp.zeros((1, 1, 4, 4, 2)))


# --- from the config -----------------------------------------------------------------------------


def config_of(method, **keys):
    config = default_config()
    config.data.name, config.image_size, config.batch_size = "digits", 8, 8
    config.views.recipe, config.encoder.name, config.method.name = "crop_flip", "tiny", method
    config.views.placement = "device"
    config[method].update(keys)
    return config


def test_the_task_is_done_in_the_step():
    """Fails if the step or the first state sees the views before the task, or the host sends more
    than before.
    """
    e = build(config_of("rotation", hidden=8), devices=jax.devices()[:1])
    feed = build_feed(e)
    assert batch_shapes(e)["views"].shape == (8, 4, 8, 8, 1)
    assert "target" not in feed.shapes
    given = {k: np.zeros(v.shape, v.dtype) for k, v in feed.shapes.items()}
    out = jax.eval_shape(feed.views, given, KEY)
    assert {k: v.shape for k, v in out.items()} == {k: v.shape for k, v in batch_shapes(e).items()}


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("rotation", {"turns": 3}, "turns is 3; expected 2 or 4"),
        (
            "jigsaw",
            {"grid": 2, "permutations": 25},
            "25 permutations of 4 tiles .* expected 2 to 24",
        ),
        (
            "jigsaw",
            {"grid": 2, "permutations": 5, "tile": 4},
            "tile of 4 px .* cell of 4 px.*by 21 px",
        ),
        ("relative", {"tile": 2, "jitter": 0, "drop": True}, "1 channel.* no colours"),
        ("relative", {"tile": 2, "jitter": 0, "project": 0.5}, "1 channel.* no colours"),
        (
            "inpainting",
            {"region": "random", "area": 1e-3},
            "area of 0.001 hides 0 of the 64 pixels",
        ),
        ("inpainting", {}, "square of 4 px with a band of 4 px has no hole in an image of 8 px"),
    ],
)
def test_what_does_not_fit_is_refused(method, keys, message):
    """Fails if a task that is impossible is found out later, or not at all."""
    with pytest.raises(ValueError, match=message):
        build(config_of(method, **keys), devices=jax.devices()[:1])


def test_other_views_and_encoders_are_refused():
    """Fails if a task gets two views, or a transformer tiles."""
    config = config_of("rotation")
    config.views.recipe = "digits"
    with pytest.raises(ValueError, match=r"takes 1 'views'.* makes 2 'views'"):
        build(config, devices=jax.devices()[:1])
    config = config_of("relative")
    config.encoder.name, config.vit.patch = "vit_tiny", 2
    with pytest.raises(ValueError, match="has positions of whole images"):
        build(config, devices=jax.devices()[:1])
