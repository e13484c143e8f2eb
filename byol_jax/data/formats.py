"""Which image files are read, and those that only Pillow reads: without TensorFlow, and slower.

TensorFlow decodes JPEG, PNG and WebP (`decode.py`). Pillow, which comes with matplotlib, reads BMP,
TIFF, GIF, PNM, JPEG 2000, animated WebP and AVIF, and with pillow-heif HEIC: of a file with several
images the first.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from byol_jax.data.source import counted

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded (Pillow's own limit: 1 GiB at 12 bytes)."""

FAST = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
_PILLOW = (".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pnm", ".jp2")
_AVIF, _HEIC = (".avif",), (".heic", ".heif")
ALL = (*FAST, *_PILLOW, *_AVIF, *_HEIC)
"""Suffixes of every format that is read where its decoder is installed."""

_OPENED = ("BMP", "TIFF", "GIF", "PPM", "JPEG2000", "WEBP", "AVIF", "HEIF")
_DEEP = (".png", ".tif", ".tiff", ".pgm", ".pnm", ".jp2")
_LOOKED_AT = 4


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Suffixes of the files that are read with what is installed."""
    if importlib.util.find_spec("PIL") is None:
        return FAST
    from PIL import features

    avif = _AVIF if "avif" in features.get_supported_modules() else ()
    return (*FAST, *_PILLOW, *avif, *(_HEIC if _register_heif() else ()))


@functools.cache
def _register_heif() -> bool:
    """Teach Pillow to read HEIC; False if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _open(data: bytes) -> Any:
    """The image, its header read and its pixels not yet.

    Raises:
      ValueError: it cannot be opened; a phrase.
    """
    if importlib.util.find_spec("PIL") is None:
        raise ValueError("not a JPEG, PNG or WebP; other formats are read by Pillow")
    from PIL import Image

    heif = _register_heif()
    try:
        return Image.open(io.BytesIO(data), formats=[f for f in _OPENED if f in _known()])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ValueError(f"more than {MAX_PIXELS} pixels") from e
    except Exception as e:
        if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif") and not heif:
            raise ValueError(
                "a HEIC image, which pillow-heif reads: pip install 'byol_jax[formats]'"
            ) from e
        if data[:4] in (b"II*\0", b"MM\0*"):
            raise ValueError(
                "a TIFF that Pillow does not read (its channels, type or compression); save it as "
                "PNG, or as TIFF of 1 or 3 channels"
            ) from e
        raise ValueError("not an image of a format that is read (docs/data.md)") from e


def _known() -> Any:
    from PIL import Image

    Image.init()
    return Image.OPEN


def size(data: bytes) -> np.ndarray:
    """Height and width of an encoded image that Pillow reads, int32 [2], px; from its header.

    Raises:
      ValueError: it cannot be read; a phrase.
    """
    width, height = _open(data).size
    return np.array([height, width], np.int32)


