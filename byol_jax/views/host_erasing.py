"""Random erasing on the host; `device_erasing.py` does the same."""

from __future__ import annotations

import math

import tensorflow as tf

from byol_jax.views.host_rows import Tensor, sometimes
from byol_jax.views.spec import MIX, U, ViewSpec


def erase(images: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """Replace a rectangle of some images by noise; see `ViewSpec`.

    Args:
      images: float32 [N, H, W, C], normalised, of a shape that is known when tracing.
      spec: what the view is.
      u: [N, UNIFORMS] in [0, 1).
    """
    return sometimes(spec.erase, u[:, U["erase"]], lambda x, u: _erased(x, spec, u), images, u)


def _erased(x: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    height, width = x.shape[1:3]

    def drawn(name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * u[:, U[name]]

    area = drawn("erase_area", *spec.erase_area) * float(height * width)
    aspect = tf.exp(drawn("erase_aspect", *(math.log(a) for a in spec.erase_aspect)))
    inside = []
    for name, side, full in (
        ("erase_top", area * aspect, height),
        ("erase_left", area / aspect, width),
    ):
        length = tf.minimum(tf.round(tf.sqrt(side)), full - 1.0)
        start = tf.floor(u[:, U[name]] * (full - length + 1.0))
        at = tf.range(full, dtype=x.dtype)[None]
        inside.append((at >= start[:, None]) & (at < (start + length)[:, None]))
    rows, columns = inside
    box = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(box, noise(u[:, U["noise"]], x.shape[1:]), x)


def noise(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Normal noise [N, *shape], a function of one draw u for each row."""
    seed = _mixed(tf.cast(u * 2.0**24, tf.uint32))
    at = _mixed(tf.cast(tf.range(math.prod(shape)), tf.uint32))
    bits = _mixed(tf.bitwise.bitwise_xor(seed[:, None], at[None]))
    bits = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    uniform = (tf.cast(bits, tf.float32) + 0.5) * 2.0**-23
    return tf.reshape(tf.math.ndtri(uniform), [-1, *shape])


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers that leaves no pattern of theirs."""

    def folded(x: Tensor, shift: int) -> Tensor:
        return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))

    for shift, factor in MIX:
        x = folded(x, shift) * tf.constant(factor, tf.uint32)
    return folded(x, 16)
