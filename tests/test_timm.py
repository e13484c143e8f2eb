"""Exports for timm and torchvision, against an independent ResNet in torch."""

import json
import math
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from torch_resnet import TorchResNet, photo_crops, relative_error, torch_features, trained_like

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import LoadedEncoder, read_encoder
from byol_jax.convert.timm import from_state_dict, save_timm, to_state_dict
from byol_jax.models import make_encoder

# Not ImageNet's, so that an export which forgets the run's own is seen.
MEAN, STD = (0.41, 0.47, 0.52), (0.21, 0.28, 0.33)


def info_for(name, **fields):
    return EncoderInfo(encoder={"name": name}, image_size=224, mean=MEAN, std=STD, **fields)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """name -> (folder, params, stats, torch model with the weights of that folder)."""
    made = {}
    for name in ("resnet18", "resnet50"):
        folder = tmp_path_factory.mktemp("exports") / name
        params, stats = trained_like(make_encoder(name), seed=1)
        save_timm(folder, params, stats, info_for(name, method="byol", source="photos", step=7))
        model = TorchResNet(int(name.removeprefix("resnet")))
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        made[name] = folder, params, stats, model
    return made


def original(exports, name):
    """The JAX encoder with the weights as trained, not read back: two wrongs must not agree."""
    folder, params, stats, model = exports[name]
    encoder, *_, info = read_encoder(folder)
    return LoadedEncoder(encoder, params, stats, info, 4), model


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_torch(exports, name, size):
    """Fails if kernels are transposed (2, 3, ...), scale and bias swap, or mean/std are ImageNet's.

    An odd size is where padding on one side and on both differ.
    """
    encoder, model = original(exports, name)
    images = photo_crops(4, size)
    ours, theirs = encoder(images), torch_features(model, images, encoder.info)
    assert ours.shape == (4, encoder.dim)
    # The oracle must see the images: features that hardly vary would agree whatever happens.
    assert (theirs.std(0).max() / np.abs(theirs).max()) > 0.02
    assert relative_error(ours, theirs) < 1e-4


def test_one_wrong_weight_is_seen(exports):
    """A test of the tests: the bound of 1e-4 is tight enough for one weight of 11 million."""
    encoder, model = original(exports, "resnet18")
    images = photo_crops(4, 224)
    ours = encoder(images)
    changed = TorchResNet(18)
    changed.load_state_dict(model.state_dict())
    weight = changed.layer3[1].conv2.weight.data
    weight[3, 5, 1, 1] += weight.std()
    assert relative_error(ours, torch_features(changed, images, encoder.info)) > 1e-4


@pytest.mark.parametrize(
    ("name", "keys", "parameters"), [("resnet18", 120, 11_176_512), ("resnet50", 318, 23_508_032)]
)
def test_keys_and_counts(exports, name, keys, parameters):
    """Fails if a counter is left out, or a shortcut keeps its own name.

    The numbers are torchvision's without fc: 11,689,512 - 513,000 and 25,557,032 - 2,049,000.
    """
    folder, _, _, model = exports[name]
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    assert len(state) == keys
    assert state.keys() == model.state_dict().keys()
    trained = [v for k, v in state.items() if not k.endswith(("mean", "_var", "tracked"))]
    assert sum(v.size for v in trained) == parameters
    assert {v.dtype.name for k, v in state.items() if not k.endswith("tracked")} == {"float32"}


def test_inverse(exports):
    """Fails if `from_state_dict` transposes kernels to [in, out] the wrong way round."""
    _, params, stats, _ = exports["resnet18"]
    config = {"name": "resnet18"}
    back = from_state_dict(to_state_dict(params, stats, config), config)
    jax.tree.map(np.testing.assert_array_equal, back, (params, stats))


def test_read_back(exports):
    """Fails if the description is not written in full, or step and source are dropped."""
    folder, params, stats, _ = exports["resnet18"]
    encoder, *trees, info = read_encoder(folder)
    assert encoder.config == make_encoder("resnet18").config == info.encoder
    assert (info.mean, info.std, info.image_size, info.resize) == (MEAN, STD, 224, 0)
    assert (info.method, info.source, info.step) == ("byol", "photos", 7)
    jax.tree.map(np.testing.assert_array_equal, tuple(trees), (params, stats))


def test_every_wrong_key_is_listed(exports):
    """Fails if only the first fault is named, or fc is dropped in silence."""
    _, params, stats, _ = exports["resnet18"]
    config = {"name": "resnet18"}
    state = to_state_dict(params, stats, config)
    whole = {**state, "fc.weight": np.ones((5, 512), np.float32), "fc.bias": np.ones(5, np.float32)}
    with pytest.raises(ValueError, match=r"extra fc\.bias; extra fc\.weight.*ignore_head=True"):
        from_state_dict(whole, config)
    from_state_dict(whole, config, ignore_head=True)

    del state["layer2.0.downsample.1.running_var"], state["conv1.weight"]
    state["bn1.bias"] = np.zeros(65, np.float32)
    state["bn1.weight"] = state["bn1.weight"].astype(np.float64)
    state["layer9.0.conv1.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="resnet18") as error:
        from_state_dict(state, config)
    for fault in (
        "missing layer2.0.downsample.1.running_var",
        "missing conv1.weight",
        "bn1.bias has shape (65,), expected (64,)",
        "bn1.weight is float64",
        "extra layer9.0.conv1.weight",
    ):
        assert fault in str(error.value)


def test_half_precision_comes_in_exactly(exports):
    """Fails if float16 is refused or its values change; and counters may be absent."""
    _, params, stats, _ = exports["resnet18"]
    config = {"name": "resnet18"}
    state = to_state_dict(params, stats, config)
    half = {k: v.astype(np.float16) for k, v in state.items() if not k.endswith("tracked")}
    got, _ = from_state_dict(half, config)
    want = params["conv1"]["kernel"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got["conv1"]["kernel"], want)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"name": "resnet50", "padding": "same"}, "padding 'same'"),
        ({"name": "resnet18", "stem": "cifar"}, "7x7 with stride 2"),
        ({"name": "resnet50", "width": 2.0}, "widens every layer"),
        ({"name": "resnet34", "project_first": True}, "projection shortcut"),
        ({"name": "resnet18", "channels": 1}, "3 channels, not 1"),
        ({"name": "resnet18", "dtype": "float64"}, "float64"),
        ({"name": "tiny"}, "no such network"),
    ],
)
def test_what_is_not_exact_is_refused(tmp_path, config, reason):
    """Fails if any one of the conditions of `require_exact` is taken out."""
    channels = config.get("channels", 3)
    info = EncoderInfo(config, 224, MEAN[:channels], STD[:channels])
    for attempt in (
        lambda: save_timm(tmp_path / "out", {}, {}, info),
        lambda: to_state_dict({}, {}, config),
        lambda: from_state_dict({}, config),
    ):
        with pytest.raises(ValueError, match=rf"{reason}.*--format orbax"):
            attempt()
    assert not list(tmp_path.iterdir())


