"""Mixup and cutmix against timm's own, their draws against their distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import compiled, first_devices
from scipy.stats import beta, kstest
from timm_data import timm_data

from byol_jax.mesh import put_batch
from byol_jax.views.tasks import mixing as module
from byol_jax.views.tasks.mixing import Mix, draw_mix, mix_views, mixed_targets, mixing

KEY, CLASSES, SIDE = jax.random.key(5), 4, 9
RANDOM = np.random.RandomState(0)
VIEWS = RANDOM.randn(6, 1, SIDE, SIDE, 3)
LABEL = np.array([0, 1, 2, 3, 0, 1], np.int32)


def timms(views, label, monkeypatch, weight, cut, row, column, smoothing=0.1):
    """timm's mixed views [B, S, S, C] and targets, from what its generator is made to return."""
    integers = iter((row, column))
    monkeypatch.setattr(np.random, "rand", lambda: 0.0 if cut else 0.9)
    monkeypatch.setattr(np.random, "beta", lambda a, b: weight)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(integers))
    mix = timm_data("mixup").Mixup(
        0.8, 1.0, label_smoothing=smoothing, num_classes=CLASSES, prob=1.0, switch_prob=0.5
    )
    x = torch.tensor(views[:, 0]).permute(0, 3, 1, 2).contiguous()
    x, target = mix(x, torch.tensor(label))
    return x.permute(0, 2, 3, 1).numpy(), target.numpy()


@pytest.mark.parametrize(
    ("weight", "cut", "row", "column"),
    [
        (0.3, False, 0, 0),
        (0.8, True, 4, 4),
        (0.3, True, 0, 8),  # cut off at two borders
        (0.55, True, 8, 3),
        (0.0, True, 4, 4),
        (1.0, True, 4, 4),
    ],
)
def test_it_is_timms(weight, cut, row, column, monkeypatch, x64):
    """Fails if the box, its correction, the partner or the smoothing differ.

    (Take the share before the box is cut off; round the length; mix with the next row.)
    """
    x, target = timms(VIEWS, LABEL, monkeypatch, weight, cut, row, column)
    how = Mix(*map(jnp.asarray, (np.float32(weight), cut, np.int32(row), np.int32(column))))
    ours, weight_B = mix_views(jnp.asarray(VIEWS), how, jnp.ones(6, bool))
    np.testing.assert_allclose(ours[:, 0], x, rtol=0, atol=1e-6)
    found = mixed_targets(jnp.asarray(LABEL), weight_B, CLASSES, 0.1)
    np.testing.assert_allclose(found, target, rtol=0, atol=1e-6)


def test_the_draws_have_timms_distributions():
    """Fails if a, the switch, the probability or the range of the centre is another one.

    (Give cutmix mixup's a; draw the centre from 0 to S - 2; take `probability` for `switch`.)
    """
    one = functools.partial(draw_mix, side=SIDE, mixup=0.4, cutmix=2.0, probability=0.8, switch=0.3)
    keys = jax.random.split(KEY, 4000)
    how = jax.tree.map(np.asarray, compiled(jax.jit(jax.vmap(one)), keys)(keys))
    mixed = how.weight < 1
    assert abs(mixed.mean() - 0.8) < 0.03
    assert abs(how.cut.mean() - 0.3) < 0.03
    for cut, a in ((False, 0.4), (True, 2.0)):
        of_kind = how.weight[mixed & (how.cut == cut)]
        assert kstest(of_kind, beta(a, a).cdf).pvalue > 1e-3
    for at in (how.row, how.column):
        assert np.abs(np.bincount(at, minlength=SIDE) / len(at) - 1 / SIDE).max() < 0.02
    assert abs(np.corrcoef(how.row, how.column)[0, 1]) < 0.06


def batch_of(label=LABEL):
    return {"views": VIEWS.astype(np.float32), "label": label, "mask": np.ones(6, np.float32)}


def test_an_image_without_a_label_is_mixed_with_no_other(monkeypatch):
    """Fails if an unknown label is mixed in as zeros, or its image is."""
    how = Mix(jnp.float32(0.25), jnp.bool_(False), jnp.int32(0), jnp.int32(0))
    monkeypatch.setattr(module, "draw_mix", lambda *_: how)
    label = LABEL.copy()
    label[1] = -1
    found = mixing(CLASSES, mixup=1.0)(batch_of(label), KEY)
    for i in (1, 4):
        np.testing.assert_array_equal(found["views"][i], batch_of()["views"][i])
    np.testing.assert_array_equal(found["target"][1], 0)
    np.testing.assert_array_equal(found["target"][4], np.eye(CLASSES)[0])
    np.testing.assert_allclose(found["target"][0], [0.25, 0.75, 0, 0])
    assert (found["views"][0] != VIEWS[0].astype(np.float32)).any()


def test_smoothing_alone_leaves_the_images():
    """Fails if label smoothing needs mixing, or mixes."""
    found = mixing(CLASSES, smoothing=0.2)(batch_of(), KEY)
    np.testing.assert_array_equal(found["views"], batch_of()["views"])
    np.testing.assert_allclose(found["target"], 0.8 * np.eye(CLASSES)[LABEL] + 0.05, rtol=1e-6)


def test_four_devices_mix_as_one(monkeypatch):
    """Fails if rows are paired within a device, or each draws its own weight."""

    def drawn(key, *_):  # what takes less long to compile than Beta
        return Mix(jax.random.uniform(key), jnp.bool_(False), jnp.int32(0), jnp.int32(0))

    monkeypatch.setattr(module, "draw_mix", drawn)
    batch = batch_of()
    batch = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()}
    task = jax.jit(mixing(CLASSES, mixup=0.8, smoothing=0.1))
    on = (put_batch(batch, first_devices(n)) for n in (1, 4))
    one, four = (compiled(task, b, KEY)(b, KEY) for b in on)
    for k in ("views", "target"):
        np.testing.assert_allclose(four[k], one[k], rtol=0, atol=1e-6)
    assert (np.asarray(one["views"]) != batch["views"]).any()
