"""The antialiased evaluation, against Pillow, torchvision and timm."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from byol_jax.config import default_config, difference, flatten, put, resolve
from byol_jax.config_file import load_config, save_config
from byol_jax.convert.info import info_from_json
from byol_jax.data import decode, pipeline
from byol_jax.data.opening import open_source
from byol_jax.data.source import Decoding, Source
from byol_jax.experiment.views import build_views
from byol_jax.views import host
from byol_jax.views.spec import EvalSpec

PHOTO = load_sample_images().images[1]  # [427, 640, 3]
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIZES = [(32, 32), (64, 73), (57, 58), (224, 256)]


def photo(height, width):
    return PHOTO[100 : 100 + height, 50 : 50 + width]


def by_pillow(pixels, size, resize):
    """Resize(resize), CenterCrop(size) as torchvision does them with a Pillow image."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shorter = min(image.size)
    image = image.resize([int(resize * s / shorter) for s in image.size], Image.Resampling.BICUBIC)
    left, top = (round((s - size) / 2) for s in image.size)
    cut = np.asarray(image.crop((left, top, left + size, top + size)))
    return cut.reshape(size, size, -1)


def by_us(pixels, size, resize):
    spec = EvalSpec(size, resize, **PLAIN, antialias=True)
    if pixels.shape[2] == 1:
        spec = dataclasses.replace(spec, mean=(0.0,), std=(1.0,))
    return host.eval_view(tf.constant(pixels), spec).numpy() * 255


@pytest.mark.parametrize(("size", "resize"), SIZES)
@pytest.mark.parametrize(("height", "width"), [(300, 401), (200, 161), (50, 71), (123, 123)])
def test_pixels_are_pillows(height, width, size, resize):
    """Fails without the filter, for another one, rows before columns, or a margin off by one.

    Also for images that grow. Halves may be rounded to the other side.
    """
    pixels = photo(height, width)
    found, expected = by_us(pixels, size, resize), by_pillow(pixels, size, resize)
    off = np.abs(found - expected)
    assert off.max() < 1.01
    assert (off > 0.01).mean() < 3e-3


def test_without_the_key_pixels_are_aliased():
    """Fails if `antialias` has no effect: the tests above must be able to see it."""
    aliased = host.eval_view(tf.constant(photo(300, 401)), EvalSpec(64, 73, **PLAIN)) * 255
    assert np.abs(aliased - by_pillow(photo(300, 401), 64, 73)).mean() > 3


def test_one_channel_and_the_right_size():
    """Fails if grey images fail, or an image of the right size is changed."""
    grey = photo(120, 150)[..., :1]
    assert np.abs(by_us(grey, 32, 40) - by_pillow(grey, 32, 40)).max() < 1.01
    square = photo(64, 64)
    np.testing.assert_allclose(by_us(square, 64, 64), square, atol=1e-4)
    floats = tf.constant(photo(120, 150).astype(np.float32) / 255)
    spec = EvalSpec(32, 40, **PLAIN, antialias=True)
    found = host.eval_view(floats, spec).numpy() * 255
    assert np.abs(found - by_pillow(photo(120, 150), 32, 40)).mean() < 1  # not rounded


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("size", "resize"), SIZES[:3])
def test_only_what_is_read_is_decoded(kind, size, resize):
    """Fails if the decoded part lacks a pixel that the filter reads, or is placed wrongly.

    A small part of a large image is decoded, so that its border is not the image's.
    """
    pixels, file = photo(300, 500), io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95, subsampling=0)
    decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    spec = EvalSpec(size, resize, **PLAIN, antialias=True)
    window = host.eval_window(spec, tf.constant(300), tf.constant(500))
    assert int(window[3]) < 400
    found = decode.decode_eval(tf.constant(file.getvalue()), spec, Decoding()).numpy() * 255
    off = np.abs(found - by_pillow(decoded, size, resize))
    assert off.max() < 2.01
    assert (off > 0.01).mean() < (1e-3 if kind == "PNG" else 0.05)


def pictures(folder, n=6):
    for i in range(n):
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO[20 * i : 20 * i + 200, 30 * i : 30 * i + 260]).save(
            place / f"{i}.png"
        )


def test_files_and_arrays_agree(tmp_path):
    """Fails if the host's paths for files, for arrays and for resident data differ."""
    pictures(tmp_path / "train")
    pictures(tmp_path / "test")
    source = open_source("folder", str(tmp_path), "train", seed=0)
    spec = EvalSpec(32, 40, **PLAIN, antialias=True)
    (batch,) = pipeline.eval_batches(source, spec, batch_size=6)
    pixels = np.stack([np.asarray(Image.open(source.describe(i))) for i in range(6)])
    arrays = Source("photos", 6, 3, 0, images=pixels)
    (other,) = pipeline.eval_batches(arrays, spec, batch_size=6)
    np.testing.assert_allclose(batch["views"], other["views"], atol=1e-6)
    expected = np.stack([by_pillow(p, 32, 40) for p in pixels])
    assert np.abs(batch["views"][:, 0] * 255 - expected).max() < 1.01
    resident = pipeline.decode_all(source, 40, True)
    (held,) = pipeline.eval_batches(resident, spec, batch_size=6)
    np.testing.assert_allclose(held["views"], batch["views"], atol=1.01 / 255)


# --- the key, and runs and exports of before -----------------------------------------------------


def test_the_default_is_antialiased(tmp_path):
    """Fails if new runs do not antialias, the key has no effect, or it is lost in config.json."""
    config = default_config()
    assert build_views(config, 3)[1].antialias is True
    config.eval.antialias = False
    assert build_views(config, 3)[1].antialias is False
    for value in (True, False):
        config.eval.antialias = value
        save_config(resolve(config), tmp_path / "config.json")
        assert load_config(tmp_path / "config.json").eval.antialias is value


def test_runs_of_before_stay_as_they_were(tmp_path):
    """Fails if a run without the key is evaluated otherwise than it was."""
    path = tmp_path / "config.json"
    save_config(resolve(default_config()), path)
    values = json.loads(path.read_text())
    del values["eval"]["antialias"]
    path.write_text(json.dumps(values))
    assert load_config(path).eval.antialias is False


@pytest.mark.parametrize(("key", "value"), [("eval.antialias", False), ("eval.resize", 300)])
def test_what_resident_data_are_made_of_may_not_change(key, value):
    """Fails if a resumed run goes on with other training images."""
    config = default_config()
    config.views.placement = "device"
    for placement, refused in (("stream", False), ("resident", True)):
        config.data.placement = placement
        changed = config.copy_and_resolve_references()
        put(changed, key, value)
        assert bool(difference(flatten(config), flatten(changed))) is refused


def test_pairs_from_json_are_no_difference():
    """Fails if a run with optimizer.lr_factors cannot be resumed: JSON makes lists of pairs."""
    config = default_config()
    config.optimizer.lr_factors = (("predictor", 0.5),)
    old = flatten(resolve(config))
    assert difference(old, json.loads(json.dumps(old))) == []
    other = {**old, "optimizer.lr_factors": [["predictor", 0.25]]}
    assert len(difference(old, other)) == 1


def test_exports_of_before_are_not_antialiased():
    """Fails if a description without the field is refused, or taken for a new one."""
    values = {"encoder": {"name": "tiny"}, "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert info_from_json(values, "here").antialias is False
    assert info_from_json({**values, "antialias": True}, "here").antialias is True
    with pytest.raises(ValueError, match="antialias is 1; expected bool"):
        info_from_json({**values, "antialias": 1}, "here")
