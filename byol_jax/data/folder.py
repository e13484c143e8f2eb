"""Images in folders, with or without one folder per class."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from byol_jax import pulse
from byol_jax.data import formats
from byol_jax.data import split as splits
from byol_jax.data.source import MAX_BYTES, Decoding, Source, counted, digest_of, shown
from byol_jax.untrusted import read_bytes, size_of

TRAIN = ("train",)
TEST = ("test", "val", "validation", "valid")
_BLOCK = 16384
_NAMED = 5


def open_folder(root: str, split: str, how: Decoding, seed: int) -> Source:
    """Open a folder of image files, nested in any way, in sorted order.

    docs/data.md says which files are read and which folders are taken as what. Everything that was
    left out is in the notes of the source.

    Args:
      root: the folder.
      split: "train" or "test".
      how: the images are decoded.
      seed: for choosing the tenth. Choosing reads up to 64 kB of every image, which takes
        minutes for 1.3 million of them, at every start; a val/ folder avoids this.

    Raises:
      ValueError: the folder does not exist, has no images, or train has not all classes of test.
    """
    top = Path(root).expanduser() if root else Path()
    if not root or not top.is_dir():
        raise ValueError(f"{root!r} is not a folder; expected data.dir to name a folder of images.")
    train, tests, notes = _parts(top)
    listed = _listed(train)
    classes = listed.classes()
    if split == "test":
        notes = []
    if split == "test" and tests:
        listed, notes = _test_part(tests, train, classes)
    files = listed.files
    if not tests:
        files = _held_out(train, files, split, seed)
        notes = [*notes, "there is no test part: a tenth is held out, by content"]
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(first_folder(f), -1) for f in files], np.int32)
    paths, may = np.array(files, object), may_be_read(listed.base, files)
    found = Source(
        f"{shown(root)} {split}",
        len(files),
        how.channels,
        classes=len(classes),
        class_names=tuple(map(shown, classes)),
        labels=labels,
        intact=None if may.all() else may,
        paths=paths,
        root=str(listed.base),
        bits=how.bits,
        orient=how.orient,
        digest=digest_of(os.fsencode(f).replace(os.fsencode(os.sep), b"/") for f in files),
    )
    if split == "train" or tests:  # the tenth was part of what the training part has said
        notes = [*notes, *listed.notes(classes), *_looked_at(found)]
    return dataclasses.replace(found, notes=tuple(n for n in (_summary(found, split), *notes) if n))


def _summary(source: Source, split: str) -> str:
    part = "training" if split == "train" else "test"
    images = counted(source.num_examples, "image")
    known = source.labelled or 0
    some = f" ({known:,} of them labelled)" if 0 < known < source.num_examples else ""
    of = f"{some} in {counted(source.classes, 'class', 'classes')}" if known else ", no labels"
    return f"{part} part: {images}{of} from {shown(source.root)}"


# Which folders are which part.


def _parts(top: Path) -> tuple[Path, list[Path], list[str]]:
    """The training folder, the folders that can be the test part, and what to say of the others.

    A folder called train is a class rather than the training part if there is no test part, other
    folders beside it have images, and it has no folders of its own.
    """
    folders = folders_in(top)
    trains, tests = (called(folders, names) for names in (TRAIN, TEST))
    if not trains:
        return top, [], []
    empty = [t for t in tests if not _has_images(t)]
    tests = [t for t in tests if t not in empty]
    train = trains[0]
    others = [f for f in folders if f != train and f not in tests and _has_images(f)]
    if not tests and others and not any(_has_images(f) for f in folders_in(train)):
        note = (
            f"{train.name}/ is taken as a class, beside {_names(others)}; if it is the training "
            f"part, set data.dir to {shown(train)}"
        )
        return top, [], [note]
    loose = _list(top, deep=False).files
    beside = [_names(others)] if others else []
    beside += [counted(len(loose), "image")] if loose else []
    note = f"beside {train.name}/, not read: {' and '.join(beside)}" if beside else ""
    bare = f"no image that is read: {_names(empty)}" if empty else ""
    return train, tests, [note, bare]


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def called(folders: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The folders of these names in any case: in the order of the names, lower case first."""
    found = [f for f in folders if f.name.lower() in names]
    return sorted(found, key=lambda f: (names.index(f.name.lower()), f.name != f.name.lower()))


