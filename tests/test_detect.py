"""Detection in torch: the backbone against an independent ResNet, the loop, and all of it.

The last needs torchvision's compiled operators, which the CPU build of torch cannot load from the
usual wheel of torchvision: it is skipped there.
"""

import builtins
import dataclasses
import json
import sys
from pathlib import Path

import any_torchvision
import numpy as np
import pytest
import torch
from test_boxes import voc
from torch_resnet import TorchResNet, trained_like

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import to_state_dict
from byol_jax.data.boxes import Boxes, open_boxes
from byol_jax.detect import protocol
from byol_jax.detect.model import Network, check_encoder, libraries, pyramid, set_training
from byol_jax.detect.training import (
    Training,
    batch_of,
    learning_rate,
    mirrored,
    train_detector,
)
from byol_jax.faults import TrainingError
from byol_jax.models import make_encoder

INFO = EncoderInfo({"name": "resnet18"}, 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), method="byol")
NETWORK = Network("frozen", 0, (64,), 96, 16, 8, 20)
PLAN = Training(
    steps=6, batch=2, lr=0.05, warmup=2, decay=1e-4, seed=3, save_every=100, device="cpu"
)


@pytest.fixture(scope="module")
def state():
    """The weights of a ResNet-18 as torchvision names them."""
    return to_state_dict(*trained_like(make_encoder("resnet18"), seed=1), {"name": "resnet18"})


@pytest.fixture
def no_draws(monkeypatch):
    """What is given weights need not draw its own."""
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize("bn", ["frozen", "sync"])
def test_the_backbone_is_the_encoder(state, no_draws, bn):
    """Fails if a stage is left out, norms are not loaded, or frozen ones are trained.

    Its stages are those of the independent ResNet, in inference mode.
    """
    model = pyramid(INFO, state, dataclasses.replace(NETWORK, bn=bn)).eval()
    oracle = TorchResNet(18)
    oracle.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    x = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 64, 96).astype(np.float32))
    with torch.no_grad():
        found = model.body(x)
        oracle.eval()
        want = torch.relu(oracle.bn1(oracle.conv1(x)))
        want = torch.nn.functional.max_pool2d(want, 3, 2, 1)
        for i in range(4):
            want = getattr(oracle, f"layer{i + 1}")(want)
            error = (found[str(i)] - want).abs().max() / want.abs().max()
            assert error < 1e-5
            assert want.std() > 0.05
        levels = model(x)
    assert [tuple(v.shape) for v in levels.values()] == [
        (2, 256, 64 // s, 96 // s) for s in (4, 8, 16, 32)
    ] + [(2, 256, 1, 2)]
    trained = {n for n, p in model.body.named_parameters() if p.requires_grad}
    assert ("layer3.0.bn1.weight" in trained) == (bn == "sync")
    assert "conv1.weight" in trained


def test_what_is_frozen_stays(state, no_draws):
    """Fails if `freeze` leaves parameters in the training, or statistics that move."""
    network = dataclasses.replace(NETWORK, bn="sync", freeze=2)
    backbone = pyramid(INFO, state, network)
    model = torch.nn.Module()
    model.backbone = backbone
    set_training(model, network)
    x = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32))
    backbone(x)
    after = backbone.body.state_dict()
    moved = {k for k in after if not np.array_equal(after[k].numpy(), state[k])}
    assert moved
    assert all(k.startswith(("layer2", "layer3", "layer4")) for k in moved)
    trained = {n.split(".")[0] for n, p in backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_without_torchvision(monkeypatch):
    """Fails if the error does not say what to install, or has several lines."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"pip install 'byol_jax\[detect\]'"):
        libraries()
    usual = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ImportError, match="does not fit the torch that is installed") as e:
        libraries()
    assert "\n" not in str(e.value)


# The loop, of a detector that is small: one number.


class Small(torch.nn.Module):
    """Learns the mean of the pixels and of the boxes, with noise of torch's generator."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.body = torch.nn.Module()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images, targets):
        want = torch.stack([torch.stack([x.mean() for x in images]).mean(), torch.rand(())])
        want[1] += torch.cat([t["boxes"] for t in targets]).mean() / 100
        assert all((t["labels"] > 0).all() for t in targets)
        self.seen += len(images)
        return {"a": (self.weight - want).square().sum(), "b": 0 * self.weight.sum()}


@pytest.fixture
def part(tmp_path):
    """Five images, of one object each."""
    images = {f"i{i}": [("dog", (2 + i, 3, 20, 22), False)] for i in range(5)}
    folder = voc(tmp_path / "voc", images | {"t": images["i0"]}, {"train": [*images], "val": ["t"]})
    return open_boxes([str(folder)], 0.2, 0).train


def run(part, place, plan=PLAN, settings=None):
    model = Small()
    curve = train_detector(model, part, NETWORK, plan, place, settings or {"lr": plan.lr})
    return model, curve


def test_a_stopped_training_goes_on_the_same(part, tmp_path):
    """Fails if momentum, the curve, a buffer, the order or torch's draws begin anew."""
    whole, curve = run(part, tmp_path / "whole")
    # As after kill -9 in step 5: what was saved after step 4 is all that is left.
    place, calls = tmp_path / "state", []

    def stop(self, *_):
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(part, place, dataclasses.replace(PLAN, save_every=4))
    finally:
        handle.remove()
    again, resumed = run(part, place)
    assert resumed == curve
    assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(whole.weight, again.weight)
    assert (whole.seen, again.seen) == (12, 12)
    other, _ = run(part, tmp_path / "other", dataclasses.replace(PLAN, seed=4))
    assert not torch.equal(whole.weight, other.weight)

    with pytest.raises(ValueError, match=r"other settings \(lr is 0.01, was 0.05\)"):
        run(part, place, settings={"lr": 0.01})
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"is damaged .*remove it to begin again"):
        run(part, place)


