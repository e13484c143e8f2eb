"""RandAugment on the device: the operations of `randaugment.py`, in JAX.

Nothing branches: every operation is computed for every row, and one of them is taken. What costs
most is one bicubic resampling per layer, which rotation, shears and shifts share.

Shape key: N rows, C channels, H W image, U draws. An image is a list of its C planes [N, H, W].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.views.randaugment import GEOMETRY, GREY_PARTS, OPS, amounts, fill
from byol_jax.views.spec import U, ViewSpec

Planes = list[Array]


def randaugment(planes: Planes, spec: ViewSpec, u_NU: Array) -> Planes:
    """Apply the operations that were drawn.

    Args:
      planes: C of [N, H, W], in 0..1.
      spec: what the view is.
      u_NU: in [0, 1).

    Returns:
      The same shapes and dtype, multiples of 1/255.
    """

    def layer(x: Planes, how: tuple[Array, Array, Array]) -> tuple[Planes, None]:
        return apply_one(x, *how, fill(spec)), None

    x = [jnp.floor(p * 255 + 0.5) for p in planes]
    x, _ = jax.lax.scan(layer, x, drawn(spec, u_NU))
    return [p / 255 for p in x]


def drawn(spec: ViewSpec, u_NU: Array) -> tuple[Array, Array, Array]:
    """Number in `OPS` (beyond them for none), level and sign for each layer and row, [L, N]."""

    def of_layers(name: str) -> Array:
        return jnp.stack([u_NU[:, U[f"{name}_{i + 1}"]] for i in range(spec.rand_layers)])

    op_LN = jnp.floor(of_layers("op") * (len(OPS) / spec.rand_prob)).astype(jnp.int32)
    level_LN = jnp.full_like(of_layers("level"), spec.rand_level)
    if spec.rand_std:
        level_LN = level_LN + spec.rand_std * jax.scipy.special.ndtri(of_layers("level"))
    sign_LN = jnp.where(of_layers("sign") < 0.5, -1.0, 1.0).astype(u_NU.dtype)
    return op_LN, jnp.clip(level_LN, 0, 10), sign_LN


def apply_one(
    x: Planes, op_N: Array, level_N: Array, sign_N: Array, colour: tuple[float, ...]
) -> Planes:
    """Apply one operation to each row.

    Args:
      x: C planes [N, H, W] of whole numbers 0..255.
      op_N: number in `OPS`; any other leaves the row as it is.
      level_N: 0 to 10.
      sign_N: -1 or 1.
      colour: outside of the image, 0..255, per channel.
    """
    found = amounts(level_N, sign_N, jnp.floor)
    made = _points(x, found) | _blends(x, found["blend"][:, None, None])
    moved = _moved(x, *_matrix(op_N, found, x[0].shape[1:]), colour)
    made |= dict.fromkeys(GEOMETRY, moved)
    out = x
    for number, name in enumerate(OPS):
        here = (op_N == number)[:, None, None]
        out = [jnp.where(here, new, p) for new, p in zip(made[name], out, strict=True)]
    return out


def _points(x: Planes, found: dict[str, Array]) -> dict[str, Planes]:
    """The operations on each pixel by itself."""
    step, threshold, added = (
        found[k][:, None, None] for k in ("posterize", "solarize", "solarize_add")
    )
    return {
        "autocontrast": [_autocontrast(p) for p in x],
        "equalize": [_equalize(p) for p in x],
        "invert": [255 - p for p in x],
        "posterize": [jnp.floor(p / step) * step for p in x],
        "solarize": [jnp.where(p < threshold, p, 255 - p) for p in x],
        "solarize_add": [jnp.where(p < 128, jnp.minimum(p + added, 255), p) for p in x],
    }


def _autocontrast(p_NHW: Array) -> Array:
    low, high = p_NHW.min((1, 2), keepdims=True), p_NHW.max((1, 2), keepdims=True)
    wide = jnp.floor((p_NHW - low) * 255 / jnp.maximum(high - low, 1))
    return jnp.where(high > low, wide, p_NHW)


def _equalize(p_NHW: Array) -> Array:
    flat_NP = p_NHW.reshape(len(p_NHW), -1).astype(jnp.int32)
    counts_N256 = jax.lax.platform_dependent(flat_NP, tpu=_products, default=_scattered)
    below_N256 = jnp.cumsum(counts_N256, 1) - counts_N256
    at_most = jnp.take_along_axis(below_N256, flat_NP.max(1)[:, None], 1)  # all but the last bin
    values, step_N1 = jnp.arange(256, dtype=jnp.int32), at_most // 255
    table = (step_N1 // 2 + below_N256) // jnp.maximum(step_N1, 1)
    table = jnp.where(step_N1 > 0, jnp.minimum(table, 255), values[None])
    return jnp.take_along_axis(table, flat_NP, 1).reshape(p_NHW.shape).astype(p_NHW.dtype)


def _scattered(flat_NP: Array) -> Array:
    """How often each row has each number, [N, 256]."""
    blank = jnp.zeros(256, jnp.int32)
    return jax.vmap(lambda flat: blank.at[flat].add(1, mode="promise_in_bounds"))(flat_NP)


def _products(flat_NP: Array) -> Array:
    """The same as a product of upper and lower digits, since a TPU scatters one by one."""
    upper, lower = (jax.nn.one_hot(d, 16, dtype=jnp.float32) for d in divmod(flat_NP, 16))
    found = jnp.einsum("npu,npl->nul", upper, lower, precision=jax.lax.Precision.HIGHEST)
    return found.reshape(-1, 256).astype(jnp.int32)


def _blends(x: Planes, factor: Array) -> dict[str, Planes]:
    """The operations between an image and a plainer one."""
    grey = x[0]
    if len(x) == 3:
        parts = zip(x, GREY_PARTS, strict=True)
        grey = jnp.floor((sum(p * part for p, part in parts) + 32768) / 65536)
    mean = jnp.floor(grey.mean((1, 2), keepdims=True) + 0.5)

    def blend(plain: Array | float, p: Array) -> Array:
        return jnp.floor(jnp.clip(plain + factor * (p - plain), 0, 255))

    return {
        "color": [blend(grey, p) for p in x],
        "contrast": [blend(mean, p) for p in x],
        "brightness": [blend(0.0, p) for p in x],
        "sharpness": [blend(_smooth(p), p) for p in x],
    }


def _smooth(p_NHW: Array) -> Array:
    """The mean of 3 x 3 pixels, the middle one counted five times; borders as they are."""
    rows = p_NHW[:, :-2] + p_NHW[:, 1:-1] + p_NHW[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * p_NHW[:, 1:-1, 1:-1]
    return p_NHW.at[:, 1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


def _matrix(
    op_N: Array, found: dict[str, Array], shape: tuple[int, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """(a, b, c) of the column that a pixel comes from, a x + b y + c, and (d, e, f) of its row."""
    height, width = shape

    def chosen(name: str, value: Array, otherwise: Array | float) -> Array:
        return jnp.where(op_N == OPS.index(name), value, otherwise)

    turn = -jnp.deg2rad(found["rotate"])
    cos, sin = chosen("rotate", jnp.cos(turn), 1.0), chosen("rotate", jnp.sin(turn), 0.0)
    b = sin + chosen("shear_x", found["shear"], 0.0)
    d = -sin + chosen("shear_y", found["shear"], 0.0)
    # Rotations keep the centre.
    c = width / 2 * (1 - cos) - height / 2 * sin
    f = height / 2 * (1 - cos) + width / 2 * sin
    c = c + chosen("translate_x", width * found["translate"], 0.0)
    f = f + chosen("translate_y", height * found["translate"], 0.0)
    return (cos, b, c), (d, cos, f)


def _moved(
    x: Planes,
    column: tuple[Array, ...],
    row: tuple[Array, ...],
    colour: tuple[float, ...],
) -> Planes:
    """Every pixel from where its row's matrix says, by Pillow's bicubic filter."""
    n, height, width = x[0].shape
    xs = (jnp.arange(width, dtype=x[0].dtype) + 0.5)[None, None]
    ys = (jnp.arange(height, dtype=x[0].dtype) + 0.5)[None, :, None]
    at_x, at_y = (
        a[:, None, None] * xs + b[:, None, None] * ys + c[:, None, None]
        for a, b, c in (column, row)
    )
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    columns, across = _taps(at_x, width)
    rows, down = _taps(at_y, height)
    pixels_NPC = jnp.stack(x, -1).reshape(n, -1, len(x))
    out = jnp.zeros_like(pixels_NPC)
    for r, v in zip(rows, down, strict=True):
        for c, w in zip(columns, across, strict=True):
            index_NP = (r * width + c).reshape(n, -1)
            out += (v * w).reshape(n, -1, 1) * jax.vmap(_at)(pixels_NPC, index_NP)
    out = jnp.floor(jnp.clip(out, 0, 255)).reshape(n, height, width, len(x))
    return [jnp.where(inside, out[..., i], k) for i, k in enumerate(colour)]


def _at(pixels_PC: Array, index_P: Array) -> Array:
    return pixels_PC.at[index_P].get(mode="promise_in_bounds")


def _taps(at_NHW: Array, side: int) -> tuple[list[Array], list[Array]]:
    """Four pixels around a place along one axis, the border repeated, and their weights."""
    first = jnp.floor(at_NHW - 0.5)
    d = at_NHW - 0.5 - first
    weights = [
        ((2 - d) * d - 1) * d,
        (d - 2) * d * d + 1,
        ((1 - d) * d + 1) * d,
        (d - 1) * d * d,
    ]
    pixels = [jnp.clip(first + k, 0, side - 1).astype(jnp.int32) for k in (-1, 0, 1, 2)]
    return pixels, weights
