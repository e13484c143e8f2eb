"""Images in folders, each with a map of its size: classes (a mask), or depths.

DIR/train/images/a.jpg   DIR/train/masks/a.png      (or depths/ in place of masks/)
DIR/val/...              to choose by; may be missing
DIR/test/...
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byol_jax import pulse
from byol_jax.data import formats
from byol_jax.data.arrays import half_of_memory
from byol_jax.data.source import MAX_BYTES, Decoding, counted, shown
from byol_jax.untrusted import read_bytes

VOID = 255
"""Of masks in memory: the class of a pixel does not count."""

_EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats that keep every number of a map."""
_FORMATS = (*_EXACT, "JPEG", "WEBP")
_SUFFIXES = (*formats.FAST, ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pnm")


class Pairs(NamedTuple):
    """A part of a data set, in memory.

    name: the folder. files: names of the images. images: uint8 [H, W, C] each. targets: of the same
    height and width, masks uint8 with `VOID`, or depths float32 in metres, 0 where not known.
    digests: of the files of the images. damaged: what could not be read, (name, reason).
    """

    name: str
    files: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]
    digests: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...]

    @property
    def num_examples(self) -> int:
        """How many pairs could be read."""
        return len(self.images)

    def take(self, indices: np.ndarray) -> Pairs:
        """The pairs at `indices`; what is damaged stays with the whole."""

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in indices)

        taken = (pick(self.files), pick(self.images), pick(self.targets), pick(self.digests))
        return Pairs(self.name, *taken, ())


class Kind(NamedTuple):
    """What the maps are: the name of their folder, and how they are read.

    read: integers [H, W] -> the target in memory; its ValueErrors are phrases.
    """

    folder: str
    read: Callable[[np.ndarray], np.ndarray]


def masks(void: tuple[int, ...]) -> Kind:
    """Masks of class numbers, 0 to 254.

    Args:
      void: numbers of pixels that do not count.
    """

    def read(values: np.ndarray) -> np.ndarray:
        left_out = np.isin(values, void)
        most = int(np.where(left_out, 0, values).max(initial=0))
        if most >= VOID:
            raise ValueError(
                f"its mask has the class {most}; expected 0 to {VOID - 1}, or a number of eval.void"
            )
        return np.where(left_out, VOID, values).astype(np.uint8)

    return Kind("masks", read)


def depths(unit: float) -> Kind:
    """Depths; 0 where they are not known.

    Args:
      unit: metres per stored number.
    """
    return Kind("depths", lambda values: (values * unit).astype(np.float32))