def _names(folders: Iterable[Path | str]) -> str:
    """The first few names, and how many more there are."""
    names = [shown(f.name if isinstance(f, Path) else f) for f in folders]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"{n}/" for n in names[:_NAMED]) + more


def _test_part(tests: list[Path], train: Path, classes: list[str]) -> tuple[_Listed, list[str]]:
    """The first folder whose images have labels, if training has labels; else the first.

    Raises:
      ValueError: it has classes that training has not.
    """
    for at, folder in enumerate(tests):
        listed = _listed(folder)
        own = {first_folder(f) for f in listed.files} - {""}
        extra = sorted(own - set(classes))
        if classes and not own & set(classes):
            continue
        if classes and extra:
            raise ValueError(
                f"{shown(folder)} has the class folder {shown(extra[0])!r}, but {shown(train)} "
                "does not; expected the same class folders in both."
            )
        without = f"{_names(tests[:at])} without labels and not read" if at else ""
        after = f"{_names(tests[at + 1 :])} not read" if tests[at + 1 :] else ""
        return listed, [without, after]
    none = f"no image of {_names(tests)} has a label: none of the class folders of {train.name}/"
    return _listed(tests[0]), [none]


# Which files are in a folder.


@dataclasses.dataclass
class _Listed:
    """What is under a folder.

    files: images, relative to `base`, sorted. other: files of other formats, by suffix. without:
    for each folder directly under `base`, whether it has such files. runs: folders of runs.
    """

    base: Path
    files: list[str] = dataclasses.field(default_factory=list)
    other: Counter[str] = dataclasses.field(default_factory=Counter)
    without: set[str] = dataclasses.field(default_factory=set)
    runs: list[str] = dataclasses.field(default_factory=list)

    def classes(self) -> list[str]:
        """The folders that are classes: those with images, if there are two or more."""
        names = sorted({first_folder(f) for f in self.files} - {""})
        return names if len(names) > 1 else []

    def notes(self, classes: list[str]) -> list[str]:
        """What was left out, and which images have no label."""
        notes = []
        if self.other:
            missing = set(self.other) & set(formats.ALL)
            packages = f"; {', '.join(sorted(missing))}: pip install 'byol_jax[formats]'"
            remedy = packages if missing else ""
            total = counted(self.other.total(), "file")
            notes.append(f"left out {total} of other formats ({most_common(self.other)}){remedy}")
        emptied = sorted(self.without - {first_folder(f) for f in self.files})
        if emptied:
            have = "has" if len(emptied) == 1 else "have"
            notes.append(f"{_names(emptied)} {have} no image that is read: no class")
        if self.runs:
            what = "folder of a training run" if len(self.runs) == 1 else "folders of training runs"
            notes.append(f"left out {_names(sorted(self.runs))}: the {what}")
        loose = [f for f in self.files if not first_folder(f)]
        if classes and loose:
            are = "is" if len(loose) == 1 else "are"
            notes.append(
                f"{counted(len(loose), 'image')} beside the class folders {are} without a label: "
                f"{shown(loose[0])}{' ...' if len(loose) > 1 else ''}"
            )
        return notes


def first_folder(file: str) -> str:
    """The first folder of a relative path; "" if it has none."""
    return file.split(os.sep, 1)[0] if os.sep in file else ""


def most_common(other: Counter[str]) -> str:
    """The most common suffixes, with their numbers."""
    return ", ".join(f"{n} {shown(suffix)}" for suffix, n in other.most_common(_NAMED))


