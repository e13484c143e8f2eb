"""Views made on the host, in TensorFlow: the operations of `spec.ViewSpec`, inside tf.data.

Colour and blur work on planes, [N, C, H, W]: a maximum over the channels is then one pass over
whole planes, the blur is a product with a band matrix, and a view costs about a third of what it
would on [N, H, W, C]. An operation that is not drawn is not computed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from byol_jax.views.host_erasing import erase
from byol_jax.views.host_randaugment import randaugment
from byol_jax.views.host_rows import Tensor, of_rows, sometimes
from byol_jax.views.spec import GREY, ORDERS, UNIFORMS, EvalSpec, U, ViewSpec

Window = tuple[Tensor, Tensor, Tensor, Tensor]

# Before any operation runs, because TensorFlow takes all memory of every GPU it sees. If other code
# has already started TensorFlow, it refuses, and that code has decided.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")


MAX_VIEWS = 2**14 * 4 // UNIFORMS
"""Most views per example: more would use the random numbers of the next example."""


def uniforms(seed: int, epoch: Tensor, index: Tensor, num_views: int) -> Tensor:
    """The random numbers for one example's views, a function of the arguments alone.

    Args:
      seed: of the run.
      epoch: int64 scalar, from 0.
      index: int64 scalar, the example's position in the data set.
      num_views: V, over all groups, at most `MAX_VIEWS` (2,048).

    Returns:
      float32 [V, UNIFORMS] in [0, 1).

    Raises:
      ValueError: there are too many views.
    """
    if num_views > MAX_VIEWS:
        raise ValueError(f"The recipe has {num_views} views; expected at most {MAX_VIEWS}.")
    # Philox is a function of (key, counter); every value of the counter yields 4 numbers, and every
    # example has 2**14 values of the counter to itself.
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=[num_views, UNIFORMS],
        key=tf.constant([seed % 2**64], tf.uint64),
        counter=tf.cast(tf.stack([index * 2**14, epoch]), tf.uint64),
        alg=1,
    )


def crop_window(spec: ViewSpec, u: Tensor, height: Tensor, width: Tensor) -> Window:
    """The window of a view in the image.

    Args:
      spec: gives area and aspect.
      u: [..., UNIFORMS] in [0, 1).
      height: of the image, px.
      width: of the image, px.

    Returns:
      (top, left, height, width), int32 [...], px.
    """
    sides, limits = _sides(spec, u, height, width), (height, width)
    side = [
        tf.clip_by_value(tf.cast(tf.round(s), tf.int32), 1, n)
        for s, n in zip(sides, limits, strict=True)
    ]
    place = [
        tf.cast(u[..., U[name]] * tf.cast(n - s + 1, tf.float32), tf.int32)
        for name, s, n in zip(("top", "left"), side, limits, strict=True)
    ]
    return place[0], place[1], side[0], side[1]


def crop_resize(image: Tensor, window: Window, size: int, dtype: Any = tf.float32) -> Tensor:
    """Crop a window from one image and resize it with bicubic interpolation.

    Args:
      image: [H, W, C], uint8 0..255 or float 0..1.
      window: (top, left, height, width), int32 px.
      size: side of the result, px.
      dtype: of the result, tf.float32 for 0..1 or, from uint8, tf.uint8 for 0..255, rounded.

    Returns:
      [size, size, C].
    """
    top, left, height, width = window
    cut = image[top : top + height, left : left + width][None]
    # NOTE: the kernel rounds sampling positions to 1/1024 px, an error of up to 5e-4 times the
    # image's slope per pixel; the exact kernel, ScaleAndTranslate, takes four times as long.
    crop = tf.raw_ops.ResizeBicubic(images=cut, size=[size, size], half_pixel_centers=True)[0]
    if dtype == tf.uint8:
        return tf.cast(tf.clip_by_value(crop + 0.5, 0.0, 255.5), tf.uint8)
    return tf.clip_by_value(crop * _unit(image), 0.0, 1.0)


def crop_batch(images: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """`crop_window` and an exact `crop_resize`, for a batch of small images of one size.

    Args:
      images: [N, H, W, C], uint8 0..255 or float 0..1.
      spec: what the view is, `affine` or not.
      u: [N, UNIFORMS] in [0, 1).

    Returns:
      float32 [N, size, size, C] in 0..1.
    """
    if spec.affine:
        return crop_affine(images, spec, u)
    height, width = images.shape[1], images.shape[2]
    top, left, h, w = crop_window(spec, u, height, width)
    rows, columns = _keys(top, h, height, spec.size), _keys(left, w, width, spec.size)
    planes = tf.transpose(tf.cast(images, tf.float32) * _unit(images), [0, 3, 1, 2])
    planes = tf.matmul(tf.matmul(rows[:, None], planes), columns[:, None], transpose_b=True)
    return tf.clip_by_value(tf.transpose(planes, [0, 2, 3, 1]), 0.0, 1.0)


def crop_affine(images: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """Crop, rotation and shift as one bilinear resampling; see `ViewSpec`.

    Args:
      images: [N, H, W, C], uint8 0..255 or float 0..1.
      spec: what the view is.
      u: [N, UNIFORMS] in [0, 1).

    Returns:
      float32 [N, size, size, C] in 0..1, zero outside the image.
    """
    shape = tf.shape(images)
    full_h, full_w = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    h, w = _sides(spec, u, shape[1], shape[2])
    turn = _half(u, "rotate", math.radians(spec.rotate))
    # The centre of the window, and the step in the image per step in the view.
    y = u[:, U["top"]] * (full_h - h) + h / 2 + _half(u, "shift_y", spec.shift) * full_h
    x = u[:, U["left"]] * (full_w - w) + w / 2 + _half(u, "shift_x", spec.shift) * full_w
    size, zero = float(spec.size), tf.zeros_like(h)
    cos_x, sin_x = tf.cos(turn) * w / size, tf.sin(turn) * w / size
    cos_y, sin_y = tf.cos(turn) * h / size, tf.sin(turn) * h / size
    first = 0.5 - size / 2  # the first pixel's centre, from the centre of the view
    rows = [
        cos_x, -sin_y, x + (cos_x - sin_y) * first - 0.5,
        sin_x, cos_y, y + (sin_x + cos_y) * first - 0.5,
        zero, zero,
    ]  # fmt: skip
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32) * _unit(images),
        transforms=tf.stack(rows, axis=1),
        output_shape=[spec.size, spec.size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def augment(images: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """Everything but the crop: flip, RandAugment, colours, blur, solarize, normalise, erase.

    Args:
      images: float32 [N, H, W, C] in 0..1, with N and C known when tracing.
      spec: what the view is.
      u: [N, UNIFORMS] in [0, 1).

    Returns:
      float32 [N, H, W, C], normalised.
    """
    x = tf.transpose(images, [0, 3, 1, 2])
    x = sometimes(spec.flip, u[:, U["flip"]], lambda x: tf.reverse(x, [3]), x)
    if spec.rand_layers:
        x = randaugment(x, spec, u)
    if spec.jitter:
        x = _jitter(x, spec, u)
    x = sometimes(spec.grey, u[:, U["grey"]], _grey, x)
    if spec.blur:
        sigma = _range(u[:, U["sigma"]], *spec.sigma)
        x = sometimes(spec.blur, u[:, U["blur"]], lambda x, s: _blur(x, s, spec.kernel), x, sigma)
    # For x in 0..1, the smaller of x and 1 - x equals "x < 0.5 ? x : 1 - x".
    x = sometimes(spec.solarize, u[:, U["solarize"]], lambda x: tf.minimum(x, 1.0 - x), x)
    x = tf.transpose(_normalise(x, spec.mean, spec.std, [-1, 1, 1]), [0, 2, 3, 1])
    return erase(x, spec, u)


def eval_window(spec: EvalSpec, height: Tensor, width: Tensor) -> Window:
    """What an evaluation view is made of, (top, left, height, width), int32 px: the central square,
    and for antialiasing what the filter reads around it."""
    shorter = tf.minimum(height, width)
    if spec.antialias:
        (top, bottom, *_), (left, right, *_) = (_side(spec, n, shorter) for n in (height, width))
        return top, left, bottom - top, right - left
    share = tf.cast(shorter, tf.float32) * (spec.size / spec.resize)
    side = tf.maximum(tf.cast(tf.round(share), tf.int32), 1)
    return (height - side) // 2, (width - side) // 2, side, side


def eval_view(image: Tensor, spec: EvalSpec, full: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The centre of one image, as described in `EvalSpec`.

    Args:
      image: [H, W, C], uint8 0..255 or float 0..1.
      spec: sizes and normalisation.
      full: height and width, px, of the image whose `eval_window` this is; None: it is whole.

    Returns:
      float32 [size, size, C], normalised.
    """
    if full is None:
        full = tf.shape(image)[0], tf.shape(image)[1]
        top, left, height, width = eval_window(spec, *full)
        image = image[top : top + height, left : left + width]
    if spec.antialias:
        crop, shorter = image, tf.minimum(*full)
        for n in full[::-1]:  # columns first and rounded in between, as Pillow does
            *_, scale, translation = _side(spec, n, shorter)
            crop = _resize_rows(tf.transpose(crop, [1, 0, 2]), spec.size, scale, translation)
        crop = tf.cast(crop, tf.float32) * _unit(image)
    else:
        crop = crop_resize(image, (0, 0, tf.shape(image)[0], tf.shape(image)[1]), spec.size)
    # In whole rows: broadcasting three numbers over the last axis takes twice as long.
    rows = tf.reshape(crop, [spec.size, -1])
    rows = _normalise(rows, spec.mean * spec.size, spec.std * spec.size, [-1])
    return tf.reshape(rows, [spec.size, spec.size, len(spec.mean)])


