"""Views made on the device, in JAX inside the train step: the operations of `spec.ViewSpec`.

Equal draws give the same views as `host.py`. Nothing branches: an operation that is not drawn is
applied with an amount that changes nothing. The four jitter operations can come in 24 orders. To
keep that cheap they are done in five steps: saturation and hue both work in HSV and do not affect
each other, so any order is HSV, affine, HSV, affine, HSV. The two affine steps are brightness and
contrast; saturation and hue each go into the HSV step that matches their position in the order.

Internally an image is a list of its C planes [N, H, W]: a TPU would pad a last axis of 3 to 128,
and separate planes need not be stacked and split between two operations.

Shape key: B examples, V views, N rows, H W C image, S side of a view, U draws (`UNIFORMS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.device_erasing import erase
from byol_jax.views.device_randaugment import randaugment
from byol_jax.views.spec import (
    FRAMES,
    GREY,
    ORDERS,
    UNIFORMS,
    Recipe,
    U,
    ViewSpec,
    check_recipe,
    draws_of,
    group_slices,
    total_views,
)

# For each of the 24 orders: whether brightness comes before contrast, and how many of the two come
# before saturation, and before hue.
_BRIGHTNESS_FIRST = np.array([o.index(0) < o.index(1) for o in ORDERS])
_SATURATION_GAP, _HUE_GAP = (
    np.array([(o.index(0) < o.index(k)) + (o.index(1) < o.index(k)) for o in ORDERS], np.int32)
    for k in (2, 3)
)
# On a TPU: three bfloat16 products, with an error of at most 0.005 of 1/255; one has 2.1/255.
_EXACT = jax.lax.Precision.HIGH

_BLOCK = 56
"""Rows, or columns, blurred by one matrix."""


def make_views(
    recipe: Recipe, *, cropped: bool, dtype: jnp.dtype = jnp.float32
) -> Callable[[Batch, Array], Batch]:
    """The views of a batch, as `make_train_step` takes them.

    Args:
      recipe: the views by group.
      cropped: whether the host has already cropped the views. If so, every group arrives under its
        own name as uint8 [B, V, S, S, C]; if not, whole images of one size arrive as "image",
        uint8 [B, H, W, C].
      dtype: of the computation and of the result.

    Returns:
      (batch, key) -> batch with every group [B, V, S, S, C] under its name, normalised, and without
      "image". The random numbers are `uniforms(key, B, V)` with V counted over all groups; the
      groups use consecutive slices of them, in the recipe's order.

    Raises:
      ValueError: this is not a valid recipe.
    """
    check_recipe(recipe)
    slices, total = group_slices(recipe), total_views(recipe)

    def views(batch: Batch, key: Array) -> Batch:
        rest = {k: v for k, v in batch.items() if k != "image" and k not in recipe}
        rows = batch[next(iter(recipe)) if cropped else "image"].shape[0]
        u_BVU = uniforms(key, rows, total).astype(dtype)
        if FRAMES in recipe:
            u_BVU = u_BVU[:, np.array(draws_of(recipe), np.int32)]
        for name, specs in recipe.items():
            given = batch[name if cropped else "image"]
            rest[name] = _make_group(given, specs, u_BVU[:, slices[name]], cropped)
        return rest

    return views


def _make_group(images: Array, specs: tuple[ViewSpec, ...], u_BVU: Array, cropped: bool) -> Array:
    """One group of views [B, V, S, S, C], from whole images or from its crops."""
    made = []
    for v, spec in enumerate(specs):
        if cropped:
            crop = images[:, v].astype(u_BVU.dtype) / 255
        else:
            crop = crop_batch(images, spec, u_BVU[:, v])
        made.append(augment(crop, spec, u_BVU[:, v]))
    return jnp.stack(made, axis=1)


def look_up(shape: tuple[int, int, int]) -> Callable[[Batch], Batch]:
    """Look up the images of a batch in a data set in device memory.

    Args:
      shape: [H, W, C] of an image.

    Returns:
      batch -> batch; "images" [N, H W C] (flat: a TPU would pad the channels to 128) and "row" [B]
      become "image" [B, H, W, C].
    """

    def images(batch: Batch) -> Batch:
        rest = {k: v for k, v in batch.items() if k not in ("images", "row")}
        found = batch["images"].at[batch["row"]].get(mode="promise_in_bounds")
        return {**rest, "image": found.reshape(-1, *shape)}

    return images


def uniforms(key: Array, rows: int, num_views: int) -> Array:
    """The random numbers of a batch's views.

    Args:
      key: of the step.
      rows: B.
      num_views: V, over all groups.

    Returns:
      float32 [B, V, UNIFORMS] in [0, 1).
    """
    return jax.random.uniform(key, (rows, num_views, UNIFORMS), jnp.float32)


def crop_batch(images_NHWC: Array, spec: ViewSpec, u_NU: Array) -> Array:
    """Crop a window from each image of a batch of one size, and resize it.

    Args:
      images_NHWC: uint8 0..255 or float 0..1.
      spec: what the view is, `affine` or not.
      u_NU: in [0, 1); its dtype is also that of the result.

    Returns:
      [N, S, S, C] in 0..1.
    """
    x = images_NHWC.astype(u_NU.dtype)
    if images_NHWC.dtype == jnp.uint8:
        x = x / 255
    if spec.affine:
        return _affine(x, spec, u_NU)
    height, width = x.shape[1:3]
    sides = _sides(spec, u_NU, height, width)
    weights = []
    for name, side, full in zip(("top", "left"), sides, (height, width), strict=True):
        length = jnp.clip(jnp.round(side), 1, full)
        start = jnp.floor(u_NU[:, U[name]] * (full - length + 1))
        weights.append(_keys(start, length, full, spec.size))
    rows, columns = weights
    x = jnp.einsum("nih,nhwc->niwc", rows, x, precision=_EXACT)
    x = jnp.einsum("njw,niwc->nijc", columns, x, precision=_EXACT)
    return jnp.clip(x, 0, 1)


def augment(images_NHWC: Array, spec: ViewSpec, u_NU: Array) -> Array:
    """Everything but the crop: flip, RandAugment, colours, blur, solarize, normalise, erase.

    Args:
      images_NHWC: float in 0..1.
      spec: what the view is.
      u_NU: in [0, 1).

    Returns:
      [N, H, W, C], normalised.
    """

    def drawn(name: str, probability: float) -> Array:
        return (u_NU[:, U[name]] < probability)[:, None, None]

    x = [images_NHWC[..., c] for c in range(images_NHWC.shape[-1])]
    if spec.flip:
        x = [jnp.where(drawn("flip", spec.flip), p[..., ::-1], p) for p in x]
    if spec.rand_layers:
        x = randaugment(x, spec, u_NU)
    if spec.jitter:
        x = _jitter(x, spec, u_NU)
    if spec.grey:
        grey = GREY[0] * x[0] + GREY[1] * x[1] + GREY[2] * x[2]
        x = [jnp.where(drawn("grey", spec.grey), grey, p) for p in x]
    if spec.blur:
        band = _band(u_NU, spec, drawn("blur", spec.blur), x[0].shape)
        x = [_blur(p, band) for p in x]
    if spec.solarize:
        x = [jnp.where(drawn("solarize", spec.solarize), jnp.minimum(p, 1 - p), p) for p in x]
    x = [(p - m) / s for p, m, s in zip(x, spec.mean, spec.std, strict=True)]
    made = jnp.stack(x, axis=-1)
    return erase(made, spec, u_NU) if spec.erase else made


def _range(u: Array, low: float, high: float) -> Array:
    return low + (high - low) * u


def _half(u_NU: Array, name: str, width: float) -> Array:
    return width * (2 * u_NU[:, U[name]] - 1)


def _sides(spec: ViewSpec, u_NU: Array, height: int, width: int) -> tuple[Array, Array]:
    """Height and width of the windows as real numbers, at most those of the image."""
    area = _range(u_NU[:, U["area"]], *spec.area) * (height * width)
    aspect = jnp.exp(_range(u_NU[:, U["aspect"]], *(math.log(a) for a in spec.aspect)))
    return jnp.minimum(jnp.sqrt(area / aspect), height), jnp.minimum(jnp.sqrt(area * aspect), width)


def _keys(start_N: Array, length_N: Array, full: int, size: int) -> Array:
    """Bicubic weights [N, size, full] that resize the window `start`, `length` to `size`."""
    start, length = start_N[:, None], length_N[:, None]
    at = (jnp.arange(size)[None] + 0.5) * (length / size) - 0.5 + start
    taps = jnp.arange(full)[None, None]
    d = jnp.abs(at[:, :, None] - taps)
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = jnp.where(d <= 1, near, jnp.where(d < 2, far, 0))
    # The window is cut first, so pixels outside it have no weight.
    inside = (taps[0] >= start) & (taps[0] < start + length)
    weights = jnp.where(inside[:, None], weights, 0)
    return weights / weights.sum(2, keepdims=True)


def _affine(x_NHWC: Array, spec: ViewSpec, u_NU: Array) -> Array:
    """Crop, rotation and shift as one bilinear resampling, zero outside; see `ViewSpec`."""
    height, width = x_NHWC.shape[1:3]
    h, w = _sides(spec, u_NU, height, width)
    turn = _half(u_NU, "rotate", math.radians(spec.rotate))
    top, left = u_NU[:, U["top"]] * (height - h), u_NU[:, U["left"]] * (width - w)
    centre_y = top + h / 2 + _half(u_NU, "shift_y", spec.shift) * height - 0.5
    centre_x = left + w / 2 + _half(u_NU, "shift_x", spec.shift) * width - 0.5
    place = (jnp.arange(spec.size, dtype=u_NU.dtype) + 0.5) / spec.size - 0.5
    y, x = (h[:, None] * place[None])[:, :, None], (w[:, None] * place[None])[:, None]
    cos, sin = jnp.cos(turn)[:, None, None], jnp.sin(turn)[:, None, None]
    rows = centre_y[:, None, None] + sin * x + cos * y
    columns = centre_x[:, None, None] + cos * x - sin * y

    def sample(plane_HW: Array, row_SS: Array, column_SS: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(plane_HW, [row_SS, column_SS], order=1)

    channels = jax.vmap(sample, (-1, None, None), -1)
    return jax.vmap(channels)(x_NHWC, rows, columns)


def _jitter(x: list[Array], spec: ViewSpec, u_NU: Array) -> list[Array]:
    """Brightness, contrast, saturation and hue in the order drawn for each row."""
    on = u_NU[:, U["jitter"]] < spec.jitter
    order = (u_NU[:, U["order"]] * len(ORDERS)).astype(jnp.int32)
    first, gap_s, gap_h = (
        jnp.asarray(table)[order] for table in (_BRIGHTNESS_FIRST, _SATURATION_GAP, _HUE_GAP)
    )

    def amount(name: str) -> Array:
        return jnp.where(on, _half(u_NU, name, getattr(spec, name)), 0)

    brightness, contrast = amount("brightness"), amount("contrast")
    saturation, hue = amount("saturation"), amount("hue")
    scale, offset = (1 + brightness, 0 * brightness) if spec.brightness_scales else (1, brightness)
    for gap in range(3):
        if spec.saturation or spec.hue:
            here = (jnp.where(gap_s == gap, saturation, 0), jnp.where(gap_h == gap, hue, 0))
            x = _hsv(x, *(value[:, None, None] for value in here))
        if gap == 2:
            break
        bright = first if gap == 0 else ~first  # whether brightness is this row's affine here
        factor = jnp.where(bright, scale, 1 + contrast)[:, None, None]
        means = [p.mean((1, 2)) if spec.contrast else 0 for p in x]
        shifts = [jnp.where(bright, offset, -contrast * mean)[:, None, None] for mean in means]
        x = [jnp.clip(p * factor + shift, 0, 1) for p, shift in zip(x, shifts, strict=True)]
    return x


def _hsv(rgb: list[Array], saturation: Array, hue: Array) -> list[Array]:
    """Scale the saturation by 1 + `saturation`, at most to 1, and rotate the hue by `hue` turns."""
    r, g, b = rgb
    v = jnp.maximum(jnp.maximum(r, g), b)
    chroma = v - jnp.minimum(jnp.minimum(r, g), b)
    # In sixths of a turn: red is 0, green 2, blue 4. One division, the most expensive step here.
    # Against each other, not against v: a compiler may compute a channel twice, each time rounded
    # in another way, and then none of the three would equal the largest.
    red, green = (r >= g) & (r >= b), g >= b
    ahead = jnp.where(red, g - b, jnp.where(green, b - r, r - g))
    start = jnp.where(red, 0, jnp.where(green, 2, 4))
    h = ahead / jnp.maximum(chroma, 1e-12) + start + 6 * hue
    h = h - 6 * jnp.floor(h / 6)
    chroma = jnp.where(chroma > 0, jnp.minimum(chroma * (1 + saturation), v), 0)
    shares = (jnp.abs(h - 3) - 1, 2 - jnp.abs(h - 2), 2 - jnp.abs(h - 4))
    return [v - chroma * (1 - jnp.clip(share, 0, 1)) for share in shares]


def _band(u_NU: Array, spec: ViewSpec, on: Array, shape: tuple[int, ...]) -> Array:
    """The blur as matrices [N, block, block + kernel - 1]; the identity if it is not drawn."""
    sigma = _range(u_NU[:, U["sigma"]], *spec.sigma)[:, None, None]
    reach, block = spec.kernel // 2, min(_BLOCK, *shape[1:])

    def taps(distance: Array) -> Array:
        return jnp.where(abs(distance) <= reach, jnp.exp(-(distance**2) / (2 * sigma**2)), 0)

    total = taps(jnp.arange(-reach, reach + 1)[None, None]).sum(2, keepdims=True)
    distance = jnp.arange(block + 2 * reach)[None, None] - jnp.arange(block)[None, :, None] - reach
    return jnp.where(on, taps(distance) / total, distance == 0)


def _product(axis: int, band: Array, x: Array) -> Array:
    if axis == 1:
        return jnp.einsum("nij,njw->niw", band, x, precision=_EXACT)
    return jnp.einsum("nhj,nij->nhi", x, band, precision=_EXACT)


def _blur(x_NHW: Array, band: Array) -> Array:
    """Gaussian blur along rows and columns, with zeros beyond the border.

    In blocks: a product with a single band matrix would mostly multiply zeros.
    """
    block, wide = band.shape[1:]
    x, reach = x_NHW, (wide - block) // 2
    for axis in (1, 2):
        side = x.shape[axis]
        starts = range(0, side, block)
        pad = [(0, 0)] * 3
        pad[axis] = (reach, starts[-1] + block - side + reach)
        padded = jnp.pad(x, pad)
        cuts = [jax.lax.slice_in_dim(padded, at, at + wide, axis=axis) for at in starts]
        parts = [_product(axis, band, cut) for cut in cuts]
        x = jax.lax.slice_in_dim(jnp.concatenate(parts, axis), 0, side, axis=axis)
    return x
