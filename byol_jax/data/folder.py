"""Images in folders, with or without one folder per class."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from byol_jax.data import split as splits
from byol_jax.data.source import MAX_BYTES, Source
from byol_jax.untrusted import size_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_TEST = ("test", "val", "validation")
_BLOCK = 16384


def open_folder(root: str, split: str, channels: int, seed: int) -> Source:
    """Open a folder of JPEG, PNG, WebP or BMP files, nested in any way, in sorted order.

    If it has train/ and one of test/, val/ and validation/ (the first that exists), these are the
    parts; otherwise a tenth is held out, by content. If every image is in one of two or more
    folders, these folders are the classes. Hidden files and folders are skipped.

    Args:
      root: the folder.
      split: "train" or "test".
      channels: 1 or 3.
      seed: for choosing the tenth. Choosing reads up to 64 kB of every image, which takes
        minutes for 1.3 million of them, at every start; a val/ folder avoids this.

    Raises:
      ValueError: the folder does not exist, has no images, or train has not all classes of test.
    """
    top = Path(root)
    if not root or not top.is_dir():
        raise ValueError(f"{root!r} is not a folder; expected data.dir to name a folder of images.")
    train = top / "train" if (top / "train").is_dir() else top
    tests = [top / name for name in _TEST if (top / name).is_dir()] if train != top else []
    files = _images(train)
    classes = _classes(files)
    base = train
    if split == "test" and tests:
        base, files = tests[0], _images(tests[0])
        extra = sorted(set(_classes(files)) - set(classes)) if classes else []
        if extra:
            raise ValueError(
                f"{base} has the class folder {extra[0]!r}, but {train} does not; expected the "
                "same class folders in both."
            )
    elif not tests:
        files = _part(base, files, split, seed)
    labels = np.full(len(files), -1, np.int32)
    if classes and all(os.sep in f for f in files):
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[f.split(os.sep)[0]] for f in files], np.int32)
    may = _may_be_read(base, files)
    return Source(
        f"{root} {split}",
        len(files),
        channels,
        classes=len(classes),
        class_names=tuple(classes),
        labels=labels,
        intact=None if may.all() else may,
        paths=np.array(files, object),
        root=str(base),
    )


def _may_be_read(base: Path, files: list[str]) -> np.ndarray:
    """Whether each file is plain and not too large, bool [N].

    Reading a pipe would never end, and TensorFlow allocates as much memory as a file is large.
    """

    def fits(file: str) -> bool:
        try:
            return size_of(os.path.join(base, file)) <= MAX_BYTES
        except OSError:
            return False

    def block(start: int) -> list[bool]:
        return [fits(file) for file in files[start : start + 1024]]

    with ThreadPoolExecutor(8) as pool:  # slow over a network
        parts = pool.map(block, range(0, len(files), 1024))
        return np.array([ok for part in parts for ok in part], bool)


def _images(base: Path) -> list[str]:
    """Paths of the images under `base`, relative to it, sorted."""
    found, other, seen = [], Counter[str](), set()
    for folder, names, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        names[:] = [] if real in seen else sorted(n for n in names if not n.startswith("."))
        if real in seen:  # a link to a parent folder
            continue
        seen.add(real)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                found.append(os.path.relpath(os.path.join(folder, name), base))
            else:
                other[suffix or "no suffix"] += 1
    if not found:
        saw = ", ".join(f"{n} with {suffix}" for suffix, n in other.most_common(5))
        raise ValueError(
            f"{base} has no images (it has {saw or 'no files'}); expected files ending in "
            f"{', '.join(SUFFIXES)}."
        )
    return sorted(found)


def _classes(files: list[str]) -> list[str]:
    if not all(os.sep in f for f in files):
        return []
    names = sorted({f.split(os.sep)[0] for f in files})
    return names if len(names) > 1 else []


def _part(base: Path, files: list[str], split: str, seed: int) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        held = splits.held_out(list(pool.map(lambda f: _excerpt(base / f), files)), seed)
    part = [f for f, h in zip(files, held, strict=True) if h == (split == "test")]
    if not part:
        raise ValueError(
            f"{base} has {len(files)} images, too few to hold out a tenth as the {split} part; "
            "put images into train/ and val/ folders."
        )
    return part


def _excerpt(path: Path) -> bytes:
    """Size and up to four blocks of a file: equal for equal files, and cheap for large files."""
    try:
        size = size_of(path)
        with path.open("rb") as file:
            if size <= 4 * _BLOCK:
                return size.to_bytes(8, "little") + file.read()
            blocks = []
            for i in range(4):
                file.seek(i * (size - _BLOCK) // 3)
                blocks.append(file.read(_BLOCK))
        return size.to_bytes(8, "little") + b"".join(blocks)
    except OSError:
        return str(path).encode()  # unreadable; the pipeline will count it as damaged
