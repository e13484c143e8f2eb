"""Encoder exports in the project's own form, and `load_encoder` on any of them."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from byol_jax.convert import load, native, timm
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import load_encoder, read_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.manifest import file_sha256
from byol_jax.models import make_encoder

# Same padding and a group of options that are not the defaults: all must come back.
CONFIG = {"name": "tiny", "width": 0.5, "padding": "same", "dtype": "bfloat16"}
MEAN, STD = (0.41, 0.47, 0.52), (0.21, 0.28, 0.33)
INFO = EncoderInfo(CONFIG, 32, MEAN, STD, resize=36, step=12, method="byol", source="cifar10")


def arrays(config):
    """Parameters and statistics of an encoder, none as initialised."""
    encoder = make_encoder(**config)
    image = jax.ShapeDtypeStruct((1, 1, 32, 32, encoder.channels), np.float32)
    draw = np.random.default_rng(0)

    def fill(leaf):
        if len(leaf.shape) == 4:
            fan_in = np.prod(leaf.shape[:3])
            return (draw.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        return draw.uniform(0.2, 1, leaf.shape).astype(np.float32)

    return jax.tree.map(fill, jax.eval_shape(encoder.init, jax.random.key(0), image))


def photos(count, size):
    folder = Path(sklearn.datasets.__file__).parent / "images"
    with Image.open(folder / "flower.jpg") as photo:
        pixels = np.asarray(photo)
    return np.stack([pixels[9 * i : 9 * i + size, 100 : 100 + size] for i in range(count)])


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """(folder, params, stats); tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("native") / "encoder"
    params, stats = arrays(CONFIG)
    save_encoder(folder, params, stats, INFO)
    return folder, params, stats


@pytest.fixture
def copy(export, tmp_path):
    return Path(shutil.copytree(export[0], tmp_path / "copy"))


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def forge(folder, change):
    """Edit encoder.json and make the manifest agree, as a file of another version would."""
    edit(folder / "encoder.json", change)
    sha256 = file_sha256(folder / "encoder.json")
    edit(folder / "manifest.json", lambda sums: sums.update({"encoder.json": sha256}))


def test_read_back(export):
    """Fails if arrays change by a bit, or if padding, width or any field is not written."""
    folder, params, stats = export
    encoder, *trees, info = read_encoder(folder)
    assert encoder.config == make_encoder(**CONFIG).config
    assert info == dataclasses.replace(INFO, encoder=encoder.config)
    jax.tree.map(np.testing.assert_array_equal, tuple(trees), (params, stats))
    assert {a.dtype.name for a in jax.tree.leaves(trees)} == {"float32"}
    # Only the export: no temporary folder, no file beside it.
    assert [p.name for p in folder.parent.iterdir()] == ["encoder"]


def test_features_are_the_encoders(export):
    """Fails if mean/std are not applied, 255 is forgotten, or running statistics are not used."""
    folder, params, stats = export
    features = load_encoder(folder, batch_size=4)
    images = photos(6, 32)
    got = features(images)
    x = (images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    plain = make_encoder(**{**CONFIG, "dtype": "float32"})
    want = plain.apply(params, stats, jnp.asarray(x)[:, None], False)[0].pooled[:, 0]
    assert got.shape == (6, 64)
    assert got.dtype == np.float32
    assert np.ptp(got, 0).max() > 0.01
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert (features.dim, features.info.step, features.encoder.channels) == (64, 12, 3)


def test_trained_dtype_on_request(export):
    """Fails if `dtype` is ignored: bfloat16 keeps three digits, not seven."""
    images = photos(2, 32)
    full = load_encoder(export[0])(images)
    half = load_encoder(export[0], dtype="bfloat16")(images)
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.05)
    assert np.abs(half - full).max() > 1e-5


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_equal_bytes(export, kind):
    """Fails if floats are divided by 255 too."""
    features = load_encoder(export[0], batch_size=2)
    images = photos(2, 32)
    tolerance = 1e-2 if kind is np.float16 else 1e-5
    floats = (images / 255).astype(kind)
    np.testing.assert_allclose(features(floats), features(images), rtol=tolerance, atol=tolerance)


