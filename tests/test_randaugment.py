"""RandAugment and random erasing: each operation against Pillow's, as timm calls it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import compiled
from PIL import Image
from scipy.stats import ks_2samp, kstest, norm
from test_views_host import PLAIN, photo
from timm_data import timm_data

from byol_jax.views import device, device_erasing, device_randaugment, host, host_randaugment
from byol_jax.views.randaugment import OPS
from byol_jax.views.spec import UNIFORMS, U, ViewSpec

RANDOM = np.random.RandomState(0)
COLOUR = (124.0, 116.0, 104.0)
LEVELS = (0.0, 3.3, 9.2, 10.0)
HEIGHT, WIDTH = 18, 21
CASES = [
    (number, level, sign) for number in range(len(OPS)) for level in LEVELS for sign in (-1.0, 1.0)
]


def scan(height=HEIGHT, width=WIDTH):
    """An image of whole numbers 20 to 235, [H, W, C]."""
    noise = RANDOM.uniform(-0.1, 0.1, (height, width, 3))
    return np.rint(255 * np.clip(0.8 * photo(height, width) + 0.1 + noise, 0.08, 0.92))


def pillows(image, number, level, sign, monkeypatch):
    """What timm's operation of a number makes of an image, [H, W, C]."""
    aa = timm_data("auto_augment")
    hparams = {"img_mean": tuple(map(int, COLOUR)), "interpolation": Image.BICUBIC}
    name = aa._RAND_INCREASING_TRANSFORMS[number]
    monkeypatch.setattr(aa.random, "random", lambda: 0.9 if sign < 0 else 0.1)
    op = aa.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    return np.asarray(op(Image.fromarray(image.astype(np.uint8)))).astype(float)


def on_device(x_NCHW, number, level, sign):
    planes = [jnp.asarray(x_NCHW[:, c]) for c in range(3)]
    args = (planes, number, level, sign)
    function = jax.jit(lambda *args: device_randaugment.apply_one(*args, COLOUR))
    return np.stack(compiled(function, *args)(*args), 1)


def on_host(x_NCHW, number, level, sign):
    args = map(tf.constant, (x_NCHW, number, level, sign))
    return host_randaugment.apply_one(*args, COLOUR).numpy()


@pytest.mark.parametrize("where", [on_device, on_host])
def test_every_operation_is_pillows(where, monkeypatch):
    """Fails if an operation, its strength, sign, centre, rounding, border or filling differs.

    To one level of 255, in some pixels: Pillow rounds down, and computes in float64. (Round the
    interpolation to the nearest; exchange height and width; weigh by Keys' a = -0.5; take 8 bits
    for equalize's step; blend with the mean of the channel.)
    """
    image = scan()
    x = np.tile(image.transpose(2, 0, 1).astype(np.float32)[None], (len(CASES) + 1, 1, 1, 1))
    number, level, sign = (np.array(v) for v in zip(*CASES, (len(OPS), 5.0, 1.0), strict=True))
    found = where(x, number.astype(np.int32), level.astype(np.float32), sign.astype(np.float32))
    np.testing.assert_array_equal(found[-1], x[-1])  # none
    for i, (number, level, sign) in enumerate(CASES):
        if OPS[number] == "posterize" and level == 10:
            assert not found[i].any()  # no bit is left
            continue
        expected = pillows(image, number, level, sign, monkeypatch)
        difference = np.abs(found[i].transpose(1, 2, 0) - expected)
        assert difference.max() <= 1, (OPS[number], level, sign)
        assert (difference > 0).mean() < 0.02, (OPS[number], level, sign)


def test_numbers_are_counted_alike():
    """Fails if what a TPU counts by differs, or upper and lower digits are exchanged."""
    flat = RANDOM.randint(0, 256, (3, 999)).astype(np.int32)
    expected = [np.bincount(row, minlength=256) for row in flat]
    for count in (device_randaugment._scattered, device_randaugment._products):
        np.testing.assert_array_equal(count(jnp.asarray(flat)), expected)


def draws(n):
    return RANDOM.uniform(0, 1, (n, UNIFORMS)).astype(np.float32)


VIEW = ViewSpec(12, **PLAIN | {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}, rand_layers=2)


def test_host_and_device_draw_the_same_views():
    """Fails if equal draws give other operations, levels, rectangles or noise on either.

    (Take the draw of layer 1 in layer 2; number the noise by planes; erase before normalising.)
    """
    spec = dataclasses.replace(VIEW, rand_prob=0.9, erase=0.6)
    u = draws(48)
    crops = np.stack([scan(12, 12) for _ in range(48)]).astype(np.float32) / 255
    theirs = host.augment(tf.constant(crops), spec, tf.constant(u)).numpy()
    ours = jax.jit(lambda x, u: device.augment(x, spec, u))
    ours = np.asarray(compiled(ours, crops, u)(crops, u))
    different = np.abs(ours - theirs)
    assert (different > 1e-4).mean() < 0.01
    assert different.max() < 2.01 / 255 / 0.2 * 3  # one level, perhaps stretched by the second
    plain = host.augment(
        tf.constant(crops), dataclasses.replace(VIEW, rand_layers=0), tf.constant(u)
    )
    changed = (np.abs(theirs - plain.numpy()) > 0.02).any((1, 2, 3))
    assert changed.mean() > 0.9
    one = [host.augment(crops[i : i + 1], spec, u[i : i + 1]) for i in range(3)]  # which branches
    np.testing.assert_allclose(np.concatenate(one), theirs[:3], rtol=0, atol=1e-5)


