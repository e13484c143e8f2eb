"""Colorization: against the standard and loops; an encoder that sees lightness alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, make_batch, mini_encoder, named, start_state
from pretext_oracles import crops, rgb_of

import byol_jax
from byol_jax import optim
from byol_jax.config import default_config
from byol_jax.convert.info import EncoderInfo, build_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.core import Encoder, Features
from byol_jax.evaluate import config_for_export
from byol_jax.experiment.build import build
from byol_jax.experiment.frozen import untrained
from byol_jax.experiment.questions import judged
from byol_jax.methods.colorize import colorize
from byol_jax.methods.probe import with_probe
from byol_jax.models import heads, make_encoder, on_lightness
from byol_jax.models.heads import Head
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.run_folder import read_export
from byol_jax.train_step import make_train_step
from byol_jax.views.lab import normalised, to_lab, to_rgb
from byol_jax.views.tasks.colorization import (
    annealed_mean,
    bins,
    colorization,
    coloured,
    colourful,
    counted_colours,
    rebalancing,
    soft_bins,
)

KEY = jax.random.key(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# skimage.color.rgb2lab of scikit-image 0.26.0.
LAB = {
    (1, 0, 0): (53.24058794, 80.09230823, 67.20275104),
    (0, 1, 0): (87.73509949, -86.18302974, 83.17970318),
    (0, 0, 1): (32.29567257, 79.18559091, -107.85730021),
    (1, 1, 1): (100.0, -0.00245494, 0.00465342),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (0.5, 0.5, 0.5): (53.38896474, -0.0014685, 0.00278359),
    (0.2, 0.4, 0.6): (42.00800059, -0.1540412, -32.84289742),
    (0.03, 0.01, 0.02): (1.04697346, 1.68816383, -0.49498945),
    (1, 1, 0): (97.13950704, -21.55468102, 94.47812228),
    (0.9, 0.1, 0.7): (52.61500821, 81.78540452, -29.79760825),
}


def photographs(count=256, size=16):
    from sklearn.datasets import load_sample_images

    return crops(load_sample_images().images, count, size)


def test_lab_is_that_of_the_standard():
    """Fails if a constant, the bend of a curve, or the order of the axes is another one."""
    rgb, lab = (np.array(list(x), np.float64) for x in (LAB, LAB.values()))
    np.testing.assert_allclose(to_lab(rgb), lab, atol=1e-6)
    np.testing.assert_allclose(to_lab(jnp.asarray(rgb, jnp.float32)), lab, atol=2e-4)
    np.testing.assert_allclose(to_rgb(lab), rgb, atol=1e-6)
    np.testing.assert_allclose(to_rgb(jnp.asarray(lab, jnp.float32)), rgb, atol=1e-5)


def seen_by(images):
    """What an encoder on lightness gets to see of RGB images [B, S, S, 3] in 0..1."""
    eye = Encoder(None, lambda params, stats, images: (Features(images, ()), stats), 1, 1, {})
    eye = on_lightness(eye, MEAN, STD)
    return np.asarray(eye.apply({}, {}, normalised(images, MEAN, STD)[:, None])[0].pooled[:, 0])


def test_lightness_and_target_are_the_image():
    """Fails if the target is of another pixel, or the encoder sees anything but the lightness.

    A program in NumPy puts what is seen and what is asked together again: 256 photographs.
    """
    images = photographs()
    batch = {"views": normalised(images, MEAN, STD)[:, None]}
    made = colorization(4, mean=MEAN, std=STD)(batch, KEY)
    np.testing.assert_array_equal(made["views"], batch["views"])
    lightness, target = seen_by(images), np.asarray(made["target"])
    assert lightness.shape == (256, 16, 16, 1)
    assert target.shape == (256, 4, 4, 2)
    back = rgb_of(np.concatenate([50 * lightness[:, ::4, ::4] + 50, target], -1))
    np.testing.assert_allclose(back, images[:, ::4, ::4], atol=2e-3)
    # Other colours of the same lightness are the same to it.
    lab = to_lab(images.astype(np.float64)) * [1, 0.5, -0.3]
    other = to_rgb(lab)
    inside = np.abs(to_lab(other) - lab).max(-1) < 1e-6
    assert inside.mean() > 0.9
    np.testing.assert_allclose(seen_by(other)[inside], lightness[inside], atol=1e-5)
    assert np.abs(other - images).max() > 0.2


def test_bins_are_those_of_srgb():
    """Fails if a bin has no colour, or one is missing: 261 squares of 10 are hit by sRGB."""
    assert bins().shape == (261, 2)
    rgb = np.random.RandomState(0).rand(200_000, 3)
    hit = {tuple(x) for x in (10 * np.floor(to_lab(rgb)[:, 1:] / 10 + 0.5)).tolist()}
    assert hit <= {tuple(x) for x in bins().tolist()}
    assert len(hit) > 240


def loop_soft(ab, used, neighbours, sigma):
    """Weights [K] of one colour, by a loop over the bins."""
    far = sorted((float(((ab - b) ** 2).sum()), k) for k, b in enumerate(bins()) if used[k])
    weight = np.zeros(len(bins()))
    for d, k in far[:neighbours]:
        weight[k] = np.exp(-d / (2 * sigma**2))
    return weight / weight.sum()


def test_soft_bins_and_weights():
    """Fails if a bin that is not in use, a sixth neighbour, or another width counts: by loops."""
    random = np.random.RandomState(0)
    used = random.rand(261) < 0.5
    ab = random.uniform(-60, 60, (20, 2))
    index, weight = soft_bins(jnp.asarray(ab, jnp.float32), jnp.asarray(used), 5, 5.0)
    found = np.zeros((20, 261))
    np.add.at(found, (np.arange(20)[:, None], np.asarray(index)), np.asarray(weight))
    want = np.array([loop_soft(x, used, 5, 5.0) for x in ab])
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert (np.asarray(index)[:, 0] == want.argmax(1)).all()
    prior = np.where(used, random.rand(261), 0)
    prior /= prior.sum()
    v = np.array([1 / (0.75 * p + 0.25 / used.sum()) if p else 0 for p in prior])
    v /= (prior * v).sum()
    np.testing.assert_allclose(rebalancing(jnp.asarray(prior, jnp.float32), 0.25), v, rtol=1e-4)
    even = rebalancing(jnp.asarray(prior, jnp.float32), 1.0)
    np.testing.assert_allclose(even, used, rtol=1e-5)


def test_colours_are_counted():
    """Fails if grey images count, a bin without a pixel is in use, or shares are not soft: by
    loops.
    """
    random = np.random.RandomState(0)
    ab = 0.5 + random.randint(-30, 30, (6, 2, 2, 2)).astype(np.float32)
    ab[4:] = random.uniform(-5, 5, (2, 2, 2, 2))
    pixels = ab[:4].reshape(-1, 2).astype(np.float64)
    nearest = [((x - bins()) ** 2).sum(1).argmin() for x in pixels]
    used = np.isin(np.arange(261), nearest)
    want = np.mean([loop_soft(x, used, 5, 5.0) for x in pixels], 0)
    np.testing.assert_allclose(counted_colours([ab[:3], ab[3:]], 5, 5.0), want, atol=1e-12)
    with pytest.raises(ValueError, match=r"no colours to predict.*all are grey"):
        counted_colours([ab[4:]], 5, 5.0)


def test_decoding():
    """Fails if the temperature is of the shares, or multiplies: Zhang et al., equation 5."""
    logits = np.random.RandomState(0).randn(3, 261)
    share = np.exp(logits) ** (1 / 0.38)
    want = share / share.sum(1, keepdims=True) @ bins()
    found = annealed_mean(jnp.asarray(logits, jnp.float32), 0.38)
    np.testing.assert_allclose(found, want, atol=1e-3)
    images = photographs(4, 8).astype(np.float64)
    lab = to_lab(images)
    whole = coloured(jnp.asarray(lab[..., 0], jnp.float32), jnp.asarray(lab[..., 1:], jnp.float32))
    np.testing.assert_allclose(whole, images, atol=1e-5)


def stub(prior):
    """Colorization of 4 px with logits that are its parameters."""

    def apply(params, stats, images, train, key=None):
        return Features(images.mean((2, 3)), (images,)), stats

    encoder = Encoder(lambda key, images: ({}, {}), apply, 3, 3, {})
    decoder = Head(
        lambda key, x: ({"logits": jnp.zeros((3, 1, 2, 2, 261))}, {}),
        lambda params, stats, x, train: (params["logits"], stats),
        3,
    )
    return colorize(encoder, decoder, colorization(2), prior, rebalance=0.5)


def test_the_loss_is_that_of_loops():
    """Fails if weights are of another bin or in the metrics, grey or masked images count, or an
    answer uses a bin that is not in use.
    """
    random = np.random.RandomState(0)
    prior = np.where(random.rand(261) < 0.7, random.rand(261), 0)
    prior /= prior.sum()
    logits = random.randn(3, 1, 2, 2, 261)
    method = stub(prior)
    ab = random.uniform(-40, 40, (3, 2, 2, 2)).astype(np.float32)
    batch = {"views": jnp.zeros((3, 1, 4, 4, 3)), "target": ab, "mask": np.ones(3, np.float32)}
    params, extra = method.init(KEY, batch)
    params["decoder"]["logits"] = jnp.asarray(logits, jnp.float32)
    v = np.array([1 / (0.5 * p + 0.5 / (prior > 0).sum()) if p else 0 for p in prior])
    v /= (prior * v).sum()

    def by_hand(rows):
        losses, plain, hits, blind = [], [], [], []
        for row in rows:
            for y, x in np.ndindex(2, 2):
                soft = loop_soft(ab[row, y, x], prior > 0, 5, 5.0)
                odds = np.where(prior > 0, np.exp(logits[row, 0, y, x]), 0)
                log_p = np.log(np.maximum(odds / odds.sum(), 1e-300))
                losses.append(-v[soft.argmax()] * (soft * log_p).sum())
                odds = odds / np.where(v > 0, v, 1)
                plain.append(-(soft * np.log(np.maximum(odds / odds.sum(), 1e-300))).sum())
                hits.append(odds.argmax() == soft.argmax())
                blind.append(-(soft * np.log(np.where(prior > 0, prior, 1))).sum())
        return np.mean(losses), np.mean(plain), 100 * np.mean(hits), np.mean(blind)

    def found(batch):
        value, aux = method.loss(params, extra, batch, KEY, jnp.int32(0))
        asked = {k: aux.metrics[f"task/{k}"] for k in ("cross_entropy", "top1", "grey")}
        answers = method.answered(params, extra, batch, KEY)["task"]
        answers = judged(**{k: np.asarray(v) for k, v in answers.items()})
        for k, figure in asked.items():
            np.testing.assert_allclose(answers[k], figure, rtol=1e-5)
        assert answers["questions"] == (batch["mask"] * colourful(ab)).sum()
        return value, asked["cross_entropy"], asked["top1"], answers["prior_entropy"]

    np.testing.assert_allclose(found(batch), by_hand([0, 1, 2]), rtol=1e-4)
    ab[1] = random.uniform(-5, 5, (2, 2, 2))  # a grey image
    batch |= {"target": ab, "mask": np.array([0, 1, 1], np.float32)}
    np.testing.assert_allclose(found(batch), by_hand([2]), rtol=1e-4)
    metrics = method.loss(params, extra, batch, KEY, jnp.int32(0))[1].metrics
    entropy = -sum(p * np.log(p) for p in prior if p)
    np.testing.assert_allclose(metrics["task/prior_entropy"], entropy, rtol=1e-4)


def small():
    decoder = pixel_decoder(4, 261, bottleneck=0, width=4)
    prior = np.full(261, 1 / 261)
    task = colorization(2, mean=(0.5,) * 3, std=(0.2,) * 3)
    encoder = on_lightness(mini_encoder("float32", channels=1), (0.5,) * 3, (0.2,) * 3)
    return colorize(encoder, decoder, task, prior, mean=(0.5,) * 3, std=(0.2,) * 3)


def test_labels_change_nothing_and_shuffled_targets_give_chance():
    """Fails if a class label reaches a pre-trained parameter (bitwise), or the colours can be told
    without looking: an image's left half is bright and red, its right half dark and blue, or the
    other way round, and only the right targets can be learnt.
    """
    method = with_probe(small(), heads.linear(3), 16)
    optimizer = optim.sgd(optim.constant(0.1))
    random, made = np.random.RandomState(0), jax.jit(method.task)

    def batch_of(shuffled):
        images = (
            np.where(random.rand(32, 1, 1, 1) < 0.5, 1, -1) * np.sign(np.arange(8) - 3.5)[:, None]
        )
        images = 0.5 + images * np.array([0.3, 0.1, -0.05]) + 0.02 * random.randn(32, 8, 8, 3)
        batch = make_batch(32, "float32", views=1) | {
            "views": normalised(images, (0.5,) * 3, (0.2,) * 3)[:, None].astype(np.float32)
        }
        batch = {k: np.asarray(v) for k, v in made(batch, KEY).items()}
        return batch | ({"target": random.permutation(batch["target"])} if shuffled else {})

    first = batch_of(False)
    start = start_state(method, optimizer, first)
    step = compiled(jax.jit(make_train_step(method, optimizer)), start, first, KEY)
    found = [
        named(step(start, first | {"label": label.astype(np.int32)}, KEY)[0])
        for label in (first["label"], np.zeros(32))
    ]
    for k, value in found[0].items():
        if "probe" not in k:
            np.testing.assert_array_equal(value, found[1][k], err_msg=k)
    assert (found[0]["params/probe/bias"] != found[1]["params/probe/bias"]).any()
    last = {}
    for shuffled in (False, True):
        state = start
        for _ in range(30):
            state, metrics = step(state, batch_of(shuffled), KEY)
        last[shuffled] = float(metrics["task/cross_entropy"])
    ln2 = np.log(2)
    assert last[True] > last[False] + 0.6 * ln2


def test_an_encoder_on_lightness_is_kept(tmp_path, quick):
    """Fails if an export forgets that it sees lightness, one that cannot say so is made, or none
    can be judged beside an untrained one.
    """
    given = {"width": 0.25, "lightness": (MEAN, STD)}
    encoder = make_encoder("tiny", **given)
    assert encoder.channels == 3
    images = photographs(3, 8)
    params, stats = filled(jax.eval_shape(encoder.init, KEY, jnp.zeros((1, 1, 8, 8, 3))))
    assert params["stage1_0_conv"]["kernel"].shape[2] == 1
    again = build_encoder(json.loads(json.dumps(encoder.config)))
    assert again.config == encoder.config
    info = EncoderInfo(encoder.config, 8, MEAN, STD, 8)
    save_encoder(tmp_path / "out", params, stats, info)
    drawn, _ = untrained(read_export(tmp_path / "out", config_for_export()))
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, params)
    loaded = byol_jax.load_encoder(tmp_path / "out")
    want = encoder.apply(params, stats, normalised(images, MEAN, STD)[:, None], False)[0].pooled
    np.testing.assert_allclose(loaded(images), want[:, 0], atol=1e-5)
    grey = np.repeat(to_rgb(to_lab(images) * [1, 0, 0])[..., :1], 3, -1)
    np.testing.assert_allclose(loaded(grey.astype(np.float32)), want[:, 0], atol=1e-3)
    full = make_encoder("resnet18", lightness=(MEAN, STD)).config
    with pytest.raises(ValueError, match=r"lightness of images alone.*--format orbax"):
        save_timm(tmp_path / "timm", {}, {}, EncoderInfo(full, 64, MEAN, STD))
    for wrong in ([1.0, 2.0], [MEAN], [MEAN, (0.1, 0.0, 0.1)], [MEAN, STD, STD]):
        with pytest.raises(ValueError, match="lightness is"):
            build_encoder({"name": "tiny", "lightness": wrong})


def config_of(tmp_path, images=None, **keys):
    config = default_config()
    config.data.name, config.image_size, config.batch_size = "digits", 8, 8
    if images is not None:
        labels = np.arange(len(images)) % 2
        parts = {"x_train": images, "y_train": labels, "x_test": images[:4], "y_test": labels[:4]}
        np.savez(tmp_path / "data.npz", **parts)
        config.data.name, config.data.dir = "npz", str(tmp_path / "data.npz")
    config.views.recipe, config.encoder.name, config.method.name = (
        "crop_flip",
        "tiny",
        "colorization",
    )
    config.encoder.width, config.encoder.input = 0.25, "lightness"
    config.colorization.update(width=16, **keys)
    return config


def test_from_a_config(tmp_path):
    """Fails if the bins are not those of the data, or are counted again on a resume; or if what
    cannot work is built.
    """
    images = (255 * photographs(32, 8)).astype(np.uint8)
    config = config_of(tmp_path, images)
    config.views.overrides.update(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)  # whole images
    e = build(config, devices=jax.devices()[:1])
    _, extra = e.method.init(KEY, {"views": np.zeros((1, 1, 8, 8, 3), np.float32)})
    prior = np.asarray(extra["prior"])
    assert abs(prior.sum() - 1) < 1e-5
    want = counted_colours([to_lab(images[:, ::4, ::4] / 255)[..., 1:]], 5, 5.0)
    np.testing.assert_allclose(prior, want, atol=1e-6)
    again = build(config, e.source, jax.devices()[:1], resumed=True)
    assert again.facts.views is None
    config.encoder.input = "colour"
    with pytest.raises(ValueError, match=r"the encoder sees them.*encoder\.input=lightness"):
        build(config, e.source, jax.devices()[:1])
    with pytest.raises(ValueError, match=r"no colours to leave out; set it to colour"):
        build(config_of(tmp_path), devices=jax.devices()[:1])
    config = config_of(tmp_path)
    config.encoder.input = "colour"
    with pytest.raises(ValueError, match=r"1 channel\(s\) have no colours to predict"):
        build(config, devices=jax.devices()[:1])
    config = config_of(tmp_path, images, sample=3)
    with pytest.raises(ValueError, match=r"sample is 3 px; expected a divisor of image_size, 8 px"):
        build(config, devices=jax.devices()[:1])