def pixels(data: bytes, channels: int, bits: int) -> np.ndarray:
    """The pixels of an encoded image that Pillow reads, uint8 [H, W, C].

    Args:
      data: the file.
      channels: 1 or 3; alpha is dropped.
      bits: of values that are stored in more than 8 bits, see `scaled`.

    Raises:
      ValueError: it cannot be decoded, or not without a loss of its values; a phrase.
    """
    image = _open(data)
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS} pixels")
    try:
        if image.mode == "F":
            raise ValueError("its values are floats; expected integers of 8 or 16 bits")
        if image.mode.startswith("I"):
            if image.mode == "I" and not bits and image.format != "PPM":
                raise ValueError(
                    "its values have 32 bits or a sign; set data.bits to the bits in use"
                )
            values = np.asarray(image)
            if (
                getattr(image, "tag_v2", {}).get(262) == 0
            ):  # TIFF: 0 is white; of 8 bits Pillow knows
                values = np.maximum((2 ** (bits or 16) - 1) - values.astype(np.int64), 0)
            grey = scaled(values, bits)
            return np.repeat(grey[..., None], channels, axis=2)
        depth = max(getattr(image, "tag_v2", {}).get(258) or (8,))  # TIFF's bits per sample
        if bits and depth > 8:
            raise ValueError(
                f"{depth} bits in {counted(len(image.getbands()), 'channel')}, of which "
                "Pillow gives 8; save it as PNG for data.bits"
            )
        found = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except ValueError:
        raise
    except Exception as e:  # Pillow's plugins raise errors of many kinds
        raise ValueError((str(e).splitlines() or [type(e).__name__])[0][:200]) from e
    return found.reshape(*found.shape[:2], channels)


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of up to 16 bits as uint8: 0 to 2**bits - 1 becomes 0 to 255, larger ones 255.

    Args:
      values: integers.
      bits: 1 to 16; 0: the high byte of 16 bits, as libpng gives it.
    """
    if not bits:
        return (np.clip(values, 0, 2**16 - 1) >> 8).astype(np.uint8)
    most = 2**bits - 1
    return ((np.clip(values, 0, most).astype(np.int64) * 510 + most) // (2 * most)).astype(np.uint8)


def orientation(data: bytes) -> np.int32:
    """The orientation that the EXIF data of an image ask for, 1 to 8; 1 (upright) without any."""
    if importlib.util.find_spec("PIL") is None:
        return np.int32(1)
    from PIL import Image

    _register_heif()
    try:
        image = Image.open(io.BytesIO(data))
        # Pillow turns TIFF upright by itself, and so does its HEIC plugin. In a PNG without EXIF
        # data it would decode everything to look for some.
        if image.format in ("TIFF", "HEIF") or "exif" not in image.info:
            return np.int32(1)
        found = image.getexif().get(0x0112, 1)
    except Exception:  # damaged: the pixels will tell
        return np.int32(1)
    return np.int32(found if found in range(1, 9) else 1)


def look_at_bits(samples: Iterable[bytes], bits: int) -> str:
    """What to say of the range of images of 16 bits; "" if nothing.

    Args:
      samples: a few encoded images.
      bits: that values are scaled by; 0: as stored.
    """
    return range_note([m for m in map(_largest, samples) if m], bits, "image")


def range_note(largest: list[int], bits: int, what: str) -> str:
    """What to say of images or arrays of 16 bits with these largest values; "" if nothing."""
    if not largest:
        return ""
    most, of = max(largest), f"{counted(len(largest), what)} of 16 bits looked at"
    if bits and most >= 2**bits:
        return (
            f"values up to {most:,} in {of}, but data.bits={bits} ends at {2**bits - 1:,}: larger "
            f"ones become white; set data.bits={most.bit_length()}"
        )
    if not bits and most < 2**15:
        return (
            f"values up to {most:,} of 65,535 in {of}: they become {(most >> 8) + 1} of 256 grey "
            f"levels; set data.bits={most.bit_length()}"
        )
    return ""


def _largest(data: bytes) -> int:
    """The largest value of an image of 16 bits; 0 for all others."""
    from PIL import Image

    if data[:4] == b"\x89PNG":
        if len(data) < 25 or data[24] != 16:
            return 0
    elif data[:2] not in (b"II", b"MM", b"P5", b"P2") and data[4:6] != b"jP":
        return 0
    try:
        image = Image.open(io.BytesIO(data))
        if image.size[0] * image.size[1] > MAX_PIXELS:
            return 0
        values = np.asarray(image)
    except Exception:  # damaged: counted when it is its turn
        return 0
    if image.mode.startswith("I"):
        return int(values.max(initial=0))
    # Of colours Pillow gives the high byte.
    return int(values.max(initial=0)) * 257 if data[:4] == b"\x89PNG" else 0


def look_at_pages(samples: Iterable[bytes]) -> str:
    """What to say of TIFF files with several images, from a few files; "" if nothing."""
    most = 1
    for data in samples:
        if data[:2] in (b"II", b"MM"):
            try:
                most = max(most, _open(data).n_frames)
            except Exception:  # damaged: counted when it is its turn
                continue
    if most == 1:
        return ""
    return f"TIFF files with up to {most:,} pages: the first of each is read; save others as files"


def samples_of(count: int) -> list[int]:
    """Which of `count` images to look at: a few, all over the data set."""
    return sorted({i * (count - 1) // (_LOOKED_AT - 1) for i in range(_LOOKED_AT)}) if count else []


def may_be_deep(name: str) -> bool:
    """Whether a file of this name can hold 16 bits."""
    return name.lower().endswith(_DEEP)
