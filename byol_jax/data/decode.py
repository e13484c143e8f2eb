"""Encoded images to pixels, inside tf.data: sizes are checked first, and damage is tolerated.

JPEG, PNG and (if TensorFlow supports it) WebP are decoded here, other formats by Pillow
(`formats.py`), to 1 or 3 channels: grey is repeated, alpha is dropped, CMYK is converted, 16 bits
are reduced to 8. See `source.Decoding` for bits and rotation.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from byol_jax.data import formats
from byol_jax.data.formats import MAX_PIXELS
from byol_jax.data.source import Decoding
from byol_jax.views import host
from byol_jax.views.spec import EvalSpec, Recipe, group_slices

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types
Box = tuple[Tensor, Tensor, Tensor, Tensor]

# Nothing here uses Python control flow on tensors, so AutoGraph need not rewrite what is traced,
# which would take most of the time until the first batch.
plain = tf.autograph.experimental.do_not_convert


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
    size = tf.case(
        [
            (_starts(data, b"\xff\xd8\xff"), lambda: tf.image.extract_jpeg_shape(data)[:2]),
            (_starts(data, b"\x89PNG"), lambda: _png_size(data)),
            (_is_still_webp(data), lambda: _webp_size(data)),
        ],
        default=lambda: _in_python(formats.size, data, tf.int32, [2]),
    )
    return tf.cast(size, tf.int64)


def dimensions(data: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of an encoded image as stored, int32 px; fails beyond `MAX_PIXELS`."""
    size = header(data)
    message = f"the image is empty or has more than {MAX_PIXELS} pixels"
    ok = (tf.reduce_min(size) > 0) & (tf.reduce_prod(size) <= MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(ok, [message, size])]):
        size = tf.cast(tf.identity(size), tf.int32)
    return size[0], size[1]


class Opened(NamedTuple):
    """An encoded image whose header was looked at, and is right.

    data: the file. height, width: upright, int32 px. turn: its EXIF orientation, int32 1 to 8; None
    if it is not asked for.
    """

    data: Tensor
    height: Tensor
    width: Tensor
    turn: Tensor | None


def open_image(data: Tensor, how: Decoding) -> Opened:
    """Look at the header of an encoded image; fails beyond `MAX_PIXELS`."""
    height, width = dimensions(data)
    if not how.orient:
        return Opened(data, height, width, None)
    turn = _in_python(formats.orientation, data, tf.int32, [])
    sideways = turn >= 5
    return Opened(data, tf.where(sideways, width, height), tf.where(sideways, height, width), turn)


