"""Vision transformers in timm itself, both ways."""

import json

import jax
import numpy as np
import pytest
import torch
import torch_peers as peers
from torch_resnet import photo_crops, relative_error, torch_features

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import LoadedEncoder, load_encoder, read_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.experiment.build import _pretrained
from byol_jax.models import as_vit, make_encoder

MEAN, STD = (0.41, 0.47, 0.52), (0.21, 0.28, 0.33)
SMALL = {"dim": 48, "depth": 2, "heads": 4, "patch": 8, "image_size": 64, "maps": 1}
KINDS = {
    "fixed positions": {"patch": 16},
    "mean, no class token": {"pool": "mean", "class_token": False, "positions": "learned"},
    "registers": {"registers": 3, "layer_scale": 0.1, "positions": "learned"},
    "mean of the normed, registers": {"registers": 2, "pool": "normed_mean"},
}


def drawn(encoder, seed=0):
    random = np.random.RandomState(seed)
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.float32)
    shapes, _ = jax.eval_shape(encoder.init, jax.random.key(0), image)

    def fill(path, x):
        scale = 1 / np.sqrt(np.prod(x.shape[:-1])) if path[-1].key == "kernel" else 0.3
        offset = path[-1].key == "scale"
        return (offset + scale * random.randn(*x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def attention_of(model, images):
    """What the last block of a model of timm multiplies its values with."""
    kept, last = [], model.blocks[-1].attn
    last.fused_attn = False
    hook = last.attn_drop.register_forward_hook(lambda *args: kept.append(args[2].numpy()))
    torch_features(model, images, EncoderInfo({}, 64, MEAN, STD))
    hook.remove()
    return kept[0]


@pytest.mark.parametrize("kind", KINDS)
def test_timm_reads_an_export(kind, tmp_path):
    """Fails if queries, keys and values are exchanged, the class token's row of the positions or
    the pooling is another, or positions of another image size are resampled otherwise.
    """
    encoder = make_encoder("vit_tiny", **{**SMALL, **KINDS[kind]})
    params = drawn(encoder)
    info = EncoderInfo(encoder.config, 64, MEAN, STD, resize=72)
    save_timm(tmp_path / "out", params, {}, info)
    ours = LoadedEncoder(encoder, params, {}, info, 4)
    model = peers.timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    for size in (96, 64) if kind == "registers" else (96,):
        images = photo_crops(4, size)
        theirs = torch_features(model, images, info)
        assert theirs.std(0).max() / np.abs(theirs).max() > 0.02
        error = relative_error(ours(images), theirs)
        print(f"parity {kind} {size} px timm {peers.timm.__version__}: {error:.1e}")
        assert error < 1e-4
    if kind == "registers":
        x = ((images / 255 - MEAN) / STD).astype(np.float32)
        own = jax.jit(as_vit(encoder, "").attention)(params, x)
        np.testing.assert_allclose(own, attention_of(model, images), atol=1e-5)
        # A test of the tests: one weight of a hundred thousand
        model.blocks[1].mlp.fc2.weight.data[7, 5] += 0.3
        assert relative_error(ours(images), torch_features(model, images, info)) > 1e-4
        config = peers.timm.data.resolve_model_data_config(model)
        assert (tuple(config["mean"]), tuple(config["std"])) == (MEAN, STD)
        assert tuple(config["input_size"]) == (3, 64, 64)
    again, back, _, read = read_encoder(tmp_path / "out")
    assert (again.config, read.encoder) == (encoder.config, encoder.config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


TIMM = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},  # LayerScale, positions of patches alone
    "vit_base_patch16_gap_224": {"depth": 1},  # no class token, the norm before the mean
    "vit_base_patch16_reg4_gap_256": {},  # registers, the mean before the norm
    "vit_small_patch16_224": {"num_heads": 12, "reg_tokens": 2, "depth": 1},
}


@pytest.mark.parametrize("name", TIMM)
def test_a_folder_of_timm_is_read(name, tmp_path):
    """Fails if the positions of the class token are lost, or heads are those of another size."""
    small = {"embed_dim": 48, "img_size": 56, "num_classes": 5}
    patch = {"depth": 2, "patch_size": 14, "num_heads": 4, **TIMM[name]}
    torch.manual_seed(0)
    model = peers.timm.create_model(name, **small, **patch)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    arguments = {k: v for k, v in {**small, **patch}.items() if k != "num_classes"}
    peers.timm.models.save_for_hf(model, tmp_path, safe_serialization="both", model_args=arguments)
    encoder = load_encoder(tmp_path)
    assert (encoder.info.image_size, encoder.encoder.config["positions"]) == (56, "learned")
    model.reset_classifier(0)
    images = photo_crops(4, 56)
    assert relative_error(encoder(images), torch_features(model, images, encoder.info)) < 1e-4
    described = json.loads((tmp_path / "config.json").read_text())
    assert list(encoder.info.mean) == described["pretrained_cfg"]["mean"]
    # And at another size: timm resamples what it reads, as a run that starts from it does.
    model = peers.timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, img_size=84, num_classes=0
    )
    config = {**encoder.encoder.config, "image_size": 84}
    start = _pretrained(make_encoder(**config), str(tmp_path))
    params, stats = start.init(None, None)
    ours = LoadedEncoder(start, params, stats, encoder.info, 4)
    images = photo_crops(4, 84)
    assert relative_error(ours(images), torch_features(model, images, encoder.info)) < 1e-4
    with pytest.raises(ValueError, match=r"has vit\.heads .*, the config 2; make them equal"):
        _pretrained(make_encoder(**{**config, "heads": 2}), str(tmp_path))
    factors = {**config, "layer_scale": 0.0 if config["layer_scale"] else 1.0}
    with pytest.raises(ValueError, match=r"vit\.layer_scale .* both or neither must be 0\.0"):
        _pretrained(make_encoder(**factors), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, s: c.update(architecture="vit_giant_patch14_224"), "'vit_giant_patch14_224' is"),
        (lambda c, s: s.pop("pos_embed"), "no square patch projection or no position embedding"),
        (lambda c, s: s.pop("cls_token"), "but there is no class token"),
        (lambda c, s: s.update(norm_pre=np.zeros(3, np.float32)), "extra norm_pre"),
        (lambda c, s: s.update(pos_embed=s["pos_embed"][:, :12]), r"\(1, 12, 48\), expected"),
        (lambda c, s: s.pop("blocks.0.mlp.fc1.bias"), r"missing blocks\.0\.mlp\.fc1\.bias"),
        (lambda c, s: c.update(model_args=[1]), "pretrained_cfg and model_args are not JSON"),
        (lambda c, s: c["model_args"].update(num_heads="3"), r"encoder\.heads is '3'; expected a"),
        (
            lambda c, s: c["pretrained_cfg"].update(mean="x"),
            "could not convert|wrong type|not lists",
        ),
    ],
)
def test_what_is_not_read(change, message, tmp_path):
    """Fails if another network is taken for a plain transformer, or ends in a traceback."""
    import safetensors.numpy

    model = peers.timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=1, img_size=64)
    peers.timm.models.save_for_hf(
        model, tmp_path, safe_serialization=True, model_args={"num_heads": 3}
    )
    config = json.loads((tmp_path / "config.json").read_text())
    state = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    change(config, state)
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        read_encoder(tmp_path)


def test_what_has_no_form_in_timm(tmp_path):
    """Fails if grey images or float64 are written as something else."""
    refused = {"channels": 1}, {"dtype": "float64"}
    for options, message in zip(refused, ("3 channels, not 1", "float64 param"), strict=True):
        config = {"name": "vit_tiny", **SMALL, **options}
        channels = options.get("channels", 3)
        info = EncoderInfo(config, 64, (0.5,) * channels, (0.5,) * channels)
        with pytest.raises(ValueError, match=message):
            save_timm(tmp_path / "out", {}, {}, info)
