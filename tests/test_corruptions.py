"""Corruptions of images, each against another version of it."""

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

from byol_jax.evals.corruptions import CORRUPTIONS, corrupted, strengths
from byol_jax.views.spec import EvalSpec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


def changed(name, images, severity, seed=0, channels=3, start=0):
    """Images [N, S, S, C] in 0..1, corrupted."""
    spec = EvalSpec(images.shape[1], images.shape[1], MEAN[:channels], STD[:channels])
    mean, std = np.float32(spec.mean), np.float32(spec.std)
    batch = {
        "views": ((images - mean) / std)[:, None].astype(np.float32),
        "index": np.arange(start, start + len(images)),
        "mask": np.ones(len(images)),
    }
    (found,) = corrupted([batch], spec, name, severity, seed)
    return found["views"][:, 0] * std + mean


def blurred(image, sigma):
    """Convolved with a Gaussian cut at four sigma, one pixel after the other."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    side = len(image)
    for axis in (0, 1):
        rows = [np.clip(np.arange(i - reach, i + reach + 1), 0, side - 1) for i in range(side)]
        parts = [np.tensordot(weights, image.take(r, axis), (0, axis)) for r in rows]
        image = np.stack(parts, axis)
    return image


def as_jpeg(image, quality):
    levels = np.round(255 * image).astype(np.uint8)
    file = tf.io.encode_jpeg(levels, quality=int(quality))
    return tf.io.decode_jpeg(file, dct_method="INTEGER_ACCURATE").numpy() / 255


def brighter(image, by):
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + by, 0, 1)
    return hsv_to_rgb(hsv)


def flatter(image, factor):
    means = [image[..., c].sum() / image[..., c].size for c in range(3)]
    return np.clip(factor * image + (1 - factor) * np.array(means), 0, 1)


ORACLES = {"blur": blurred, "jpeg": as_jpeg, "brightness": brighter, "contrast": flatter}


@pytest.mark.parametrize("name", ORACLES)
def test_a_corruption_is_that_of_the_paper(name):
    """Fails if a blur is cut elsewhere or mixes channels, a JPEG has another quality, brightness
    changes hues, or contrast is about the mean of all channels.
    """
    random = np.random.RandomState(0)
    smooth = [blurred(x, 2.0) for x in random.uniform(size=(2, 24, 24, 3))]
    images = np.clip(4 * (np.array(smooth) - 0.5) + 0.5, 0, 1)
    images = np.concatenate([images, random.uniform(size=(1, 24, 24, 3))])
    images[0, :5] = 0  # black has no hue
    for severity in (1, 5):
        found = changed(name, images, severity)
        expected = [ORACLES[name](x, strengths(24)[name][severity - 1]) for x in images]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        assert np.abs(found - images).max() > 0.02


def test_noise_is_a_function_of_the_seed_and_the_index():
    """Fails if its strength is another one, images share their noise, or batches matter."""
    grey = np.full((8, 16, 16, 3), 0.5)
    first, last = (changed("noise", grey, severity) - grey for severity in (1, 5))
    assert first.std() == pytest.approx(0.04, rel=0.05)
    assert np.abs(first.mean()) < 0.002
    np.testing.assert_allclose(last, first * 2.5, atol=1e-5)
    assert np.abs(np.corrcoef(first.reshape(8, -1)) - np.eye(8)).max() < 0.2
    np.testing.assert_array_equal(changed("noise", grey[:3], 1, start=2) - grey[:3], first[2:5])
    assert (changed("noise", grey, 1, seed=1) - grey != first).mean() > 0.9
    bright = changed("noise", np.full((4, 16, 16, 3), 0.95), 5)
    assert bright.max() == pytest.approx(1.0)


def test_grey_images_and_sizes():
    """Fails if images of one channel are refused, or small images are corrupted as large ones."""
    images = np.random.RandomState(1).uniform(size=(2, 8, 8, 1))
    for name in CORRUPTIONS:
        found = changed(name, images, 5, channels=1)
        assert found.shape == images.shape
        assert 0.01 < np.abs(found - images).mean() < 0.5
    np.testing.assert_allclose(
        changed("brightness", images, 1, channels=1), np.minimum(images + 0.05, 1), atol=1e-6
    )
    # hendrycks/robustness at 8190fe3: make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py.
    for side, blur in ((32, 0.4), (33, 0.5), (64, 0.5), (65, 1), (224, 1)):
        assert strengths(side)["blur"][0] == blur
        assert {len(v) for v in strengths(side).values()} == {5}
