"""Formats, bits and orientation of encoded images, each against Pillow or arithmetic."""

import importlib.util
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from byol_jax.data import decode, formats, stream
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.source import Decoding
from byol_jax.views import recipes
from byol_jax.views.spec import EvalSpec

RNG = np.random.default_rng(0)
FLOWER = Image.fromarray(load_sample_images().images[1]).resize((48, 30))
DEEP = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)  # 12 bits
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(tag, kind="JPEG", **options):
    exif = Image.Exif()
    exif[0x0112] = tag
    return encode(FLOWER, kind, exif=exif, **options)


def in_tf_data(data, how):
    """The image as a data set decodes it, where Python is called from TensorFlow's threads."""
    read = tf.data.Dataset.from_tensors(tf.constant(data)).map(
        lambda d: decode.decode_image(d, how)
    )
    return next(read.as_numpy_iterator())


def twelve_to_eight(values):
    return np.floor(np.minimum(values, 4095.0) * 255 / 4095 + 0.5).astype(np.uint8)


# Orientation.


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation_is_that_of_pillow(tag):
    """Fails if a tag is turned another way, or a box is cut from the stored image.

    Seen with 6 and 8 exchanged, and with the box left where it was.
    """
    data, how = oriented(tag, subsampling=0, quality=95), Decoding(3, orient=True)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_allclose(in_tf_data(data, how).astype(int), want, atol=1)
    image = decode.open_image(tf.constant(data), how)
    assert (int(image.height), int(image.width)) == want.shape[:2]
    box = decode.decode_box(image, (3, 7, 20, 15), how)
    np.testing.assert_allclose(box.numpy().astype(int), want[3:23, 7:22], atol=1)
    plain = decode.decode_image(tf.constant(data), Decoding(3))
    assert plain.shape == (30, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_orientation_in_other_formats(kind):
    """Fails if only JPEG headers are looked at."""
    data = oriented(6, kind, **({"lossless": True} if kind == "WEBP" else {}))
    want = np.asarray(FLOWER.rotate(-90, expand=True))
    np.testing.assert_array_equal(in_tf_data(data, Decoding(3, orient=True)), want)


def test_odd_orientations_are_upright():
    """Fails if a tag that does not exist, or none at all, turns the image or ends the data."""
    for data in (oriented(9), encode(FLOWER, "PNG"), b"\xff\xd8\xff\xe1\0\x10Exif\0\0II*\0", b""):
        assert formats.orientation(data) == 1


def test_training_and_evaluation_turn_alike(tmp_path):
    """Fails if a placement or the evaluation leaves an image as it is stored."""
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:, :8] = 255  # white on the left: on top once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for i in range(4):
            image = Image.fromarray(stored)
            image.save(tmp_path / part / f"{i}.jpg", exif=exif, quality=95, subsampling=0)
    for orient, top in ((True, 1.0), (False, 0.5)):
        source = open_source("folder", str(tmp_path), orient=orient)
        crops = next(eval_batches(source, EvalSpec(16, 16, **PLAIN), batch_size=4))
        assert abs(crops["views"][:, 0, :8].mean() - top) < 0.02
        view = recipes.crop_flip(16, area=(1.0, 1.0), aspect=(1.0, 1.0), **PLAIN)
        for on_device, scale in ((False, 1), (True, 255)):
            run = {"batch_size": 4, "seed": 0, "on_device": on_device}
            batch = next(train_batches(source, view, **run))
            assert abs(batch["views"][:, 0, :8].mean() / scale - top) < 0.02


# Bits.


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_bits_in_use_fill_the_range(kind):
    """Fails if 12 bits stay 16 grey levels, larger values wrap around, or 16 bits are rescaled.

    Seen with the scale left out and with the minimum left out.
    """
    values = np.concatenate([DEEP, [[0, 4095, 5000] * 10]]).astype(np.uint16)
    data = encode(Image.fromarray(values), kind)
    for channels in (1, 3):
        got = in_tf_data(data, Decoding(channels, 12))
        assert got.shape == (21, 30, channels)
        np.testing.assert_array_equal(got[..., -1], twelve_to_eight(values))
        np.testing.assert_array_equal(in_tf_data(data, Decoding(channels))[..., 0], values >> 8)


def test_colours_of_sixteen_bits():
    """Fails if the scale is for grey images alone."""
    values = RNG.integers(0, 4096, (6, 5, 3)).astype(np.uint16)
    data = tf.io.encode_png(values).numpy()
    got = in_tf_data(data, Decoding(3, 12))
    np.testing.assert_array_equal(got, twelve_to_eight(values))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_images_of_eight_bits_are_left_alone(kind):
    """Fails if data.bits also scales images of 8 bits."""
    data = encode(FLOWER, kind)
    np.testing.assert_array_equal(in_tf_data(data, Decoding(3, 12)), in_tf_data(data, Decoding(3)))


