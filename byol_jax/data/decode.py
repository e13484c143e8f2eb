"""Encoded images to pixels, inside tf.data: sizes are checked first, and damage is tolerated.

JPEG, PNG, BMP and (if TensorFlow supports it) WebP, to 1 or 3 channels: grey is repeated, alpha is
dropped, CMYK is converted, 16 bits are reduced to 8. A rotation given by EXIF is not applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from byol_jax.views import host
from byol_jax.views.spec import EvalSpec, Recipe, group_slices

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types
Box = tuple[Tensor, Tensor, Tensor, Tensor]

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded (Pillow's own limit: 1 GiB at 12 bytes)."""

# Nothing here uses Python control flow on tensors, so AutoGraph need not rewrite what is traced,
# which would take most of the time until the first batch.
plain = tf.autograph.experimental.do_not_convert

_GREY_PALETTE = b"".join(bytes([i, i, i, 0]) for i in range(256))


@plain
def map_or_substitute(
    data: Any,
    make: Callable[..., Any],
    substitute: Callable[..., Any],
    *,
    safe: bool,
    threads: int = 0,
) -> Any:
    """Apply `make` to every element of a data set, in parallel and in order.

    An error in `map` ends a data set, and `ignore_errors` after it would drop the element and shift
    all that follow. With `safe`, every element becomes a data set of its own, with exactly one
    element. That costs about 0.4 ms per element, so it is only for data known to be damaged.

    Args:
      data: tf.data.Dataset.
      make: element -> structure of tensors; may raise.
      substitute: element -> structure of the same shapes and types, used if `make` raises.
      safe: whether to substitute; otherwise an error in `make` ends the data set.
      threads: 0: as many as TensorFlow chooses.

    Returns:
      tf.data.Dataset.
    """
    if not safe:
        return data.map(make, num_parallel_calls=threads or tf.data.AUTOTUNE, deterministic=True)

    def one(*element: Any) -> Any:
        alone = tf.data.Dataset.from_tensors(element)
        return alone.map(make).ignore_errors().concatenate(alone.map(substitute)).take(1)

    calls = threads or max(2, os.cpu_count() or 1)
    return data.interleave(one, calls, 1, num_parallel_calls=calls, deterministic=True)


def header(data: Tensor) -> Tensor:
    """Height and width as stated in the header of an encoded image, int64 [2], px."""
    size = tf.cond(
        _starts(data, b"\xff\xd8\xff"),
        lambda: tf.image.extract_jpeg_shape(data)[:2],
        lambda: _first(data, _SIZES),
    )
    return tf.cast(size, tf.int64)


