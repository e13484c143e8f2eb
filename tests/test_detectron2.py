"""Weights for detectron2: its names and shapes, written out here, and the numbers themselves."""

import io
import json
import pickle
import pickletools

import jax
import numpy as np
import pytest
import yaml
from torch_resnet import trained_like

from byol_jax.convert.detectron2 import detectron2_name, pickled, save_detectron2, to_detectron2
from byol_jax.convert.info import EncoderInfo, expected_shapes
from byol_jax.convert.load import read_encoder
from byol_jax.convert.timm import to_state_dict
from byol_jax.models import make_encoder

MEAN, STD = (0.41, 0.47, 0.52), (0.21, 0.28, 0.33)
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def expected(depth):
    """{name: shape} of detectron2's ResNet backbone with NORM "SyncBN", without its classifier.

    Written from detectron2:modeling/backbone/resnet.py: a stem of 64 channels, stages res2 to res5
    of 64, 128, 256, 512 (bottlenecks: 4 times as many), a shortcut where the channels change.
    """
    shapes = {}

    def conv(name, out, inp, side):
        shapes[f"{name}.weight"] = (out, inp, side, side)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (out,)
        shapes[f"{name}.norm.num_batches_tracked"] = ()

    conv("stem.conv1", 64, 3, 7)
    channels = 64
    for stage, count in enumerate(BLOCKS[depth]):
        inner = 64 * 2**stage
        out = inner if depth < 50 else 4 * inner
        for block in range(count):
            where = f"res{stage + 2}.{block}"
            if depth < 50:
                conv(f"{where}.conv1", inner, channels, 3)
                conv(f"{where}.conv2", inner, inner, 3)
            else:
                conv(f"{where}.conv1", inner, channels, 1)
                conv(f"{where}.conv2", inner, inner, 3)
                conv(f"{where}.conv3", out, inner, 1)
            if channels != out:
                conv(f"{where}.shortcut", out, channels, 1)
            channels = out
    return shapes


@pytest.fixture(scope="module")
def trained():
    return trained_like(make_encoder("resnet18"), seed=1)


def test_names_and_shapes_of_a_resnet50(monkeypatch):
    """Fails if a norm keeps torchvision's name, a shortcut is missing, or a kernel is turned."""
    config = {"name": "resnet50"}
    monkeypatch.setattr("byol_jax.convert.timm.check_arrays", lambda *_: None)  # a second tracing
    shapes = expected_shapes(make_encoder(**config))
    arrays = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    found = to_detectron2(*arrays, config)
    assert {name: array.shape for name, array in found.items()} == expected(50)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # As moco's script renames them.
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv3.weight", "res2.0.conv3.weight"),
        ("layer1.0.bn3.bias", "res2.0.conv3.norm.bias"),
        ("layer3.22.bn2.weight", "res4.22.conv2.norm.weight"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.running_var", "res5.0.shortcut.norm.running_var"),
    ],
)
def test_a_name(ours, theirs):
    """Fails if stages are counted from 1, or the stem's norm is taken for a block's."""
    assert detectron2_name(ours) == theirs


def test_the_folder(tmp_path, trained):
    """Fails if a number changes, the file is another than detectron2's, or mean and std are 0..1.

    The pickle is read as detectron2 reads it, by an unpickler that knows NumPy's arrays alone.
    """

    class Strict(pickle.Unpickler):
        def find_class(self, module, name):
            # NumPy 1's names: those of NumPy 2 are not known to what detectron2 runs with.
            assert (module, name) in {
                ("numpy.core.multiarray", "_reconstruct"),
                ("numpy", "ndarray"),
                ("numpy", "dtype"),
            }
            return super().find_class(module, name)

    params, stats = trained
    info = EncoderInfo({"name": "resnet18"}, 224, MEAN, STD, method="byol", source="photos", step=7)
    out = tmp_path / "out"
    save_detectron2(out, params, stats, info)
    names = {"README.md", "detectron2.yaml", "encoder.json", "model.pkl"}
    assert {p.name for p in out.iterdir()} == names
    content = (out / "model.pkl").read_bytes()
    read = Strict(io.BytesIO(content), encoding="latin1").load()
    assert read.keys() == {"model", "__author__", "matching_heuristics"}
    assert read["matching_heuristics"] is True
    want = to_state_dict(params, stats, {"name": "resnet18"})
    assert {name: array.shape for name, array in read["model"].items()} == expected(18)
    for name, array in want.items():
        found = read["model"][detectron2_name(name)]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    kernel = read["model"]["res3.0.shortcut.weight"]
    np.testing.assert_array_equal(
        kernel[5, 7, 0, 0], params["layer2_0"]["downsample_conv"]["kernel"][0, 0, 7, 5]
    )

    settings = yaml.safe_load((out / "detectron2.yaml").read_text())
    assert (settings["VERSION"], settings["INPUT"]) == (2, {"FORMAT": "RGB"})
    resnets = {"DEPTH": 18, "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": 64}
    assert settings["MODEL"].pop("RESNETS") == resnets
    assert settings["MODEL"] == {
        "PIXEL_MEAN": pytest.approx([104.55, 119.85, 132.6]),
        "PIXEL_STD": pytest.approx([53.55, 71.4, 84.15]),
    }
    assert json.loads((out / "encoder.json").read_text())["info"]["step"] == 7
    for part in ("byol", "photos", "| 7 |", "0.41, 0.47, 0.52", "512 features"):
        assert part in (out / "README.md").read_text()
    with pytest.raises(ValueError, match="weights for detectron2, which nothing else reads"):
        read_encoder(out)
    with pytest.raises(ValueError, match="exists already"):
        save_detectron2(out, params, stats, info)


def test_bytes_stay_bytes():
    """Fails at protocol 2, where every byte of the weights is text that must be encoded again."""
    content = pickled({"model": {"a": np.arange(300, dtype=np.float32)}})
    names = {arg for op, arg, _ in pickletools.genops(content) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert np.arange(300, dtype=np.float32).tobytes() in content


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"name": "resnet200"}, "no exact form in detectron2, whose backbone is one of resnet18"),
        ({"name": "vit_tiny"}, "no exact form in detectron2"),
        ({"name": "tiny"}, "no exact form in detectron2"),
        ({"name": "resnet18", "stem": "cifar"}, "7x7 with stride 2"),
        ({"name": "resnet50", "padding": "same"}, "padding 'same'"),
        ({"name": "resnet50", "width": 2.0}, "widens every layer"),
        ({"name": "resnet50", "sk_ratio": 0.0625}, "sk_ratio"),
        ({"name": "resnet18", "channels": 1}, "3 channels, not 1"),
    ],
)
def test_what_is_not_exact_is_refused(tmp_path, config, reason):
    """Fails if a network goes out that detectron2 would compute otherwise, or a file is left."""
    channels = config.get("channels", 3)
    info = EncoderInfo(config, 224, MEAN[:channels], STD[:channels])
    with pytest.raises(ValueError, match=rf"{reason}.*--format orbax"):
        save_detectron2(tmp_path / "out", {}, {}, info)
    assert not list(tmp_path.iterdir())
