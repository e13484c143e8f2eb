"""The convolution with ordered gradients against `lax`'s own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices
from jax import lax

from byol_jax import mesh as meshes
from byol_jax.models import conv as conv_module
from byol_jax.models.conv import compiling_for, conv
from byol_jax.train_step import jit_step

ORDER = ("NHWC", "HWIO", "NHWC")
# (kernel, stride, taps apart, padding)
TORCH = [(k, s, 1, [(k // 2, k // 2)] * 2) for k, s in ((1, 1), (1, 2), (3, 1), (3, 2), (7, 2))]
SAME = [(k, s, 1, "SAME") for k, s, *_ in TORCH]
DILATED = [(3, 1, 2, [(2, 2)] * 2), (3, 1, 3, [(0, 6), (4, 1)]), (3, 2, 2, "SAME")]


def value_and_gradients(convolve, x, kernel, dy):
    y, pull = jax.vjp(convolve, x, kernel)
    return (y, *pull(dy(y.shape)))


@pytest.mark.parametrize(("kernel", "stride", "taps", "padding"), TORCH + SAME + DILATED)
@pytest.mark.parametrize("size", [(9, 12), (2, 2), (1, 5)])
def test_value_and_gradients_are_those_of_lax(x64, kernel, stride, taps, padding, size):
    """Fails if a padding, a flip, a stride, a dilation or a transpose of either gradient is off."""
    draw = np.random.default_rng(kernel)
    x = draw.standard_normal((3, *size, 4))
    w = draw.standard_normal((kernel, kernel, 4, 5))
    strides = (stride, stride)
    how = {"window_strides": strides, "padding": padding, "rhs_dilation": (taps, taps)}
    plain = functools.partial(lax.conv_general_dilated, dimension_numbers=ORDER, **how)
    ours = functools.partial(conv, **how)

    def dy(shape):
        return np.random.default_rng(1).standard_normal(shape)

    found, expected = (value_and_gradients(f, x, w, dy) for f in (ours, plain))
    for name, a, b in zip(("value", "images", "kernel"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name)


def orders(platform):
    """The orders of axes of the three convolutions in a value and its gradients."""

    def total(x, w):
        with compiling_for(platform):
            return (conv(x, w, (1, 1), "SAME") ** 2).sum()

    x, w = jnp.ones((4, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    text = jax.jit(jax.grad(total, (0, 1))).lower(x, w).as_text()
    return re.findall(r"stablehlo.convolution.* dim_numbers = (.*), window", text)


def test_gradients_are_ordered_for_a_cpu_only():
    good = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert orders("cpu") == [good] * 3
    assert orders("tpu").count(good) == 1
    assert len(orders("tpu")) == 3


def test_a_step_is_traced_for_its_mesh(monkeypatch):
    """Fails if the train step takes the host's platform instead of its devices'."""
    found = []

    def step(state, batch, key):
        with monkeypatch.context() as m:
            m.setattr(conv_module, "_plain", lambda *a: found.append("plain"))
            m.setattr(conv_module, "_ordered", lambda *a: found.append("ordered"))
            conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), (1, 1), "SAME")
        return state, {}

    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(meshes, "platform", lambda mesh, platform=platform: platform)
        jit_step(step, first_devices(1)).lower(jnp.ones(1), jnp.ones(1), jnp.ones(1))
    assert found == ["ordered", "plain"]


def test_what_it_cannot_do_is_refused():
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(NotImplementedError, match="groups"):
        conv(x, w, (1, 1), "SAME", feature_group_count=2)
    with pytest.raises(NotImplementedError, match="dilated images"):
        conv(x, w, (1, 1), "SAME", lhs_dilation=(2, 2))