def dimensions(data: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of an encoded image, int32 px; fails beyond `MAX_PIXELS`."""
    size = header(data)
    message = f"the image is empty or has more than {MAX_PIXELS} pixels"
    ok = (tf.reduce_min(size) > 0) & (tf.reduce_prod(size) <= MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(ok, [message, size])]):
        size = tf.cast(tf.identity(size), tf.int32)
    return size[0], size[1]


def decode_box(data: Tensor, box: Box, channels: int) -> Tensor:
    """The part of an encoded image inside `box` (top, left, height, width), uint8 [h, w, C].

    Only that part of a JPEG is decoded. If its chroma is subsampled, the outermost pixels of the
    part differ slightly, because the colour of their neighbours is not known. Check the size with
    `dimensions` first.
    """

    def cut() -> Tensor:
        top, left, height, width = box
        pixels = _first(data, _pixels(channels))
        return pixels[top : top + height, left : left + width]

    pixels = tf.cond(
        _starts(data, b"\xff\xd8\xff"),
        lambda: tf.io.decode_and_crop_jpeg(data, tf.stack(box), channels, dct_method=_DCT),
        cut,
    )
    pixels.set_shape([None, None, channels])
    return pixels


def decode_image(data: Tensor, channels: int) -> Tensor:
    """A whole encoded image as pixels, uint8 [H, W, C]; its size is checked first."""
    height, width = dimensions(data)
    with tf.control_dependencies([height]):
        return decode_box(data, (0, 0, height, width), channels)


def decode_eval(data: Tensor, spec: EvalSpec, channels: int) -> Tensor:
    """The evaluation view of one encoded image; only the centre of a JPEG is decoded.

    Args:
      data: the encoded image, scalar string.
      spec: the view.
      channels: 1 or 3.

    Returns:
      float32 [size, size, C], normalised.
    """
    height, width = dimensions(data)
    window = host.eval_window(spec, height, width)
    pixels = decode_box(data, window, channels)
    view = host.eval_view(pixels, spec, (height, width))
    return tf.ensure_shape(view, [spec.size, spec.size, channels])


def decode_crops(
    data: Tensor, recipe: Recipe, u: Tensor, channels: int, dtype: Any = tf.float32
) -> dict[str, Tensor]:
    """The crops of all views in all groups of one encoded image, from a single decode.

    Args:
      data: the encoded image, scalar string.
      recipe: the views by group.
      u: [V, UNIFORMS] in [0, 1), V counted over all groups in order.
      channels: 1 or 3.
      dtype: tf.float32 for 0..1, tf.uint8 for 0..255.

    Returns:
      {group: [views of the group, size, size, C]}, before `host.augment`.
    """
    height, width = dimensions(data)
    whole = (tf.constant(0), tf.constant(0), height, width)
    specs = [spec for group in recipe.values() for spec in group]
    windows = [
        whole if spec.affine else host.crop_window(spec, u[i], height, width)
        for i, spec in enumerate(specs)
    ]
    # One decode for all views, of the smallest box that contains every window.
    top = tf.reduce_min([w[0] for w in windows])
    left = tf.reduce_min([w[1] for w in windows])
    bottom = tf.reduce_max([w[0] + w[2] for w in windows])
    right = tf.reduce_max([w[1] + w[3] for w in windows])
    pixels = decode_box(data, (top, left, bottom - top, right - left), channels)

    def crop(i: int) -> Tensor:
        spec, (y, x, h, w) = specs[i], windows[i]
        if not spec.affine:
            return host.crop_resize(pixels, (y - top, x - left, h, w), spec.size, dtype)
        turned = host.crop_affine(pixels[None], spec, u[i : i + 1])[0]
        return tf.cast(turned * 255 + 0.5, tf.uint8) if dtype == tf.uint8 else turned

    crops = {}
    for name, part in group_slices(recipe).items():
        group = tf.stack([crop(i) for i in range(part.start, part.stop)])
        size = recipe[name][0].size
        crops[name] = tf.ensure_shape(group, [len(recipe[name]), size, size, channels])
    return crops


_DCT = "INTEGER_ACCURATE"


def _starts(data: Tensor, prefix: bytes) -> Tensor:
    return tf.strings.substr(data, 0, len(prefix)) == prefix


def _first(data: Tensor, handlers: dict[bytes, Callable[[Tensor], Tensor]]) -> Tensor:
    def unknown() -> Tensor:
        message = "this is not a JPEG, PNG, BMP or WebP"
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return next(iter(handlers.values()))(data)

    cases = [
        (_starts(data, magic), lambda handler=handler: handler(data))
        for magic, handler in handlers.items()
    ]
    return tf.case(cases, default=unknown)


def _integers(data: Tensor, at: int, count: int) -> Tensor:
    bytes_ = tf.io.decode_raw(tf.strings.substr(data, at, count), tf.uint8)
    return tf.ensure_shape(tf.cast(bytes_, tf.int32), [count])


def _png_size(data: Tensor) -> Tensor:
    b = _integers(data, 16, 8)
    size = tf.reduce_sum(tf.reshape(b, [2, 4]) * [[1 << 24, 1 << 16, 1 << 8, 1]], axis=1)
    return size[::-1]


def _bmp_size(data: Tensor) -> Tensor:
    size = tf.io.decode_raw(tf.strings.substr(data, 18, 8), tf.int32)
    return tf.ensure_shape(tf.abs(size[::-1]), [2])  # a negative height means top-down


def _webp_size(data: Tensor) -> Tensor:
    kind, b = tf.strings.substr(data, 12, 4), _integers(data, 20, 10)
    extended = [b[7] + b[8] * 256 + b[9] * 65536 + 1, b[4] + b[5] * 256 + b[6] * 65536 + 1]
    bits = b[1] + b[2] * 256 + b[3] * 65536 + (b[4] % 16) * (1 << 24)
    lossless = [bits // (1 << 14) % (1 << 14) + 1, bits % (1 << 14) + 1]
    lossy = [(b[8] + b[9] * 256) % (1 << 14), (b[6] + b[7] * 256) % (1 << 14)]
    return tf.where(
        kind == b"VP8X",
        tf.stack(extended),
        tf.where(kind == b"VP8L", tf.stack(lossless), tf.stack(lossy)),
    )


def _bmp_pixels(data: Tensor, channels: int) -> Tensor:
    # For an 8-bit BMP TensorFlow returns palette indices: right only if the palette is grey.
    depth, colours = _integers(data, 28, 2)[0], tf.strings.substr(data, 54, 1024)
    grey = (depth != 8) | (colours == _GREY_PALETTE)
    message = "a BMP with a colour palette; save it as PNG"
    with tf.control_dependencies([tf.debugging.Assert(grey, [message])]):
        pixels = tf.io.decode_bmp(data, channels=0)
    found = tf.shape(pixels)[2]
    colour = tf.cond(found >= 3, lambda: pixels[..., :3], lambda: tf.repeat(pixels, 3, axis=2))
    if channels == 3:
        return colour
    weights = tf.constant(host.GREY, tf.float32)
    grey_value = tf.reduce_sum(tf.cast(colour, tf.float32) * weights, axis=2, keepdims=True)
    return tf.cast(tf.round(tf.minimum(grey_value, 255.0)), tf.uint8)


def _webp_pixels(data: Tensor, channels: int) -> Tensor:
    pixels = tf.io.decode_image(data, 3, expand_animations=False)
    if channels == 3:
        return pixels
    return tf.image.rgb_to_grayscale(pixels)


def _pixels(channels: int) -> dict[bytes, Callable[[Tensor], Tensor]]:
    return {
        b"\x89PNG": lambda data: tf.io.decode_png(data, channels),
        b"BM": lambda data: _bmp_pixels(data, channels),
        b"RIFF": lambda data: _webp_pixels(data, channels),
    }


_SIZES: dict[bytes, Callable[[Tensor], Tensor]] = {
    b"\x89PNG": _png_size,
    b"BM": _bmp_size,
    b"RIFF": _webp_size,
}