def test_values_that_are_no_pixels_are_explained():
    """Fails if floats or 32 bits are cut to 8 bits in silence."""
    floats = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    wide = encode(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF")
    said = [stream.what_is_wrong(d, Decoding(3)) for d in (floats, wide)]
    assert "its values are floats; expected integers" in said[0]
    assert "its values have 32 bits or a sign; set data.bits" in said[1]
    # 2**16 values of an int32 in use.
    ramp = np.arange(16, dtype=np.int32).reshape(4, 4) * 4369
    got = in_tf_data(encode(Image.fromarray(ramp), "TIFF"), Decoding(1, 16))
    np.testing.assert_array_equal(got[..., 0], ramp // 257)


@pytest.mark.parametrize(
    ("values", "bits", "said"),
    [
        (
            DEEP,
            0,
            r"values up to 4,0\d\d of 65,535 in 1 image of 16 bits .*16 of 256 .*data.bits=12",
        ),
        (DEEP, 12, ""),
        (DEEP * 16, 0, ""),
        (
            DEEP * 16,
            12,
            r"but data.bits=12 ends at 4,095: larger ones become white; .*data.bits=16",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_fraction_of_the_range_is_said(tmp_path, kind, values, bits, said):
    """Fails if a dark set is not noticed, or one that fills its range is."""
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        Image.fromarray(values).save(tmp_path / part / f"a.{kind}")
    notes = " | ".join(open_source("folder", str(tmp_path), bits=bits).notes)
    if said:
        import re

        assert re.search(said, notes)
    else:
        assert "values up to" not in notes


def test_pages_that_are_not_read_are_said(tmp_path):
    """Fails if all of a stack but its first image vanishes without a word."""
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        pages = [Image.fromarray(DEEP * 16)] * 4
        pages[0].save(tmp_path / part / "a.tif", save_all=True, append_images=pages[1:])
    notes = " | ".join(open_source("folder", str(tmp_path)).notes)
    assert "TIFF files with up to 4 pages: the first of each is read" in notes


@pytest.mark.parametrize("bits", [0, 12])
def test_a_tiff_whose_zero_is_white(bits):
    """Fails if 16 bits are left as they are stored, while Pillow inverts 8 bits."""
    image = bytearray(encode(Image.fromarray(DEEP), "TIFF"))
    at = image.index((262).to_bytes(2, "little") + b"\3\0")
    image[at + 8 : at + 10] = b"\0\0"
    got = in_tf_data(bytes(image), Decoding(1, bits))[..., 0]
    want = twelve_to_eight(4095 - DEEP) if bits else (65535 - DEEP) >> 8
    np.testing.assert_array_equal(got, want)


def test_arrays_of_sixteen_bits(tmp_path):
    """Fails if uint16 arrays are refused, wrap around, or their range is not said."""
    images = np.stack([DEEP] * 40)
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images[:5])
    source = open_source("npz", str(tmp_path / "a.npz"), bits=12)
    np.testing.assert_array_equal(source.images[3, ..., 0], twelve_to_eight(DEEP))
    dark = open_source("npz", str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(dark.images[3, ..., 0], DEEP >> 8)
    assert "set data.bits=12" in " ".join(dark.notes)
    with pytest.raises(ValueError, match="bits is 17; expected 0 to 16"):
        open_source("npz", str(tmp_path / "a.npz"), bits=17)


# Formats.


def test_an_animated_webp_is_never_tensorflows(monkeypatch):
    """Fails if TensorFlow, which writes past the end of its memory there, is given one."""
    given = []
    real = tf.io.decode_image
    monkeypatch.setattr(tf.io, "decode_image", lambda *a, **k: given.append(a) or real(*a, **k))
    more = [ImageOps.flip(FLOWER)]
    moving = encode(FLOWER, "WEBP", save_all=True, append_images=more, lossless=True)
    assert not decode._is_still_webp(tf.constant(moving))
    np.testing.assert_array_equal(
        decode.decode_image(tf.constant(moving), Decoding(3)), np.asarray(FLOWER)
    )
    assert not given
    for still in (encode(FLOWER, "WEBP"), encode(FLOWER.convert("RGBA"), "WEBP", lossless=True)):
        assert decode._is_still_webp(tf.constant(still))
    assert not decode._is_still_webp(tf.constant(b"RIFF\0\0\0\0WAVEfmt "))


def test_a_bomb_of_another_format_is_not_decoded():
    """Fails if the size of a TIFF is looked at after it was decoded."""
    image = bytearray(encode(Image.new("L", (8, 8)), "TIFF"))
    for tag in (256, 257):
        at = image.index(tag.to_bytes(2, "little") + b"\4\0")
        image[at + 8 : at + 12] = (20_000).to_bytes(4, "little")
    reason = stream.what_is_wrong(bytes(image), Decoding(3))
    assert reason == "does not decode: more than 89478485 pixels"


def test_heic():
    """Fails if HEIC is left out although its decoder is there, or not named where it is not."""
    if importlib.util.find_spec("pillow_heif") is None:
        assert ".heic" not in formats.suffixes()
        head = b"\0\0\0\x18ftypheic" + bytes(12)
        reason = stream.what_is_wrong(head, Decoding(3))
        assert reason == (
            "does not decode: a HEIC image, which pillow-heif reads: "
            "pip install 'byol_jax[formats]'"
        )
        return
    assert ".heic" in formats.suffixes()
    assert formats._register_heif()
    data = oriented(6, "HEIF")
    got = in_tf_data(data, Decoding(3, orient=True))  # the plugin turns it, if it has to be
    np.testing.assert_array_equal(got, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_without_pillow_the_fast_formats_are_read(monkeypatch):
    """Fails if Pillow is needed to read a JPEG, or its absence is not said."""
    for cached in (formats.suffixes, formats._register_heif):
        cached.cache_clear()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "PIL" else real(n))
    assert formats.suffixes() == formats.FAST
    with pytest.raises(ValueError, match="other formats are read by Pillow"):
        formats.size(encode(FLOWER, "GIF"))
    assert formats.orientation(oriented(6)) == 1
    formats.suffixes.cache_clear()
