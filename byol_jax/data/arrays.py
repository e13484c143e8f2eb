"""Images in a .npz file."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from byol_jax.data import formats
from byol_jax.data import split as splits
from byol_jax.data.source import Decoding, Source, counted, digest_of, shown
from byol_jax.untrusted import one_error

# Names of (images, labels) of each part; the first pair that exists is used.
_TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels"))
_TEST = (("test_images", "test_labels"), ("x_test", "y_test"))
_VALIDATION = (("val_images", "val_labels"), ("x_val", "y_val"))
_WANTED = {name for pair in (*_TRAIN, *_TEST, *_VALIDATION) for name in pair}
_NAMES = "images and labels, x_train, y_train, x_test and y_test, or train_images and the like"


MAX_CLASSES = 2**20
"""Labels must be below this, since each class costs memory."""


def open_npz(path: str, split: str, how: Decoding, seed: int) -> Source:
    """Open a .npz file of images [N, H, W] or [N, H, W, C] and, optionally, labels [N].

    Images are uint8, or uint16, which is reduced to 8 bits as encoded images are.

    Args:
      path: the file. Its arrays are named images, labels; x_train, y_train, x_test, y_test; or
        train_images, train_labels, test_images, test_labels. Labels may be missing, or -1.
      split: "train" or "test". If the test arrays have no labels, but training and x_val, y_val or
        val_images, val_labels do, these are the test part; without any of them a tenth is held out,
        by content.
      how: only its bits are used.
      seed: for choosing that tenth.

    Raises:
      ValueError: the file does not exist, these arrays are missing, their types or shapes differ,
        or they would take more than half of the machine's memory.
    """
    path = str(Path(path).expanduser())
    arrays, digest = _load(path)
    train = _find(arrays, _TRAIN)
    if train is None:
        have = ", ".join(map(shown, sorted(arrays))) or "none"
        raise ValueError(f"{path} has the arrays {have}; expected {_NAMES}.")
    test = _test_of(arrays, _has_labels(arrays, train))
    taken = test if split == "test" and test is not None else train
    images, labels = _check(path, arrays, taken)
    most = int(images.max(initial=0)) if images.dtype == np.uint16 else 0
    notes = [f"{'training' if split == 'train' else 'test'} part: {taken[0]} {images.shape}"]
    notes += [formats.range_note([most], how.bits, "array")] if most else []
    if images.dtype == np.uint16:
        images = formats.scaled(images, how.bits)
    rows = None
    if test is None:
        notes.append("there is no test part: a tenth is held out, by content")
        held = splits.held_out([image.tobytes() for image in images], seed)
        rows = np.flatnonzero(held if split == "test" else ~held)
        if not len(rows):
            raise ValueError(
                f"{path} has {counted(len(images), 'image')}, too few to hold out a tenth as the "
                f"{split} part; add test arrays ({_TEST[1][0]}, {_TEST[1][1]}) to it."
            )
        images, labels = images[rows], labels[rows]
    elif split == "test" and _has_labels(arrays, train) and not _has_labels(arrays, test):
        notes.append(f"no image of {taken[0]} has a label")
    # Counted over both parts, since a class may be missing in one.
    known = [
        arrays[pair[1]] for pair in (train, *_TEST, *_VALIDATION) if pair and pair[1] in arrays
    ]
    classes = max((int(np.max(values)) + 1 for values in known if values.size), default=0)
    return Source(
        f"{path} {split}",
        len(images),
        images.shape[3],
        classes=classes,
        class_names=tuple(str(i) for i in range(classes)),
        labels=labels,
        images=images,
        rows=rows,
        digest=digest,
        notes=tuple(n for n in notes if n),
    )


def _test_of(arrays: dict[str, np.ndarray], labelled: bool) -> tuple[str, str] | None:
    """The arrays of the test part: the first with labels, if training has any; else the first."""
    found = [p for p in (*_TEST, *_VALIDATION) if p[0] in arrays]
    if labelled:
        found.sort(key=lambda pair: not _has_labels(arrays, pair))
    return found[0] if found else None


def _has_labels(arrays: dict[str, np.ndarray], pair: tuple[str, str]) -> bool:
    labels = arrays.get(pair[1])
    return labels is not None and labels.dtype.kind in "iu" and bool((labels >= 0).any())


def _load(path: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file, and a digest of their names, sizes and checksums."""
    if not Path(path).is_file():
        raise ValueError(f"{path!r} is not a file; expected data.dir to name a .npz file.")
    expected = "expected a file written by numpy.savez, of plain arrays."
    with (
        one_error(f"{path} cannot be read ({{}}); {expected}"),
        np.load(path, allow_pickle=False) as file,
        zipfile.ZipFile(path) as entries,
    ):
        wanted = [name for name in file.files if name in _WANTED] or file.files[:10]
        size = sum(declared_bytes(entries, name) for name in wanted)
        if size > half_of_memory():
            raise ValueError(
                f"its arrays take {size / 2**30:,.1f} GiB, more than half of this machine's memory"
            )
        sums = [f"{i.filename} {i.file_size} {i.CRC}" for i in entries.infolist()]
        return {name: file[name] for name in wanted}, digest_of(s.encode() for s in sorted(sums))


def declared_bytes(entries: zipfile.ZipFile, name: str) -> int:
    """Bytes of one array, after checking that its header and the file agree.

    NumPy allocates memory for whatever a header declares, before it reads.
    """
    entry = entries.getinfo(f"{name}.npy" if f"{name}.npy" in entries.namelist() else name)
    with entries.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"the array {name!r} has .npy version {version}")
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"the array {name!r} contains Python objects")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != entry.file_size - file.tell():
            raise ValueError(f"the array {name!r} does not have the size {shape} that it declares")
    return size


def half_of_memory() -> int:
    """Bytes of half of the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _find(
    arrays: dict[str, np.ndarray], names: tuple[tuple[str, str], ...]
) -> tuple[str, str] | None:
    return next((pair for pair in names if pair[0] in arrays), None)


def _check(
    path: str, arrays: dict[str, np.ndarray], pair: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    images = arrays[pair[0]]
    if images.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{path}: {pair[0]} is {images.dtype}; expected uint8, 0 to 255, or uint16. "
            "Floats in 0..1: np.round(x * 255).astype(np.uint8)."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError(
            f"{path}: {pair[0]} has the shape {arrays[pair[0]].shape}; expected [N, H, W] or "
            "[N, H, W, C] with C 1 or 3 last, none of them 0."
        )
    if pair[1] not in arrays:
        return images, np.full(len(images), -1, np.int32)
    labels = arrays[pair[1]]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # as Keras stores them
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: {pair[1]} is {labels.dtype} {labels.shape}; expected integers "
            f"({len(images)},), one per image."
        )
    if labels.min() < -1:
        raise ValueError(
            f"{path}: {pair[1]} contains {labels.min()}; expected 0 and up, or -1 for unknown."
        )
    if labels.max() >= MAX_CLASSES:
        raise ValueError(
            f"{path}: {pair[1]} contains {labels.max()}; expected classes below {MAX_CLASSES:,}."
        )
    return images, labels.astype(np.int32)
