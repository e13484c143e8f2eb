"""Random erasing on the device; `host_erasing.py` does the same.

Shape key: N rows, H W C image, U draws.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.views.spec import MIX, U, ViewSpec


def erase(images_NHWC: Array, spec: ViewSpec, u_NU: Array) -> Array:
    """Replace a rectangle of some images by noise; see `ViewSpec`.

    Args:
      images_NHWC: normalised.
      spec: what the view is.
      u_NU: in [0, 1).
    """
    height, width = images_NHWC.shape[1:3]

    def drawn(name: str, low: float, high: float) -> Array:
        return low + (high - low) * u_NU[:, U[name]]

    area = drawn("erase_area", *spec.erase_area) * (height * width)
    aspect = jnp.exp(drawn("erase_aspect", *(math.log(a) for a in spec.erase_aspect)))
    inside = (u_NU[:, U["erase"]] < spec.erase)[:, None, None]
    for axis, (name, side, full) in enumerate(
        (("erase_top", area * aspect, height), ("erase_left", area / aspect, width)), 1
    ):
        length = jnp.minimum(jnp.round(jnp.sqrt(side)), full - 1)
        start = jnp.floor(u_NU[:, U[name]] * (full - length + 1))
        at = jnp.arange(full, dtype=u_NU.dtype)[None]
        here = (at >= start[:, None]) & (at < (start + length)[:, None])
        inside = inside & jnp.expand_dims(here, 3 - axis)
    return jnp.where(inside[..., None], noise(u_NU[:, U["noise"]], images_NHWC.shape), images_NHWC)


def noise(u_N: Array, shape: tuple[int, ...]) -> Array:
    """Normal noise of a shape [N, ...], a function of one draw for each row."""
    seed_N = _mixed((u_N * 2**24).astype(jnp.uint32))
    at = _mixed(jnp.arange(math.prod(shape[1:]), dtype=jnp.uint32))
    bits = _mixed(seed_N[:, None] ^ at[None]) >> jnp.uint32(9)
    uniform = (bits.astype(u_N.dtype) + 0.5) * 2**-23
    return jax.scipy.special.ndtri(uniform).reshape(shape)


def _mixed(x: Array) -> Array:
    """A bijection of 32-bit numbers that leaves no pattern of theirs."""
    for shift, factor in MIX:
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))
