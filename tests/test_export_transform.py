"""Exports in use: the transform that they state, in timm's, torchvision's and our own hands."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch_peers as peers
from PIL import Image
from sklearn.datasets import load_sample_images
from torch_resnet import trained_like

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import LoadedEncoder, load_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.models import make_encoder

PHOTO = load_sample_images().images[1]  # [427, 640, 3]


def photo(height, width):
    return PHOTO[100 : 100 + height, 50 : 50 + width]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, the encoder as exported) of a ResNet-18 for images of 64 px."""
    folder = tmp_path_factory.mktemp("exports") / "resnet18"
    params, stats = trained_like(make_encoder("resnet18"), seed=1)
    info = EncoderInfo(
        {"name": "resnet18"}, 64, (0.41, 0.47, 0.52), (0.21, 0.28, 0.33), 73, antialias=True
    )
    save_timm(folder, params, stats, info)
    return folder, LoadedEncoder(make_encoder("resnet18"), params, stats, info, 4)


def test_timms_own_transform_gives_our_pixels(exported):
    """Fails if config.json or `prepare` says another transform than the evaluation's.

    That the evaluation's pixels are Pillow's is in test_eval_antialias.py.
    """
    folder, encoder = exported
    model = peers.timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = peers.timm.data.resolve_model_data_config(model)
    transform = peers.timm.data.create_transform(**config, is_training=False)
    images = [photo(300, 400), photo(200, 161), photo(123, 130), photo(50, 71)]
    with torch.no_grad():
        theirs = model(torch.stack([transform(Image.fromarray(p)) for p in images])).numpy()
    prepared = np.stack([encoder.prepare(Image.fromarray(p)) for p in images])
    ours = encoder(prepared)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 0.99999


def test_the_card_gives_the_transform(exported, tmp_path):
    """Fails if the card's torchvision code is another transform, or hides how it was evaluated."""
    folder, encoder = exported
    card = (folder / "README.md").read_text()
    code = card[card.index("transform = transforms.Compose") :].split("# features")[0]
    names = {"transforms": peers.torchvision.transforms}
    exec(code, names)
    image = Image.fromarray(photo(200, 261))
    found = names["transform"](image).numpy().transpose(1, 2, 0)
    expected = (encoder.prepare(image) / 255 - encoder.info.mean) / encoder.info.std
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "resized to 73 px (bicubic, antialiased" in card
    assert "on the same pixels" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["byol_jax"]["transform"] == encoder.info.transform
    assert encoder.info.transform.startswith("Resize(73, BICUBIC, antialias=True), CenterCrop(64)")
    old = dataclasses.replace(encoder.info, antialias=False, resize=0)
    save_timm(tmp_path / "old", encoder.params, encoder.stats, old)
    card = (tmp_path / "old" / "README.md").read_text()
    assert "without antialiasing" in card
    assert "transforms.Resize(73, " in card  # floor(64 / 0.875), as timm's crop_pct
    save_encoder(tmp_path / "native", encoder.params, encoder.stats, encoder.info)
    assert load_encoder(tmp_path / "native").info.antialias is True
    described = json.loads((tmp_path / "native" / "encoder.json").read_text())
    assert described["transform"] == encoder.info.transform


def test_prepare(exported):
    """Fails if an array, a grey or a transparent picture is refused, or 16 bits are cut in half."""
    _, encoder = exported
    pixels = photo(90, 120)
    image = Image.fromarray(pixels).resize((97, 73), Image.Resampling.BICUBIC)  # 73 / 90 * 120
    expected = np.asarray(image.crop((16, 4, 80, 68)))  # (97 - 64) / 2 to even, (73 - 64) / 2
    np.testing.assert_array_equal(encoder.prepare(pixels), expected)
    np.testing.assert_array_equal(encoder.prepare(Image.fromarray(pixels)), expected)
    grey = Image.fromarray(pixels).convert("L")
    for picture in (grey, np.asarray(grey), np.asarray(grey)[..., None]):
        prepared = encoder.prepare(picture)
        assert prepared.shape == (64, 64, 3)
        assert (prepared == prepared[..., :1]).all()
    rgba = Image.fromarray(pixels).convert("RGBA")
    np.testing.assert_array_equal(encoder.prepare(rgba), expected)
    assert encoder.prepare(photo(40, 33)).shape == (64, 64, 3)  # a small one grows
    wrong = [pixels / 255, pixels.astype(np.uint16), pixels[None], pixels.transpose(2, 0, 1)]
    for picture in (*wrong, pixels[:0], Image.new("I;16", (80, 80)), "photo.jpg"):
        with pytest.raises(ValueError, match=r"expected (uint8|1, 3 or 4|a Pillow)|8 bits"):
            encoder.prepare(picture)


def test_what_a_stranger_passes(exported, tmp_path, monkeypatch):
    """Fails if an error does not say what to do, or is another library's."""
    folder, encoder = exported
    assert "resnet18, 512 features, for 64 px" in repr(encoder)
    with pytest.raises(ValueError, match=r"differ in size.*encoder\.prepare"):
        encoder([photo(64, 64), photo(60, 64)])
    with pytest.raises(ValueError, match="give its folder"):
        load_encoder(folder / "model.safetensors")
    with pytest.raises(ValueError, match="dtype is 'float64'; expected float32 or bfloat16"):
        load_encoder(folder, dtype="float64")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is a run.*python -m byol_jax\.export --workdir"):
        load_encoder(tmp_path / "run")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_encoder(f"~/{folder.name}").dim == 512
