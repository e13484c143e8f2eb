"""Images in a .npz file."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from byol_jax.data import split as splits
from byol_jax.data.source import Source
from byol_jax.untrusted import one_error

# Names of (images, labels) of each part; the first pair that exists is used.
_TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels"))
_TEST = (("test_images", "test_labels"), ("x_test", "y_test"))
_WANTED = {name for pair in (*_TRAIN, *_TEST) for name in pair}
_NAMES = "images and labels, x_train, y_train, x_test and y_test, or train_images and the like"


MAX_CLASSES = 2**20
"""Labels must be below this, since each class costs memory."""


def open_npz(path: str, split: str, seed: int) -> Source:
    """Open a .npz file of uint8 images [N, H, W] or [N, H, W, C] and, optionally, labels [N].

    Args:
      path: the file. Its arrays are named images, labels; x_train, y_train, x_test, y_test; or
        train_images, train_labels, test_images, test_labels. Labels may be missing, or -1.
      split: "train" or "test"; without test arrays a tenth is held out, by content.
      seed: for choosing that tenth.

    Raises:
      ValueError: the file does not exist, these arrays are missing, their types or shapes differ,
        or they would take more than half of the machine's memory.
    """
    arrays = _load(path)
    train, test = (_find(arrays, names) for names in (_TRAIN, _TEST))
    if train is None:
        have = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"{path} has the arrays {have}; expected {_NAMES}.")
    if split == "test" and test is not None:
        images, labels = _check(path, arrays, test)
    else:
        images, labels = _check(path, arrays, train)
    rows = None
    if test is None:
        held = splits.held_out([image.tobytes() for image in images], seed)
        rows = np.flatnonzero(held if split == "test" else ~held)
        if not len(rows):
            raise ValueError(
                f"{path} has {len(images)} images, too few to hold out a tenth as the {split} "
                f"part; add test arrays ({_TEST[1][0]}, {_TEST[1][1]}) to it."
            )
        images, labels = images[rows], labels[rows]
    # Counted over both parts, since a class may be missing in one.
    known = [arrays[pair[1]] for pair in (train, test) if pair and pair[1] in arrays]
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
    )


def _load(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise ValueError(f"{path!r} is not a file; expected data.dir to name a .npz file.")
    expected = "expected a file written by numpy.savez, of plain arrays."
    with (
        one_error(f"{path} cannot be read ({{}}); {expected}"),
        np.load(path, allow_pickle=False) as file,
        zipfile.ZipFile(path) as entries,
    ):
        wanted = [name for name in file.files if name in _WANTED] or file.files[:10]
        size = sum(_declared(entries, name) for name in wanted)
        if size > _half_of_memory():
            raise ValueError(
                f"its arrays take {size / 2**30:,.1f} GiB, more than half of this machine's memory"
            )
        return {name: file[name] for name in wanted}


def _declared(entries: zipfile.ZipFile, name: str) -> int:
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


def _half_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _find(
    arrays: dict[str, np.ndarray], names: tuple[tuple[str, str], ...]
) -> tuple[str, str] | None:
    return next((pair for pair in names if pair[0] in arrays), None)


def _check(
    path: str, arrays: dict[str, np.ndarray], pair: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    images = arrays[pair[0]]
    if images.dtype != np.uint8:
        raise ValueError(
            f"{path}: {pair[0]} is {images.dtype}; expected uint8, 0 to 255. "
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
