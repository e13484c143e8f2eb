"""RandAugment on the host: the operations of `randaugment.py`, in TensorFlow.

Images are planes, [N, C, H, W], of whole numbers 0..255. Only what is drawn is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from byol_jax.views.host_rows import Tensor, of_rows
from byol_jax.views.randaugment import GEOMETRY, GREY_PARTS, OPS, amounts, fill
from byol_jax.views.spec import U, ViewSpec


def randaugment(x: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """Apply the operations that were drawn.

    Args:
      x: float32 [N, C, H, W] in 0..1, with N, C, H and W known when tracing.
      spec: what the view is.
      u: [N, UNIFORMS] in [0, 1).

    Returns:
      The same shape, multiples of 1/255.
    """
    x = tf.floor(x * 255.0 + 0.5)
    for layer in range(1, spec.rand_layers + 1):
        op = tf.cast(tf.floor(u[:, U[f"op_{layer}"]] * (len(OPS) / spec.rand_prob)), tf.int32)
        level = tf.fill(tf.shape(op), spec.rand_level)
        if spec.rand_std:
            level += spec.rand_std * tf.math.ndtri(u[:, U[f"level_{layer}"]])
        sign = tf.where(u[:, U[f"sign_{layer}"]] < 0.5, -1.0, 1.0)
        x = apply_one(x, op, tf.clip_by_value(level, 0.0, 10.0), sign, fill(spec))
    return x / 255.0


def apply_one(
    x: Tensor, op: Tensor, level: Tensor, sign: Tensor, colour: Sequence[float]
) -> Tensor:
    """Apply one operation to each row.

    Args:
      x: [N, C, H, W], whole numbers 0..255.
      op: int32 [N], number in `OPS`; any other leaves the row as it is.
      level: [N], 0 to 10.
      sign: [N], -1 or 1.
      colour: outside of the image, 0..255, per channel.
    """
    found = amounts(level, sign, tf.floor)
    shaped = {k: v[:, None, None, None] for k, v in found.items()}
    for number, name in enumerate(OPS):
        if name not in GEOMETRY:
            key = "blend" if name in _BLENDS else name
            extra = [shaped[key]] if key in shaped else []
            x = of_rows(op == number, _PLAIN[name], x, *extra)
    first = OPS.index("shear_x")
    moved = (op == OPS.index("rotate")) | ((op >= first) & (op < len(OPS)))
    matrix = _matrix(op, found, x.shape[2], x.shape[3])
    return of_rows(moved, lambda x, m: _moved(x, m, colour), x, matrix)


def _autocontrast(x: Tensor) -> Tensor:
    low = tf.reduce_min(x, axis=[2, 3], keepdims=True)
    high = tf.reduce_max(x, axis=[2, 3], keepdims=True)
    wide = tf.floor((x - low) * 255.0 / tf.maximum(high - low, 1.0))
    return tf.where(high > low, wide, x)


def _equalize(x: Tensor) -> Tensor:
    shape = tf.shape(x)
    planes, pixels = shape[0] * shape[1], shape[2] * shape[3]
    flat = tf.reshape(tf.cast(x, tf.int32), [planes, pixels])
    bins = tf.reshape(flat + 256 * tf.range(planes)[:, None], [-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, planes * 256)
    below = tf.cumsum(tf.reshape(counts, [planes, 256]), axis=1, exclusive=True)
    largest = tf.reduce_max(flat, axis=1, keepdims=True)
    step = tf.gather(below, largest, batch_dims=1) // 255  # of all but the last bin
    table = (step // 2 + below) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256)[None])
    return tf.cast(tf.reshape(tf.gather(table, flat, batch_dims=1), shape), x.dtype)


def _blend(plain: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return tf.floor(tf.clip_by_value(plain + factor * (x - plain), 0.0, 255.0))


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    r, g, b = (tf.cast(part, x.dtype) * x[:, c : c + 1] for c, part in enumerate(GREY_PARTS))
    return tf.floor((r + g + b + 32768.0) / 65536.0)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = tf.reduce_mean(_grey(x), axis=[2, 3], keepdims=True)
    return _blend(tf.floor(mean + 0.5), x, factor)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4.0 * x[:, :, 1:-1, 1:-1]
    smooth = _blend(tf.floor(total / 13.0 + 0.5), x[:, :, 1:-1, 1:-1], factor)
    middle = tf.concat([x[:, :, 1:-1, :1], smooth, x[:, :, 1:-1, -1:]], axis=3)
    return tf.concat([x[:, :, :1], middle, x[:, :, -1:]], axis=2)


_BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": lambda x, factor: _blend(_grey(x), x, factor),
    "contrast": _contrast,
    "brightness": lambda x, factor: _blend(0.0, x, factor),
    "sharpness": _sharpness,
}
_PLAIN: dict[str, Callable[..., Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda x: 255.0 - x,
    "posterize": lambda x, step: tf.floor(x / step) * step,
    "solarize": lambda x, threshold: tf.where(x < threshold, x, 255.0 - x),
    "solarize_add": lambda x, added: tf.where(x < 128.0, tf.minimum(x + added, 255.0), x),
    **_BLENDS,
}


def _matrix(op: Tensor, found: dict[str, Tensor], height: int, width: int) -> Tensor:
    """[N, 6]: a pixel comes from column a x + b y + c and row d x + e y + f."""

    def chosen(name: str, value: Tensor, otherwise: float) -> Tensor:
        return tf.where(op == OPS.index(name), value, otherwise)

    turn = found["rotate"] * (-math.pi / 180)
    cos, sin = chosen("rotate", tf.cos(turn), 1.0), chosen("rotate", tf.sin(turn), 0.0)
    # Rotations keep the centre.
    c = width / 2 * (1.0 - cos) - height / 2 * sin
    f = height / 2 * (1.0 - cos) + width / 2 * sin
    c += chosen("translate_x", width * found["translate"], 0.0)
    f += chosen("translate_y", height * found["translate"], 0.0)
    b = sin + chosen("shear_x", found["shear"], 0.0)
    d = chosen("shear_y", found["shear"], 0.0) - sin
    return tf.stack([cos, b, c, d, cos, f], axis=1)


def _moved(x: Tensor, matrix: Tensor, colour: Sequence[float]) -> Tensor:
    """Every pixel from where its row's matrix says, by Pillow's bicubic filter."""
    channels, height, width = x.shape[1:]
    xs = (tf.range(width, dtype=x.dtype) + 0.5)[None, None]
    ys = (tf.range(height, dtype=x.dtype) + 0.5)[None, :, None]
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    at_x, at_y = a * xs + b * ys + c, d * xs + e * ys + f
    inside = (at_x >= 0.0) & (at_x < width) & (at_y >= 0.0) & (at_y < height)
    columns, across = _taps(at_x, width)
    rows, down = _taps(at_y, height)
    # The channels last: a gather then copies whole pixels.
    pixels = tf.reshape(tf.transpose(x, [0, 2, 3, 1]), [-1, height * width, channels])
    out = tf.zeros_like(pixels)
    for r, v in zip(rows, down, strict=True):
        for col, w in zip(columns, across, strict=True):
            index = tf.reshape(r * width + col, [-1, height * width])
            weight = tf.reshape(v * w, [-1, height * width, 1])
            out += weight * tf.gather(pixels, index, batch_dims=1)
    out = tf.floor(tf.clip_by_value(out, 0.0, 255.0))
    out = tf.where(tf.reshape(inside, [-1, height * width, 1]), out, tf.constant(colour, x.dtype))
    return tf.transpose(tf.reshape(out, [-1, height, width, channels]), [0, 3, 1, 2])


def _taps(at: Tensor, side: int) -> tuple[list[Tensor], list[Tensor]]:
    """Four pixels around a place along one axis, the border repeated, and their weights."""
    first = tf.floor(at - 0.5)
    d = at - 0.5 - first
    weights = [
        ((2.0 - d) * d - 1.0) * d,
        (d - 2.0) * d * d + 1.0,
        ((1.0 - d) * d + 1.0) * d,
        (d - 1.0) * d * d,
    ]
    pixels = [
        tf.cast(tf.clip_by_value(first + k, 0.0, side - 1.0), tf.int32) for k in (-1, 0, 1, 2)
    ]
    return pixels, weights