def is_run(folders: Iterable[str], files: Iterable[str]) -> bool:
    """Whether a folder, of these contents, is one that `train` writes, or begins to write."""
    if "run.lock" in files:  # `run_lock.FILE`, all that there is while the data are opened
        return True
    return "config.json" in files and ("checkpoints" in folders or "metrics.jsonl" in files)


def _has_images(folder: Path) -> bool:
    """Whether there is an image anywhere under a folder; stops at the first."""
    if is_run(*(os.listdir(folder),) * 2):
        return False
    return bool(_list(folder, most=1).files)


def _listed(base: Path) -> _Listed:
    """The images under a folder.

    Raises:
      ValueError: there is none.
    """
    listed = _list(base)
    if not listed.files:
        raise ValueError(
            f"{shown(base)} has no images (it has {most_common(listed.other) or 'no files'}); "
            f"expected files ending in {', '.join(formats.suffixes())}."
        )
    return listed


def _list(base: Path, *, deep: bool = True, most: int = 0) -> _Listed:
    """The images under a folder.

    Args:
      base: the folder.
      deep: whether to look into its folders.
      most: stop at so many images; 0: list all.
    """
    listed, read = _Listed(base), formats.suffixes()
    seen: set[str] = set()
    for folder, names, files in os.walk(base, followlinks=True):
        pulse.beat()
        real = os.path.realpath(folder)
        inner = os.path.relpath(folder, base)
        run = inner != "." and is_run(names, files)
        listed.runs += [inner] if run else []
        if run or real in seen:  # a link to a parent folder
            names[:] = []
            continue
        seen.add(real)
        names[:] = sorted(n for n in names if not n.startswith(".")) if deep else []
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in read:
                listed.files.append(name if inner == "." else os.path.join(inner, name))
            else:
                listed.other[suffix or "without a suffix"] += 1
                listed.without |= {inner.split(os.sep)[0]} - {"."}
        if most and len(listed.files) >= most:
            break
    listed.files.sort()
    return listed


def may_be_read(base: Path, files: list[str]) -> np.ndarray:
    """Whether each file is plain and not too large, bool [N].

    Reading a pipe would never end, and TensorFlow allocates as much memory as a file is large.
    """

    def fits(file: str) -> bool:
        pulse.beat()
        try:
            return size_of(os.path.join(base, file)) <= MAX_BYTES
        except OSError:
            return False

    def block(start: int) -> list[bool]:
        return [fits(file) for file in files[start : start + 1024]]

    with ThreadPoolExecutor(8) as pool:  # slow over a network
        parts = pool.map(block, range(0, len(files), 1024))
        return np.array([ok for part in parts for ok in part], bool)


def _looked_at(source: Source) -> list[str]:
    """What to say of images of 16 bits and of several pages, from a few files."""
    assert source.paths is not None
    deep = [p for p in source.paths if formats.may_be_deep(p)]
    samples = []
    for at in formats.samples_of(len(deep)):
        try:
            samples.append(read_bytes(Path(source.root, deep[at]), MAX_BYTES))
        except (OSError, ValueError):
            continue
    return [formats.look_at_bits(samples, source.bits), formats.look_at_pages(samples)]


# A tenth, where there is no test part.


def _held_out(base: Path, files: list[str], split: str, seed: int) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        held = splits.held_out(list(pool.map(lambda f: excerpt(base / f), files)), seed)
    part = [f for f, h in zip(files, held, strict=True) if h == (split == "test")]
    if not part:
        raise ValueError(
            f"{shown(base)} has {counted(len(files), 'image')}, too few to hold out a tenth as the "
            f"{split} part; put images into train/ and val/ folders."
        )
    return part


def excerpt(path: Path) -> bytes:
    """Size and up to four blocks of a file: equal for equal files, and cheap for large files."""
    pulse.beat()
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
        return os.fsencode(path.name)  # unreadable; the pipeline will count it as damaged