def test_any_number_and_size(export):
    """Fails if the last chunk is not cut back, or its filling moves a feature."""
    features = load_encoder(export[0], batch_size=4)
    images = photos(7, 32)
    whole = features(images)
    np.testing.assert_allclose(features(images[:5]), whole[:5], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(features(images[6:]), whole[6:], rtol=1e-6, atol=1e-6)
    assert features(images[:0]).shape == (0, 64)
    assert features(photos(3, 45)[:, :, :20]).shape == (3, 64)


def test_one_compile_a_size(export):
    """Fails if the last chunk is computed at its own length."""
    features = load_encoder(export[0], batch_size=4)
    for count in (9, 4, 1, 3):
        features(photos(count, 32))
    assert features._forward._cache_size() == 1


def nan_pixels():
    images = np.full((1, 8, 8, 3), 0.5, np.float32)
    images[0, 0, 0, 0] = np.nan
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"One image .* images\[None\]"),
        (np.zeros((2, 8, 8), np.uint8), r"Grey .*np.repeat\(images\[..., None\], 3, -1\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"Grey .*np.repeat\(images, 3, -1\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"Channels come first.*transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), "Wrong shape"),
        (np.zeros((2, 0, 8, 3), np.uint8), "Wrong shape"),
        (np.zeros((2, 2, 8, 8, 3), np.uint8), "Wrong shape"),
        (np.zeros((2, 8, 8, 3), np.int64), r"Wrong type.*astype\(np.uint8\)"),
        (np.full((2, 8, 8, 3), 255.0), "range from 255 to 255.*divide by 255"),
        (np.full((2, 8, 8, 3), -0.1), "range from -0.1 to -0.1.*not yet normalised"),
        (nan_pixels(), "NaN"),
    ],
)
def test_wrong_images_are_refused(export, images, message):
    """Fails if any one check of `_checked` is taken out."""
    with pytest.raises(ValueError, match=message):
        load_encoder(export[0])(images)


def test_rounding_of_a_resize_is_let_through(export):
    """Fails if the range is checked without slack."""
    images = np.ones((1, 8, 8, 3)) + 5e-7
    images[0, 0] = -5e-7
    assert np.isfinite(load_encoder(export[0])(images)).all()


def test_one_channel(tmp_path):
    """Fails if three channels are taken for granted anywhere."""
    config = {"name": "tiny", "channels": 1}
    save_encoder(tmp_path / "out", *arrays(config), EncoderInfo(config, 8, (0.3,), (0.4,)))
    features = load_encoder(tmp_path / "out")
    assert features(sklearn.datasets.load_digits().images[:3, ..., None] / 16).shape == (3, 128)


def test_timm_form_gives_the_same_features(tmp_path):
    """Fails if `read_encoder` does not know timm's folders, or their normalisation differs."""
    config = {"name": "resnet18"}
    params, stats = arrays(config)
    info = dataclasses.replace(INFO, encoder=config)
    save_encoder(tmp_path / "native", params, stats, info)
    timm.save_timm(tmp_path / "timm", params, stats, info)
    a, b = (load_encoder(tmp_path / form, batch_size=2) for form in ("native", "timm"))
    np.testing.assert_array_equal(a(photos(2, 40)), b(photos(2, 40)))
    assert a.info == b.info


def test_nothing_is_overwritten(export, tmp_path):
    """Fails if a folder with something in it is taken; an empty one is fine."""
    _, params, stats = export
    (tmp_path / "empty").mkdir()
    save_encoder(tmp_path / "empty", params, stats, INFO)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("kept")
    with pytest.raises(ValueError, match="exists already, and nothing is overwritten"):
        save_encoder(tmp_path / "full", params, stats, INFO)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]


def test_nothing_is_left_of_a_failed_write(export, tmp_path, monkeypatch):
    """Fails if what was written is not compared bit for bit, or the temporary folder stays."""
    _, params, stats = export
    read = native._read_arrays

    def faulty(folder, encoder):
        tree = read(folder, encoder)
        tree["params"]["stage1_0_conv"]["kernel"][0, 0, 0, 0] *= np.float32(1 + 1e-6)
        return tree

    monkeypatch.setattr(native, "_read_arrays", faulty)
    with pytest.raises(OSError, match="reads back differently"):
        save_encoder(tmp_path / "out", params, stats, INFO)
    assert not list(tmp_path.iterdir())


