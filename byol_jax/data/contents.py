"""What images are, by their content alone: wherever they are kept, and under whatever name."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from byol_jax import pulse
from byol_jax.data.formats import MAX_PIXELS
from byol_jax.data.source import MAX_BYTES, Source, counted, shown
from byol_jax.untrusted import read_bytes
from byol_jax.writing import to_json

UNREADABLE = "-"
"""In place of the digest of an image that cannot be read."""

_PNG = b"\x89PNG\r\n\x1a\n"
_BLOCK = 2**20
_NAMED = 5


def content_of(source: Source) -> str:
    """SHA-256 of all images, as they are stored, of their labels and of how they are decoded.

    Returns:
      64 hexadecimal digits; "" of clips, whose frames are not looked at, and of a stream whose
      files are not on this machine.
    """
    if source.clip is not None:
        return ""
    found = hashlib.sha256()
    how = [source.num_examples, *source.decoding]
    found.update(to_json([how, [s.records for s in source.shards]]).encode() + b"\n")
    if source.images is not None:
        found.update(str(source.images.shape).encode())
        found.update(np.ascontiguousarray(source.images).data.cast("B"))
    elif source.is_stream:
        try:
            for shard in source.shards:
                found.update(_file_digest(shard.path))
        except OSError:  # in a bucket, which only TensorFlow reads
            return ""
    else:
        for image in _stored(source):
            found.update(hashlib.sha256(image).digest() if image is not None else b"-")
    for array in (source.labels, source.intact):
        found.update(b"-" if array is None else array.tobytes())
    return found.hexdigest()


def _file_digest(path: str) -> bytes:
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            pulse.beat()
            found.update(block)
    return found.digest()


def _stored(source: Source) -> Iterator[bytes | None]:
    """The encoded images, in order; None for those that cannot be read."""

    def read(row: int) -> bytes | None:
        if source.intact is not None and not source.intact[row]:
            return None
        assert source.paths is not None
        try:
            return read_bytes(Path(source.root, str(source.paths[row])), MAX_BYTES)
        except (OSError, ValueError):
            return None

    if source.encoded is not None:
        for image in source.encoded.numpy():
            yield bytes(image)
        return
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, source.num_examples, 256):  # few, for what is read lies in memory
            pulse.beat()
            yield from pool.map(read, range(start, min(start + 256, source.num_examples)))


def image_digests(source: Source) -> list[str] | None:
    """What tells each image from others, 64 hexadecimal digits.

    SHA-256 of the file as it is stored, or of the pixels where these are stored without loss: of
    PNGs of 8 bits without alpha and palette, and of images in memory, "HEIGHTxWIDTH", a line break,
    and red, green and blue of each pixel, row by row (grey: three times).

    Returns:
      One per image, `UNREADABLE` for one that cannot be read; None for clips, streams, and images
      in memory of one channel, which may have been coloured.
    """
    if source.clip is not None or source.is_stream:
        return None
    if source.images is None:
        stored = _stored(source)
        return [UNREADABLE if image is None else _digest(image) for image in stored]
    if source.channels == 1:
        return None
    intact = np.ones(source.num_examples, bool) if source.intact is None else source.intact
    return [
        _of_pixels(image) if ok else UNREADABLE
        for image, ok in zip(source.images, intact, strict=True)
    ]


def _digest(stored: bytes) -> str:
    pixels = _lossless(stored)
    return hashlib.sha256(stored).hexdigest() if pixels is None else _of_pixels(pixels)


def _of_pixels(pixels: np.ndarray) -> str:
    height, width, _ = pixels.shape
    return hashlib.sha256(f"{height}x{width}\n".encode() + pixels.tobytes()).hexdigest()


def _lossless(stored: bytes) -> np.ndarray | None:
    """The pixels of a plain PNG, [H, W, 3]; None of all else."""
    if not stored.startswith(_PNG) or len(stored) < 26:
        return None
    width, height, depth, colours = struct.unpack(">IIBB", stored[16:26])
    if depth != 8 or colours not in (0, 2) or not 0 < width * height <= MAX_PIXELS:
        return None
    from PIL import Image  # only here: it comes with matplotlib

    try:
        with Image.open(io.BytesIO(stored), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # cut off, or damaged
        return None


class Split(NamedTuple):
    """How a data set is divided.

    sha256: of the two parts, see `look_at_split`; "" if it is not known. in_both: how many test
    images are copies of training images; named: the first of them, (training image, test image).
    in_validation: how many of the official validation part are copies of other training images.
    in_train, in_test: how many images of a part are copies of others of the same part.
    """

    sha256: str = ""
    in_both: int = 0
    named: tuple[tuple[str, str], ...] = ()
    in_validation: int = 0
    in_train: int = 0
    in_test: int = 0

    def warning(self) -> str:
        """What to say of copies in two parts; "" if there are none."""
        said = []
        if self.in_both:
            pairs = ", ".join(f"{b} = {a}" for a, b in self.named)
            more = ", ..." if self.in_both > len(self.named) else ""
            images = counted(self.in_both, "test image")
            said.append(f"{images} also in the training part: {pairs}{more}")
        if self.in_validation:
            said.append(f"{counted(self.in_validation, 'validation image')} also in the rest")
        return "; ".join(said)


def look_at_split(train: Source, test: Source) -> Split:
    """How a data set is divided, by the content of its images.

    The SHA-256 is that of sorted lines "PART<tab>CLASS<tab>IMAGE" and a line break, in ASCII: PART
    is train or test, IMAGE as in `image_digests`, CLASS the smallest IMAGE of the class in both
    parts, so that neither names nor the order of classes matter. Of images with several labels,
    CLASS has the names of the classes that are in the image, sorted, with commas between them, and
    a "?" after those of which there are only difficult objects.

    Returns:
      `Split()` if the images of a part have no digests.
    """
    parts = {"train": train, "test": test}
    images = {part: image_digests(source) for part, source in parts.items()}
    own, other = images["train"], images["test"]
    if own is None or other is None:
        return Split()
    classes = _classes(parts, {"train": own, "test": other})
    lines = sorted(
        f"{part}\t{c}\t{image}\n"
        for part, found in (("train", own), ("test", other))
        for c, image in zip(classes[part], found, strict=True)
    )
    first = {image: i for i, image in reversed(list(enumerate(own))) if image != UNREADABLE}
    both = [i for i, image in enumerate(other) if image in first]
    held = np.zeros(len(own), bool) if train.held is None else train.held
    rest = {image for image, h in zip(own, held, strict=True) if not h} - {UNREADABLE}
    return Split(
        hashlib.sha256("".join(lines).encode("ascii", "backslashreplace")).hexdigest(),
        len(both),
        tuple((_name(train, first[other[i]]), _name(test, i)) for i in both[:_NAMED]),
        sum(image in rest for image, h in zip(own, held, strict=True) if h),
        *(sum(n - 1 for k, n in Counter(x).items() if k != UNREADABLE) for x in (own, other)),
    )


def _name(source: Source, index: int) -> str:
    """Of an image: its file in the part's folder, or its place in the data set."""
    return source.describe(index) if source.paths is None else shown(str(source.paths[index]))


def _classes(parts: dict[str, Source], images: dict[str, list[str]]) -> dict[str, list[str]]:
    """The column CLASS of each part."""
    smallest: dict[int, str] = {}
    for part, source in parts.items():
        for label, image in zip(_labels(source), images[part], strict=True):
            smallest[label] = min(smallest.get(label, image), image)
    return {
        part: [smallest[label] for label in _labels(source)]
        if source.marks is None
        else [_marked(source.class_names, row) for row in source.marks]
        for part, source in parts.items()
    }


def _labels(source: Source) -> list[int]:
    return [-1] * source.num_examples if source.labels is None else source.labels.tolist()


def _marked(names: tuple[str, ...], marks: np.ndarray) -> str:
    return ",".join(
        sorted(f"{n}{'?' if m < 0 else ''}" for n, m in zip(names, marks, strict=True) if m)
    )