def open_pairs(
    root: str, part: str, how: Decoding, kind: Kind, side: int = 0, *, needed: bool = True
) -> Pairs | None:
    """Open the images of a part and their maps, which have the same names but for the suffix.

    Args:
      root: the folder of the data set.
      part: "train", "val" or "test".
      how: the images are decoded.
      kind: of the maps.
      side: that the shorter side is scaled to, px, images bicubic with antialiasing, maps by their
        nearest pixel; 0: as stored.
      needed: whether the part must exist.

    Returns:
      The part; None if it does not exist and is not needed.

    Raises:
      ValueError: the folders do not exist, an image has no map, or they do not fit into half of
        the memory.
    """
    top = Path(root).expanduser() if root else Path()
    folders = [top / part / "images", top / part / kind.folder]
    if root and top.is_dir() and not (top / part).is_dir() and not needed:
        return None
    for folder in folders:
        if not root or not folder.is_dir():
            where = shown(folder) if root else "data.dir, which is empty,"
            raise ValueError(
                f"{where} is not a folder; expected DIR/{part}/images and "
                f"DIR/{part}/{kind.folder}, with data.dir=DIR (docs/evaluation.md)."
            )
    images, maps = (_by_stem(folder) for folder in folders)
    if not images:
        raise ValueError(
            f"{shown(folders[0])} has no images; expected files ending in {', '.join(_SUFFIXES)}."
        )
    alone = sorted(images.keys() - maps.keys())
    if alone:
        raise ValueError(
            f"{counted(len(alone), 'image')} of {shown(folders[0])} without a map in "
            f"{shown(folders[1])}, the first of them {shown(images[alone[0]].name)}; expected one "
            "of the same name for each."
        )
    names = sorted(images)
    used, most = 0, half_of_memory()

    def one(name: str) -> tuple[np.ndarray, np.ndarray, str] | str:
        nonlocal used
        pulse.beat()
        try:
            pair = _pair(images[name], maps[name], how, kind, side)
        except (OSError, ValueError) as e:
            return (getattr(e, "strerror", None) or str(e)) or type(e).__name__
        used += pair[0].nbytes + pair[1].nbytes
        if used > most:
            raise MemoryError
        return pair

    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(one, names))
    except MemoryError as e:
        raise ValueError(
            f"The images of {shown(top / part)} take more than {most / 2**30:,.1f} GiB, half of "
            "this machine's memory; set eval.dense_side to a smaller size."
        ) from e
    bad = [(str(images[n]), f) for n, f in zip(names, found, strict=True) if isinstance(f, str)]
    read = [n for n, f in zip(names, found, strict=True) if not isinstance(f, str)]
    if not read:
        raise ValueError(f"No image of {shown(folders[0])} can be read with its map: {bad[0][1]}.")
    pixels, targets, digests = zip(*(f for f in found if not isinstance(f, str)), strict=True)
    files = tuple(images[n].name for n in read)
    return Pairs(shown(top / part), files, pixels, targets, digests, tuple(bad))


def _by_stem(folder: Path) -> dict[str, Path]:
    files = (p for p in folder.iterdir() if not p.name.startswith("."))
    return {p.stem: p for p in files if p.suffix.lower() in _SUFFIXES}


def _pair(
    image_file: Path, map_file: Path, how: Decoding, kind: Kind, side: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """(image, target, digest of the image's file).

    Raises:
      ValueError: one of them cannot be read, or their sizes differ; a phrase.
    """
    from PIL import Image

    data = read_bytes(image_file, MAX_BYTES)
    picture, plan = _opened(data), _opened(read_bytes(map_file, MAX_BYTES))
    if picture.size != plan.size:
        sizes = " px and its map ".join("{} x {}".format(*i.size) for i in (picture, plan))
        raise ValueError(f"it has {sizes} px; expected equal sizes")
    if plan.format not in _EXACT or plan.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise ValueError(
            f"its map is a {plan.format} of mode {plan.mode}; expected numbers per pixel: a PNG of "
            "one channel or with a palette"
        )
    try:
        if picture.mode.startswith("I"):
            grey = formats.scaled(np.asarray(picture), how.bits)
            picture = Image.fromarray(grey)
        picture = picture.convert("L" if how.channels == 1 else "RGB")
        target = kind.read(np.asarray(plan).astype(np.int64))
    except ValueError:
        raise
    except Exception as e:  # Pillow's plugins raise errors of many kinds
        raise ValueError((str(e).splitlines() or [type(e).__name__])[0][:200]) from e
    if side:
        times = side / min(picture.size)
        width, height = (max(1, round(s * times)) for s in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        target = nearest(target, height, width)
    pixels = np.asarray(picture)
    return pixels.reshape(*target.shape, how.channels), target, hashlib.sha256(data).hexdigest()


def _opened(data: bytes) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as e:
        what = f"not a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise ValueError(what if data else "empty file") from e
    if image.size[0] * image.size[1] > formats.MAX_PIXELS:
        raise ValueError(f"more than {formats.MAX_PIXELS} pixels")
    return image


def nearest(target: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map [H, W] at another size, each pixel the one that its centre falls into."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip((height, width), target.shape, strict=True)
    )
    return target[rows[:, None], columns[None]]