def test_the_draws_have_timms_distributions():
    """Fails if an operation is more likely, or the levels or signs are of another distribution."""
    spec = dataclasses.replace(VIEW, rand_level=9.0, rand_std=0.5, rand_prob=0.5)
    u = draws(20000)
    op, level, sign = (np.asarray(x) for x in device_randaugment.drawn(spec, u))
    for layer in (0, 1):
        counts = np.bincount(np.minimum(op[layer], 15), minlength=16) / len(u)
        np.testing.assert_allclose(counts, [0.5 / 15] * 15 + [0.5], atol=0.012)
    random = np.random.default_rng(0)
    gauss = np.clip(random.normal(9, 0.5, 20000), 0, 10)  # AugmentOp.__call__
    assert ks_2samp(level[0], gauss).pvalue > 1e-3
    assert abs((level == 10).mean() - norm.sf(2)) < 0.004
    assert set(np.unique(sign)) == {-1, 1}
    assert abs(sign.mean()) < 0.02
    assert np.abs(np.corrcoef(np.concatenate([op, level, sign])) - np.eye(6)).max() < 0.03
    fixed = dataclasses.replace(spec, rand_std=0.0)
    assert (np.asarray(device_randaugment.drawn(fixed, u)[1]) == 9).all()


ERASED = ViewSpec(16, **PLAIN, erase=0.25)


def erased_box(images, u, spec=ERASED):
    """Which pixels are erased, [N, H, W]."""
    erase = jax.jit(lambda images, u: device_erasing.erase(images, spec, u))
    return (np.asarray(compiled(erase, images, u)(images, u)) != images).any(-1)


def test_the_rectangle_is_timms(monkeypatch):
    """Fails if sides, rounding, position or probability differ. (Exchange area and aspect.)"""
    re = timm_data("random_erasing")
    spec = dataclasses.replace(ERASED, erase=1.0)
    blank = np.zeros((24, 16, 16, 3), np.float32)
    u = draws(24)
    boxes = erased_box(blank, u, spec)
    for i in range(24):
        uniform = iter((u[i, U["erase_area"]], u[i, U["erase_aspect"]]))
        places = iter((u[i, U["erase_top"]], u[i, U["erase_left"]]))
        monkeypatch.setattr(re.random, "random", lambda: 0.0)
        monkeypatch.setattr(re.random, "uniform", lambda a, b, v=uniform: a + (b - a) * next(v))
        monkeypatch.setattr(
            re.random, "randint", lambda a, b, v=places: a + int(next(v) * (b - a + 1))
        )
        erase = re.RandomErasing(1.0, mode="pixel", device="cpu")
        try:
            found = erase(torch.zeros(3, 16, 16)).numpy()
        except StopIteration:  # it does not fit, and timm draws again; here it is cut
            assert boxes[i].any(0).sum() == 15 or boxes[i].any(1).sum() == 15
            continue
        np.testing.assert_array_equal(boxes[i], (found != 0).any(0))


def test_what_is_erased_has_timms_distribution():
    """Fails if another share of images is erased, or areas or shapes are of other distributions."""
    re = timm_data("random_erasing")
    n = 2000
    blank = np.zeros((n, 16, 16, 1), np.float32)
    boxes = erased_box(blank, draws(n))
    assert abs(boxes.any((1, 2)).mean() - 0.25) < 0.03
    re.random.seed(0)
    theirs = re.RandomErasing(1.0, mode="pixel", device="cpu")
    theirs = np.array([(theirs(torch.zeros(1, 16, 16))[0] != 0).numpy() for _ in range(500)])
    ours = boxes[boxes.any((1, 2))]
    for axis in (1, 2):
        sides = [box.any(axis).sum(1) for box in (ours, theirs)]
        assert ks_2samp(*sides).pvalue > 1e-3
    assert ks_2samp(*(box.sum((1, 2)) for box in (ours, theirs))).pvalue > 1e-3
    assert np.abs(ours.mean((0, 2)) - theirs.mean((0, 2))).max() < 0.08


def test_the_noise_is_normal_and_its_own_for_every_view():
    """Fails if pixels, channels or views share noise, or it is not normal.

    (Leave out the last fold; add the seed to the number instead of mixing it.)
    """
    u = np.concatenate([np.arange(8) / 2**23, RANDOM.uniform(0, 1, 24)]).astype(np.float32)
    noise = jax.jit(lambda u: device_erasing.noise(u, (32, 20, 20, 3)))
    x = np.asarray(compiled(noise, u)(u), np.float64)
    assert kstest(x.reshape(-1), norm.cdf).pvalue > 1e-3
    flat = x.reshape(32, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(32)).max() < 0.13
    channels = x.transpose(3, 0, 1, 2).reshape(3, -1)
    assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.03
    for lag in (1, 3, 60):  # neighbours in the same view, and its sorted values elsewhere
        assert abs(np.mean(flat[:, lag:] * flat[:, :-lag])) < 0.03
    assert len(np.unique(x)) > 0.99 * x.size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("rand_layers", 3), ("rand_level", 10.5), ("rand_std", -1.0), ("rand_prob", 0.0)),
        *(("erase", 1.5), ("erase_area", (0.1, 1.5)), ("erase_aspect", (0.0, 1.0))),
    ],
)
def test_a_bad_field_is_named(field, value):
    """Fails if the check of any of these fields is taken out of ViewSpec."""
    with pytest.raises(ValueError, match=rf"ViewSpec.{field} is .*; expected"):
        ViewSpec(**{"size": 32, field: value})