def test_a_loss_that_is_not_finite_ends_it(part, tmp_path):
    """Fails if it goes on, or the message does not say what to change."""
    with pytest.raises(TrainingError, match=r"not finite \(a inf.*lower --lr, which is 1e\+30"):
        run(part, tmp_path / "state", dataclasses.replace(PLAN, lr=1e30, save_every=1))


def test_the_schedule():
    """Fails if the drops are not at 3/4 and 11/12, as 18,000 and 22,000 of 24,000 steps are."""
    plan = dataclasses.replace(PLAN, steps=24_000, lr=0.02, warmup=100)
    rates = [learning_rate(s, plan) for s in (0, 50, 100, 17_999, 18_000, 21_999, 22_000)]
    want = [2e-5, 0.5 * (0.02 + 2e-5), 0.02, 0.02, 0.002, 0.002, 0.0002]
    assert rates == pytest.approx(want)
    assert learning_rate(0, dataclasses.replace(plan, warmup=0)) == 0.02


def test_the_order():
    """Fails if an image comes twice in an epoch, or a step depends on the ones before."""
    drawn = [batch_of(step, PLAN, 5) for step in range(10)]
    places = np.concatenate([indices for indices, _ in drawn])
    for epoch in range(4):
        assert sorted(places[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    flips = np.concatenate([batch_of(step, PLAN, 5)[1] for step in range(100)])
    assert 0.35 < flips.mean() < 0.65
    assert all(np.array_equal(a, b) for a, b in zip(batch_of(7, PLAN, 5), drawn[7], strict=True))


def test_mirrored():
    """Fails if left and right of a box are not exchanged: it would have no area."""
    image = np.zeros((4, 10, 3), np.uint8)
    image[1:3, 2:5] = 9
    turned, boxes = mirrored(image, Boxes(np.array([[2.0, 1, 5, 3]]), np.zeros(1), np.zeros(1)))
    left, top, right, bottom = boxes.boxes[0].astype(int)
    assert (turned[top:bottom, left:right] == 9).all()
    assert turned.sum() == image.sum() == 9 * 3 * (right - left) * (bottom - top)


# The command.


def asked(encoder, data, out, **changes):
    training = dataclasses.replace(PLAN, steps=2, **changes)
    fields = (str(encoder), (str(data),), str(out), "both", 0.25, 0, 0.02)
    return protocol.Asked(*fields, NETWORK, training)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "some"}, "--init is 'some'; expected both or encoder or none"),
        ({"data": ()}, "--data is missing"),
        ({"encoder": ""}, "--encoder is missing"),
        (
            {"network": dataclasses.replace(NETWORK, bn="no")},
            "--bn is 'no'; expected sync or",
        ),
        ({"network": dataclasses.replace(NETWORK, sides=(200,))}, "--sides is 200; .*which is 96"),
        ({"network": dataclasses.replace(NETWORK, freeze=6)}, "--freeze is 6; expected 0 to 5"),
        ({"training": dataclasses.replace(PLAN, steps=0)}, "--steps is 0; expected 1 or more"),
        ({"training": dataclasses.replace(PLAN, lr=float("nan"))}, "--lr is nan; expected 0 or"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    """Fails if it is found out after the data were read, or in torch."""
    with pytest.raises(ValueError, match=message):
        protocol.detect(dataclasses.replace(asked("e", "d", "o"), **changes))


def test_other_encoders_are_refused():
    """Fails if a transformer goes on to torchvision, which has another of that name."""
    info = dataclasses.replace(INFO, encoder={"name": "vit_tiny"})
    with pytest.raises(ValueError, match="'vit_tiny'; detection is there for resnet18"):
        check_encoder(info)


@pytest.mark.skipif(
    not any_torchvision.OPERATORS,
    reason="torchvision's operators are compiled for another torch",
)
def test_all_of_it(tmp_path):
    """Fails if a detector cannot be trained, or the result lacks what it was measured on."""
    save_encoder(tmp_path / "encoder", *trained_like(make_encoder("resnet18"), seed=1), INFO)
    objects = [("dog", (5, 5, 20, 25), False), ("cat", (20, 3, 39, 22), True)]
    images = {f"i{i}": objects for i in range(4)}
    folder = voc(tmp_path / "data", images, {})
    result = protocol.detect(asked(tmp_path / "encoder", folder, tmp_path / "out"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"detect.json", "detect.png"}
    assert json.loads((tmp_path / "out" / "detect.json").read_text())["rows"] == result["rows"]
    assert list(result["rows"]) == ["untrained encoder", "byol"]
    assert (result["train_images"], result["test_images"], result["test_difficult"]) == (3, 1, 1)
    assert result["by_class"]["byol"]["cat"]["ap50"] is None
    assert result["classes"] == ["cat", "dog"]
    assert [step for step, _ in result["loss"]["byol"]] == [1, 2]
    assert result["loss"]["byol"] != result["loss"]["untrained encoder"]
    assert "untrained encoder" in protocol.table(result)
    assert Path(tmp_path / "out" / "detect.png").stat().st_size > 10_000