def test_wrong_arrays_are_all_listed(export, tmp_path):
    """Fails if only the first fault is named, or type and finiteness are not looked at."""
    _, params, stats = export
    params = {k: dict(v) for k, v in params.items()}
    del params["stage1_0_bn"]
    params["stage9"] = {"kernel": np.zeros(3, np.float32)}
    params["stage1_0_conv"]["kernel"] = np.zeros((3, 3, 3, 5), np.float32)
    params["stage1_1_bn"]["scale"] = np.ones(16, np.float16)
    params["stage1_1_bn"]["bias"] = np.full(16, np.nan, np.float32)
    with pytest.raises(ValueError, match="does not fit encoder 'tiny'") as error:
        save_encoder(tmp_path / "out", params, stats, INFO)
    for fault in (
        "missing params/stage1_0_bn/bias",
        "missing params/stage1_0_bn/scale",
        "extra params/stage9/kernel",
        "params/stage1_0_conv/kernel has shape (3, 3, 3, 5), expected (3, 3, 3, 16)",
        "params/stage1_1_bn/scale is float16",
        "params/stage1_1_bn/bias has values that are not finite",
    ):
        assert fault in str(error.value)
    assert not list(tmp_path.iterdir())


def test_any_damaged_file_is_named(export, tmp_path):
    """Fails if files are not hashed: orbax restores a flipped bit as another number, in silence."""
    folder = export[0]
    names = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(names) > 5
    for i, name in enumerate(names):
        for fault in ("flip", "cut", "gone"):
            copy = shutil.copytree(folder, tmp_path / f"{i}{fault}")
            data = bytearray((copy / name).read_bytes())
            data[len(data) // 2] ^= 1
            (copy / name).write_bytes(data if fault == "flip" else data[:-3])
            if fault == "gone":
                (copy / name).unlink()
            # A bit of the manifest may be in the sum of another file, which is then named.
            expected = "is damaged|missing" if name.name == "manifest.json" else name.name
            with pytest.raises(ValueError, match=expected):
                read_encoder(copy)


def test_arrays_of_another_encoder(copy):
    """Fails if arrays are not checked against the description on loading."""
    forge(copy, lambda v: v["info"]["encoder"].update(width=1.0))
    with pytest.raises(ValueError, match=r"\(3, 3, 3, 16\), expected \(3, 3, 3, 32\)"):
        read_encoder(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(version=2), "format version 2; this byol_jax reads 1"),
        (lambda v: v.update(format="other"), "not an encoder written by byol_jax"),
        (lambda v: v.pop("info"), "does not describe an encoder"),
        (lambda v: v["info"].pop("mean"), r"missing keys \['mean'\]"),
        (lambda v: v["info"].update(colour=1), r"unknown keys \['colour'\]"),
        (lambda v: v["info"].update(mean=[0.5]), "do not fit an encoder of 3 channels"),
        (lambda v: v["info"].update(mean=3), "wrong type"),
        (lambda v: v["info"]["encoder"].update(spin=1), r"unknown encoder keys \['spin'\]"),
        (
            lambda v: v["info"]["encoder"].update(width="2"),
            "encoder.width is '2'; expected a float",
        ),
        (lambda v: v["info"]["encoder"].update(name="vgg"), "encoder.name is 'vgg'"),
    ],
)
def test_wrong_descriptions_are_refused(copy, change, message):
    """Fails if the check behind the message is taken out."""
    forge(copy, change)
    with pytest.raises(ValueError, match=message):
        read_encoder(copy)


def test_what_is_not_an_export(tmp_path):
    """Fails if a missing folder or another folder ends in another kind of error."""
    with pytest.raises(ValueError, match="is not a folder"):
        read_encoder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not an encoder export"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (0.2, float("nan"), 0.2)}, "finite"),
        ({"image_size": 0}, "image_size is 0"),
        ({"resize": 31}, "resize is 31"),
    ],
)
def test_wrong_values_are_refused_at_once(fields, message):
    """Fails if the check behind the message is taken out."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(INFO, **fields)


def test_batch_size_is_checked(export):
    """Fails if 0 is let through: it would give no features at all."""
    with pytest.raises(ValueError, match="batch_size is 0"):
        load.load_encoder(export[0], batch_size=0)