def test_what_leaves_weights_alone_is_exported(exports):
    """Fails if bfloat16, drop path, remat or a zero start is refused, or `project_first` of an R50.

    An R50's first stage has a projection in any case.
    """
    _, params, stats, _ = exports["resnet50"]
    same = {"dtype": "bfloat16", "drop_path": 0.1, "remat": True, "zero_init_last": True}
    plain = to_state_dict(params, stats, {"name": "resnet50"})
    found = to_state_dict(params, stats, {"name": "resnet50", "project_first": True, **same})
    assert found.keys() == plain.keys()
    assert all(np.array_equal(found[k], plain[k]) for k in plain)


@pytest.mark.parametrize(
    ("size", "resize"), [(224, 0), (224, 256), (32, 32), (128, 186), (224, 354)]
)
def test_config(tmp_path, exports, size, resize):
    """Fails if crop_pct is plain size / resize (128 of 186 gives 185 in timm), or ImageNet's mean.

    timm's shorter side is floor(size / crop_pct).
    """
    _, params, stats, _ = exports["resnet18"]
    info = EncoderInfo({"name": "resnet18"}, size, MEAN, STD, resize=resize)
    save_timm(tmp_path / "out", params, stats, info)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (
        "resnet18",
        0,
        512,
    )
    timm = config["pretrained_cfg"]
    assert timm["input_size"] == [3, size, size]
    assert (tuple(timm["mean"]), tuple(timm["std"])) == (MEAN, STD)
    assert math.floor(size / timm["crop_pct"]) == (resize or 256)


def test_card(exports):
    """Fails if the card lacks the run's normalisation or facts, or a placeholder is left."""
    card = (exports["resnet50"][0] / "README.md").read_text()
    for part in (
        "0.41, 0.47, 0.52",
        "0.21, 0.28, 0.33",
        "byol",
        "photos",
        "| 7 |",
        "2048 features",
    ):
        assert part in card
    assert not re.search(r"\{\w*\}", card)
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(code, "README.md", "exec")


def test_a_damaged_or_foreign_folder_is_refused(tmp_path, exports):
    """Fails if the SHA-256 of the weights is not checked: one bit loads as another number."""
    _, params, stats, _ = exports["resnet18"]
    folder = tmp_path / "out"
    save_timm(folder, params, stats, info_for("resnet18"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    with pytest.raises(ValueError, match="exists already"):
        save_timm(folder, params, stats, info_for("resnet18"))

    data = bytearray((folder / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        read_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    for ours in ({**config["byol_jax"], "version": 2}, None):
        (folder / "config.json").write_text(json.dumps({**config, "byol_jax": ours}))
        with pytest.raises(ValueError, match="was not written by this version of byol_jax"):
            read_encoder(folder)


def test_nothing_is_left_of_a_failed_write(tmp_path, exports, monkeypatch):
    """Fails if weights are not read back, or the temporary folder stays."""
    _, params, stats, _ = exports["resnet18"]
    write = safetensors.numpy.save

    def faulty(state, **kwargs):
        return write({**state, "bn1.bias": state["bn1.bias"] + 1}, **kwargs)

    monkeypatch.setattr(safetensors.numpy, "save", faulty)
    with pytest.raises(OSError, match="reads back differently"):
        save_timm(tmp_path / "out", params, stats, info_for("resnet18"))
    assert not list(tmp_path.iterdir())


def test_others_may_read_it(tmp_path, exports):
    """Fails with safetensors' save_file or tempfile.mkdtemp: both shut out all but the owner."""
    _, params, stats, _ = exports["resnet18"]
    (tmp_path / "plain").write_text("")
    save_timm(tmp_path / "out", params, stats, info_for("resnet18"))
    usual = (tmp_path / "plain").stat().st_mode & 0o777
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {usual}
    assert (tmp_path / "out").stat().st_mode & usual == usual


def test_arrays_that_are_not_contiguous(tmp_path, exports):
    """Fails if `ascontiguousarray` is left out: safetensors then writes other numbers."""
    _, params, stats, _ = exports["resnet18"]
    turned = jax.tree.map(lambda a: np.array(a.T, order="C").T, params)
    state = to_state_dict(turned, stats, {"name": "resnet18"})
    assert all(v.flags.c_contiguous for v in state.values())
    want = params["conv1"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(state["conv1.weight"], want)