def decode_box(image: Opened, box: Box, how: Decoding) -> Tensor:
    """The part of an encoded image inside `box` (top, left, height, width), uint8 [h, w, C].

    Of a JPEG only that part is decoded. If its chroma is subsampled, the outermost pixels of the
    part differ a little, because the colour of their neighbours is not known.
    """
    if image.turn is None:
        return _stored_box(image.data, box, how)
    mirrored = _among(image.turn, (2, 3, 6, 7))  # left and right, after the transposition
    upside_down, sideways = _among(image.turn, (3, 4, 7, 8)), image.turn >= 5
    top, left, height, width = box
    top = tf.where(upside_down, image.height - top - height, top)
    left = tf.where(mirrored, image.width - left - width, left)
    stored = tf.where(
        sideways, tf.stack([left, top, width, height]), tf.stack([top, left, height, width])
    )
    pixels = _stored_box(image.data, tuple(tf.unstack(stored)), how)
    pixels = tf.cond(sideways, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    pixels = tf.cond(mirrored, lambda: pixels[:, ::-1], lambda: pixels)
    return tf.cond(upside_down, lambda: pixels[::-1], lambda: pixels)


def _among(value: Tensor, values: tuple[int, ...]) -> Tensor:
    return tf.reduce_any(value == tf.constant(values))


def _stored_box(data: Tensor, box: Box, how: Decoding) -> Tensor:
    def cut() -> Tensor:
        top, left, height, width = box
        return _pixels(data, how)[top : top + height, left : left + width]

    pixels = tf.cond(
        _starts(data, b"\xff\xd8\xff"),
        lambda: tf.io.decode_and_crop_jpeg(data, tf.stack(box), how.channels, dct_method=_DCT),
        cut,
    )
    pixels.set_shape([None, None, how.channels])
    return pixels


def decode_image(data: Tensor, how: Decoding) -> Tensor:
    """A whole encoded image as pixels, uint8 [H, W, C]; its size is checked first."""
    image = open_image(data, how)
    with tf.control_dependencies([image.height]):
        return decode_box(image, (tf.constant(0), tf.constant(0), image.height, image.width), how)


def decode_eval(data: Tensor, spec: EvalSpec, how: Decoding) -> Tensor:
    """The evaluation view of one encoded image; only the centre of a JPEG is decoded.

    Args:
      data: the encoded image, scalar string.
      spec: the view.
      how: how it is decoded.

    Returns:
      float32 [size, size, C], normalised.
    """
    image = open_image(data, how)
    window = host.eval_window(spec, image.height, image.width)
    pixels = decode_box(image, window, how)
    view = host.eval_view(pixels, spec, (image.height, image.width))
    return tf.ensure_shape(view, [spec.size, spec.size, how.channels])


def decode_crops(
    data: Tensor, recipe: Recipe, u: Tensor, how: Decoding, dtype: Any = tf.float32
) -> dict[str, Tensor]:
    """The crops of all views in all groups of one encoded image, from a single decode.

    Args:
      data: the encoded image, scalar string.
      recipe: the views by group.
      u: [V, UNIFORMS] in [0, 1), V counted over all groups in order.
      how: how it is decoded.
      dtype: tf.float32 for 0..1, tf.uint8 for 0..255.

    Returns:
      {group: [views of the group, size, size, C]}, before `host.augment`.
    """
    image = open_image(data, how)
    height, width = image.height, image.width
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
    pixels = decode_box(image, (top, left, bottom - top, right - left), how)

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
        crops[name] = tf.ensure_shape(group, [len(recipe[name]), size, size, how.channels])
    return crops


_DCT = "INTEGER_ACCURATE"


def _starts(data: Tensor, prefix: bytes) -> Tensor:
    return tf.strings.substr(data, 0, len(prefix)) == prefix


def _is_still_webp(data: Tensor) -> Tensor:
    """Whether it is a WebP that TensorFlow may decode.

    NOTE: of an animated one TensorFlow 2.21 writes past the end of its memory, whatever
    `expand_animations` is, so that those are Pillow's.
    """
    webp = _starts(data, b"RIFF") & (tf.strings.substr(data, 8, 4) == b"WEBP")
    extended = tf.strings.substr(data, 12, 4) == b"VP8X"
    return tf.cond(
        webp & extended,
        lambda: _integers(data, 20, 1)[0] // 2 % 2 == 0,
        lambda: webp,
    )


def _integers(data: Tensor, at: int, count: int) -> Tensor:
    bytes_ = tf.io.decode_raw(tf.strings.substr(data, at, count), tf.uint8)
    return tf.ensure_shape(tf.cast(bytes_, tf.int32), [count])


def _png_size(data: Tensor) -> Tensor:
    b = _integers(data, 16, 8)
    size = tf.reduce_sum(tf.reshape(b, [2, 4]) * [[1 << 24, 1 << 16, 1 << 8, 1]], axis=1)
    return size[::-1]


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


def _png_pixels(data: Tensor, how: Decoding) -> Tensor:
    if not how.bits:
        return tf.io.decode_png(data, how.channels)
    most = 2**how.bits - 1

    def deep() -> Tensor:
        values = tf.cast(tf.io.decode_png(data, how.channels, tf.uint16), tf.int32)
        return tf.cast((tf.minimum(values, most) * 510 + most) // (2 * most), tf.uint8)

    sixteen = _integers(data, 24, 1)[0] == 16
    return tf.cond(sixteen, deep, lambda: tf.io.decode_png(data, how.channels))


def _webp_pixels(data: Tensor, how: Decoding) -> Tensor:
    pixels = tf.io.decode_image(data, 0, expand_animations=False)[..., :3]
    return pixels if how.channels == 3 else tf.image.rgb_to_grayscale(pixels)


def _in_python(
    function: Callable[[bytes], Any], data: Tensor, dtype: Any, shape: list[int | None]
) -> Tensor:
    """What a Python function of the bytes of an image gives; its ValueError says why not."""

    def call(image: Any) -> Any:
        # Inside tf.data these are bytes, outside of it an array of them.
        return function(np.asarray(image, object).item())

    # NOTE: of plain bytes, numpy_function would cut off the zeros at the end.
    text = tf.convert_to_tensor(data, tf.string)
    return tf.ensure_shape(tf.numpy_function(call, [text], dtype), shape)


def _pixels(data: Tensor, how: Decoding) -> Tensor:
    """All pixels of an encoded image other than a JPEG, uint8 [H, W, C]."""

    def others() -> Tensor:
        decode = functools.partial(formats.pixels, channels=how.channels, bits=how.bits)
        return _in_python(decode, data, tf.uint8, [None, None, how.channels])

    pixels = tf.case(
        [
            (_starts(data, b"\x89PNG"), lambda: _png_pixels(data, how)),
            (_is_still_webp(data), lambda: _webp_pixels(data, how)),
        ],
        default=others,
    )
    return tf.ensure_shape(pixels, [None, None, how.channels])