def _resize_rows(image: Tensor, size: int, scale: Tensor, translation: Tensor) -> Tensor:
    """[H, W, C] to [size, W, C], bicubic with antialiasing, in the range of its type."""
    place = {"scale": [scale, 1.0], "translation": [translation, 0.0], "kernel_type": "keyscubic"}
    sides = [size, tf.shape(image)[1]]
    x = tf.raw_ops.ScaleAndTranslate(images=image[None], size=sides, **place)[0]
    if image.dtype == tf.uint8:
        return tf.cast(tf.clip_by_value(tf.round(x), 0.0, 255.0), tf.uint8)
    return tf.clip_by_value(x, 0.0, 1.0)


def _side(spec: EvalSpec, n: Tensor, shorter: Tensor) -> tuple[Tensor, ...]:
    """How one side of n px is resampled: (first and last pixel read, scale, translation).

    Rounded as in torchvision: the resized longer side down, the margin to an even half.
    """
    resized = tf.cast(n, tf.int64) * spec.resize // tf.cast(shorter, tf.int64)
    scale = tf.cast(resized, tf.float32) / tf.cast(n, tf.float32)
    margin = tf.round((tf.cast(resized, tf.float32) - spec.size) / 2)
    reach = 2 * tf.maximum(1 / scale, 1.0) + 1  # of the cubic, stretched; 1 for rounding
    first = tf.maximum(tf.cast(tf.floor(margin / scale - reach), tf.int32), 0)
    last = tf.cast(tf.math.ceil((margin + spec.size) / scale + reach), tf.int32)
    return first, tf.minimum(last, n), scale, tf.cast(first, tf.float32) * scale - margin


