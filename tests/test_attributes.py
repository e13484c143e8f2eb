"""Transformations that h and z are asked for."""

import jax
import numpy as np
import pytest
from conftest import compiled, filled, mini_encoder
from scipy import ndimage
from test_elsewhere import exported, to_judge
from test_results import one_device  # noqa: F401

from byol_jax.convert.classifier import with_projector
from byol_jax.convert.native import save_encoder
from byol_jax.evals.attributes import ATTRIBUTES, NOISE, asked
from byol_jax.evaluate import evaluate, table
from byol_jax.models import heads
from byol_jax.models.network import network

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


def changed(name, images, seed=0, masked=()):
    """(images in 0..1, labels) of one attribute."""
    mean, std = np.float32(MEAN), np.float32(STD)
    mask = np.ones(len(images), np.float32)
    mask[list(masked)] = 0
    batch = {
        "views": ((images - mean) / std)[:, None].astype(np.float32),
        "index": np.arange(len(images), dtype=np.int32),
        "label": np.full(len(images), 7, np.int32),
        "mask": mask,
    }
    (found,) = asked([batch], ATTRIBUTES[name], MEAN, STD, seed)
    return found["views"][:, 0] * std + mean, found["label"]


def test_every_answer_is_what_was_done_to_the_image():
    """Fails if a transformation is another one, or labels are not its answers."""
    images = np.random.RandomState(0).uniform(0.3, 0.7, (12, 9, 9, 3))

    def sobel(plane):
        down, across = (ndimage.sobel(plane, axis, mode="nearest") for axis in (0, 1))
        return np.clip(np.hypot(down, across), 0, 1)

    oracles = {
        "grey": lambda x: np.repeat((x * [0.2989, 0.587, 0.114]).sum(-1, keepdims=True), 3, 2),
        "sobel": lambda x: np.stack([sobel(x[..., c]) for c in range(3)], 2),
    }
    for name, oracle in oracles.items():
        found, labels = changed(name, images)
        assert sorted(labels) == [0] * 6 + [1] * 6
        for x, y, label in zip(images, found, labels, strict=True):
            np.testing.assert_allclose(y, oracle(x) if label else x, atol=1e-5)
    found, labels = changed("rotation", images)
    assert sorted(labels) == sorted([*range(4)] * 3)
    for x, y, label in zip(images, found, labels, strict=True):
        for _ in range(label):
            x = x[:, ::-1].swapaxes(0, 1)  # a quarter of a turn to the left
        np.testing.assert_allclose(y, x, atol=1e-5)
    found, labels = changed("noise", images)
    off = np.where(labels[:, None, None, None] > 0, found - images, 0)
    assert np.abs(found - images)[labels == 0].max() < 1e-5
    assert off[labels == 1].std() == pytest.approx(NOISE, rel=0.1)
    assert np.abs(off[labels == 1].mean()) < 0.02


def test_answers_depend_on_the_seed_and_the_index_alone():
    """Fails if a batch's place matters, seeds do not, or unreadable images count."""
    images = np.random.RandomState(1).uniform(size=(16, 4, 4, 3))
    first, labels = changed("rotation", images)
    _, masked = changed("rotation", images, masked=(2, 5))
    assert masked[2] == masked[5] == -1
    np.testing.assert_array_equal(np.delete(masked, [2, 5]), np.delete(labels, [2, 5]))
    assert (changed("rotation", images, seed=1)[1] != labels).any()
    again, _ = changed("rotation", images)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ((6, 5), {}),
        ((6, 6, 5), {"hidden_bias": False, "norm_last": True, "scale_last": False}),
        ((6, 5), {"norm": False, "last_bias": True}),
        ((5,), {"last_bias": True}),
    ],
    ids=["byol", "simsiam", "moco", "linear"],
)
def test_z_is_the_projection_of_h(x64, widths, options):
    """Fails if a layer, a norm or a bias of the projector is left out."""
    encoder = mini_encoder()
    head = heads.mlp(widths, dtype="float64", param_dtype="float64", **options)
    net = network(encoder, head)
    images = np.random.RandomState(2).randn(3, 1, 4, 4, 3)
    params, stats = filled(jax.eval_shape(net.init, jax.random.key(0), images), seed=5)
    start = ({"encoder": t["encoder"], "head": t["projector"]} for t in (params, stats))
    both = with_projector(encoder, params["projector"], stats["projector"])

    def outputs(params, stats, own, own_stats):
        h, z, _ = net.apply(params, stats, images, False)
        return h, z, both.apply(own, own_stats, images, False)[0].pooled

    args = (params, stats, *start)
    h, z, found = compiled(jax.jit(outputs), *args)(*args)
    assert found.shape == (3, 1, 16 + widths[-1])
    np.testing.assert_allclose(found[..., :16], h, rtol=1e-12)
    np.testing.assert_allclose(found[..., 16:], z, rtol=1e-9)
    assert both.dim == 16 + widths[-1]
    with pytest.raises(ValueError, match="it has the parts prototypes"):
        with_projector(encoder, {"prototypes": {}}, {})


@pytest.mark.usefixtures("quick")
def test_attributes_by_command(tmp_path):
    """Fails if a question is left out, or answers are of other images: which side of an image is
    bright tells how it was turned.
    """
    random = np.random.RandomState(3)
    x = random.randint(0, 60, (96, 8, 8, 3)) + np.linspace(190, 0, 8)[:, None, None]
    np.savez(
        tmp_path / "x.npz",
        **{f"{k}_{part}": v[rows] for part, rows in (("train", slice(64)), ("test", slice(64, 96)))
           for k, v in {"x": x.astype(np.uint8), "y": np.arange(96) % 2}.items()},
    )  # fmt: skip
    save = {"name": "tiny", "width": 0.25, "channels": 3}
    folder, _ = exported(tmp_path / "export", save_encoder, **save)
    config = to_judge(tmp_path / "x.npz", penalties=8, validation=0.25)
    result = evaluate(None, "attributes", config, tmp_path / "out", encoder=folder)
    rows = result["rows"]
    assert list(rows) == ["chance", "untrained encoder, h", "simclr, h"]
    assert rows["chance"] == {"grey": 50, "rotation": 25, "noise": 50, "sobel": 50}
    assert rows["simclr, h"]["rotation"] > 80
    assert rows["simclr, h"]["sobel"] > 90
    assert (result["train_images"], result["test_images"]) == (64, 32)
    assert "rotation" in table("attributes", result)
