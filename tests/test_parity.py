"""Exports in timm and torchvision themselves."""

import re

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torch_peers as peers
from torch_resnet import (
    TorchResNet,
    photo_crops,
    relative_error,
    torch_features,
    trained_like,
)

from byol_jax.convert.info import EncoderInfo, expected_shapes
from byol_jax.convert.load import LoadedEncoder
from byol_jax.convert.timm import TORCHVISION, save_timm, to_state_dict
from byol_jax.models import make_encoder

MEAN, STD = (0.41, 0.47, 0.52), (0.21, 0.28, 0.33)
# Of either kind of block, and the deepest. The others differ in the number of blocks alone.
NAMES = ("resnet18", "resnet50", "resnet200")
DRAWS = ("kaiming_normal_", "kaiming_uniform_", "uniform_", "normal_", "trunc_normal_")


@pytest.fixture(autouse=True)
def no_draws(monkeypatch):
    """Models of torch that are given weights need not draw their own, which takes longer."""
    for name in DRAWS:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture(scope="module", params=NAMES)
def export(request, tmp_path_factory):
    """(name, folder, features by the JAX encoder) of an export with random batch norms."""
    name = request.param
    folder = tmp_path_factory.mktemp("parity") / name
    encoder = make_encoder(name)
    params, stats = trained_like(encoder, seed=1)
    info = EncoderInfo({"name": name}, 224, MEAN, STD, resize=240)
    save_timm(folder, params, stats, info)
    # With the weights as trained, not read back: two wrongs must not agree.
    return name, folder, features(LoadedEncoder(encoder, params, stats, info, 4))


def features(encoder):
    """By the JAX encoder, of photographs by their size: an odd one, where padding on one side and
    on both differ, and for a network of either kind of block 224 px.
    """
    found = {}
    large = encoder.info.encoder["name"] in ("resnet18", "resnet50")
    for size in (65, 224) if large else (65,):
        # Operation by operation the deep networks take a tenth of the time that XLA needs for them.
        with jax.disable_jit(size == 65):
            found[size] = encoder(photo_crops(4, size))
    return found


def errors(ours, model):
    """Relative errors of a model of torch against `features`."""
    info = EncoderInfo({}, 224, MEAN, STD)
    return [
        relative_error(found, torch_features(model, photo_crops(4, size), info))
        for size, found in ours.items()
    ]


def test_timm(export):
    """Fails if config.json names another architecture, or keys differ from timm's."""
    name, folder, ours = export
    model = peers.timm.create_model(f"local-dir:{folder}", pretrained=True)
    found = errors(ours, model)
    print(f"parity {name} timm {peers.timm.__version__}: {found}")
    assert max(found) < 1e-4
    # Strict: with num_classes 0 timm's model has these keys and no others.
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    config = peers.timm.data.resolve_model_data_config(model)
    assert (tuple(config["mean"]), tuple(config["std"])) == (MEAN, STD)
    transform = peers.timm.data.create_transform(**config, is_training=False)
    assert transform.transforms[0].size == 240
    assert tuple(transform.transforms[1].size) == (224, 224)


def test_torchvision(export):
    """Fails if a key differs from torchvision's."""
    name, folder, ours = export
    if name not in TORCHVISION:
        assert not hasattr(peers.torchvision.models, name)
        return
    model = getattr(peers.torchvision.models, name)()
    state = safetensors.torch.load_file(folder / "model.safetensors")
    loaded = model.load_state_dict(state, strict=False)
    assert sorted(loaded.missing_keys) == ["fc.bias", "fc.weight"]
    assert not loaded.unexpected_keys
    # The always-run oracle names its parts as torchvision does.
    own = TorchResNet(int(name.removeprefix("resnet"))).state_dict()
    assert [*own] == [k for k in model.state_dict() if not k.startswith("fc.")]
    model.fc = torch.nn.Identity()
    found = errors(ours, model)
    print(f"parity {name} torchvision {peers.torchvision.__version__}: {found}")
    assert max(found) < 1e-4


@pytest.mark.parametrize("name", sorted({*TORCHVISION} - {*NAMES}))
def test_the_other_depths_have_their_keys(name, monkeypatch):
    """Fails if a block is missing, or has another name or shape than torchvision's and timm's."""
    monkeypatch.setattr("byol_jax.convert.timm.check_arrays", lambda *_: None)  # a second tracing
    shapes = expected_shapes(make_encoder(name))
    arrays = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    found = {key: array.shape for key, array in to_state_dict(*arrays, {"name": name}).items()}
    with torch.device("meta"):
        theirs = getattr(peers.torchvision.models, name)(), peers.timm.create_model(name)
    for model in theirs:
        state = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        assert found == {k: shape for k, shape in state.items() if not k.startswith("fc.")}


@pytest.mark.parametrize("export", ["resnet18"], indirect=True)
def test_card_runs(export):
    """Fails if the code of the model card does not run as it stands."""
    _, folder, ours = export
    assert peers.timm, "the card imports it"
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for code in blocks[:2]:
        names = {}
        exec(code.replace("PATH", str(folder)), names)
        found = errors(ours, names["model"])
        assert max(found) < 1e-4
    assert "byol_jax.load_encoder" in blocks[2]


@pytest.mark.parametrize("export", ["resnet50"], indirect=True)
def test_one_wrong_number_is_seen(export):
    """A test of the tests: one running mean of a deep network, off by a tenth."""
    _, folder, ours = export
    model = peers.timm.create_model(f"local-dir:{folder}", pretrained=True)
    model.layer2[1].bn2.running_mean.data[7] += 0.1
    assert min(errors(ours, model)) > 1e-4