def _unit(image: Tensor) -> float:
    return 1.0 / 255.0 if image.dtype == tf.uint8 else 1.0


def _range(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _half(u: Tensor, name: str, width: float) -> Tensor:
    return width * (2.0 * u[..., U[name]] - 1.0)


def _sides(spec: ViewSpec, u: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of the window as real numbers, at most those of the image."""
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = _range(u[..., U["area"]], *spec.area) * height * width
    aspect = tf.exp(_range(u[..., U["aspect"]], *(math.log(a) for a in spec.aspect)))
    return tf.minimum(tf.sqrt(area / aspect), height), tf.minimum(tf.sqrt(area * aspect), width)


def _keys(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """Bicubic weights [N, size, full] that resize the window `start`, `length` to `size`."""
    start, length = tf.cast(start, tf.float32), tf.cast(length, tf.float32)
    step = length / size
    at = (tf.range(size, dtype=tf.float32) + 0.5)[None] * step[:, None] - 0.5 + start[:, None]
    taps = tf.range(full, dtype=tf.float32)
    d = tf.abs(at[:, :, None] - taps)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weights = tf.where(d <= 1.0, near, tf.where(d < 2.0, far, 0.0))
    # The window is cut first, so pixels outside it have no weight.
    inside = (taps >= start[:, None]) & (taps < (start + length)[:, None])
    weights = weights * tf.cast(inside, tf.float32)[:, None]
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _jitter(x: Tensor, spec: ViewSpec, u: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in the order drawn for each row."""
    named: Sequence[tuple[str, Callable[..., Tensor], float]] = (
        ("brightness", _multiply if spec.brightness_scales else _add, spec.brightness),
        ("contrast", _contrast, spec.contrast),
        ("saturation", _saturation, spec.saturation),
        ("hue", _hue, spec.hue),
    )
    present = [k for k, (_, _, strength) in enumerate(named) if strength]
    if not present:
        return x
    amounts = {k: _half(u, named[k][0], named[k][2])[:, None, None] for k in present}
    # Operations of strength 0 are left out of the orders.
    orders = tf.constant([[k for k in order if k in present] for order in ORDERS])
    drawn = tf.gather(orders, tf.cast(u[:, U["order"]] * len(ORDERS), tf.int32))
    drawn = tf.where(u[:, U["jitter"], None] < spec.jitter, drawn, -1)
    for slot in range(len(present)):
        for k in present:
            x = of_rows(drawn[:, slot] == k, named[k][1], x, amounts[k])
    return x


def _clip(x: Tensor) -> Tensor:
    return tf.clip_by_value(x, 0.0, 1.0)


# The jitter operations: x [N, C, H, W] in 0..1, amount [N, 1, 1].
def _add(x: Tensor, amount: Tensor) -> Tensor:
    return _clip(x + amount[:, None])


def _multiply(x: Tensor, amount: Tensor) -> Tensor:
    return _clip(x * (1.0 + amount[:, None]))


def _contrast(x: Tensor, amount: Tensor) -> Tensor:
    mean = tf.reduce_mean(x, axis=[2, 3], keepdims=True)
    return _clip((x - mean) * (1.0 + amount[:, None]) + mean)


def _extremes(planes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r, g, b = planes
    return tf.maximum(tf.maximum(r, g), b), tf.minimum(tf.minimum(r, g), b)


def _saturation(x: Tensor, amount: Tensor) -> Tensor:
    # HSV with s = (v - low) / v clipped at 1 after scaling: every channel keeps its share of the
    # distance below v, the largest, and that distance is scaled by min(factor, v / (v - low)).
    planes = tf.unstack(x, axis=1)
    v, low = _extremes(planes)
    stretch = tf.minimum(1.0 + amount, v / tf.maximum(v - low, 1e-12))
    return _clip(tf.stack([v - (v - plane) * stretch for plane in planes], axis=1))


def _hue(x: Tensor, amount: Tensor) -> Tensor:
    r, g, b = planes = tf.unstack(x, axis=1)
    v, low = _extremes(planes)
    chroma = v - low
    is_r = tf.cast(r >= v, tf.float32)
    is_g = tf.cast(g >= v, tf.float32) * (1.0 - is_r)
    is_b = 1.0 - is_r - is_g
    # In sixths of a turn: red is 0, green 2, blue 4. Masks instead of `where`, which is slower.
    turn = is_r * (g - b) + is_g * (b - r) + is_b * (r - g)
    h = turn / tf.maximum(chroma, 1e-12) + 2.0 * is_g + 4.0 * is_b + 6.0 * amount
    h = h - 6.0 * tf.floor(h * (1.0 / 6.0))
    shares = (tf.abs(h - 3.0) - 1.0, 2.0 - tf.abs(h - 2.0), 2.0 - tf.abs(h - 4.0))
    return _clip(tf.stack([low + chroma * _clip(s) for s in shares], axis=1))


def _grey(x: Tensor) -> Tensor:
    r, g, b = tf.unstack(x, axis=1)
    grey = GREY[0] * r + GREY[1] * g + GREY[2] * b
    return tf.stack([grey, grey, grey], axis=1)


def _blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of `kernel` taps with zeros beyond the border: K x K', K a band matrix."""
    reach = kernel // 2
    taps = tf.exp(-(tf.range(reach + 1, dtype=tf.float32) ** 2) / (2.0 * sigma[:, None] ** 2))
    taps = taps / (2.0 * tf.reduce_sum(taps, axis=1, keepdims=True) - taps[:, :1])
    taps = tf.pad(taps, [[0, 0], [0, 1]])  # one more tap, of weight 0, for everything farther
    sides = []
    for axis in (2, 3):
        at = tf.range(x.shape[axis])
        distance = tf.minimum(tf.abs(at[:, None] - at[None, :]), reach + 1)
        sides.append(tf.gather(taps, distance, axis=1)[:, None])
    return tf.matmul(tf.matmul(sides[0], x), sides[1])


def _normalise(
    x: Tensor, mean: tuple[float, ...], std: tuple[float, ...], shape: Sequence[int]
) -> Tensor:
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return x
    values = [tf.reshape(tf.constant(v, tf.float32), shape) for v in (mean, std)]
    return (x - values[0]) / values[1]
