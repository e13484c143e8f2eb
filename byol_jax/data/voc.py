"""Images with several labels each, in a folder as PASCAL VOC's (2007) is.

JPEGImages/ID.jpg   ImageSets/Main/trainval.txt, test.txt: one ID per line
Annotations/ID.xml  or ImageSets/Main/CLASS_trainval.txt, CLASS_test.txt: "ID 1", 0 or -1 per line
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

import numpy as np

from byol_jax import pulse
from byol_jax.data import formats
from byol_jax.data.folder import may_be_read
from byol_jax.data.source import Decoding, Source, counted, digest_of, shown
from byol_jax.untrusted import one_error, read_bytes

PARTS = {"train": "trainval", "test": "test"}
MOST_BYTES = 2**26  # of a list
MOST_XML = 2**22  # bytes of an annotation
# The marks of a list by class, as ours: 0 is there for "only difficult objects".
_MARKS = {"1": 1, "0": -1, "-1": 0}
# An image: what there is of each class in it, 1 or, only difficult objects, -1.
_Found = Mapping[str, int]


def is_voc(folder: Path) -> bool:
    """Whether a folder has the form of VOC's."""
    return all((folder / part).is_dir() for part in ("JPEGImages", "ImageSets/Main"))


def open_voc(root: str, split: str, how: Decoding, seed: int) -> Source:
    """Open a folder of VOC's form.

    Args:
      root: the folder that has JPEGImages/.
      split: "train", which is trainval.txt, or "test". Where there are no such files the images are
        those of the lists by class. Lists by class, if there are any, count instead of the
        annotations, of which only names and "difficult" are read.
      how: the images are decoded.
      seed: unused.

    Returns:
      A source without labels, but with `marks`, and with the images of val.txt as `held`. The
      classes are those of the training part, sorted by name.

    Raises:
      ValueError: something is missing, a list or an annotation is not as expected, or the test part
        has a class that training has not.
    """
    del seed
    top = Path(root).expanduser() if root else Path()
    if not root or not is_voc(top):
        raise ValueError(
            f"{root!r} is not a folder of VOC's form; expected data.dir to name one that has "
            "JPEGImages/ and ImageSets/Main/ (of VOC2007: VOCdevkit/VOC2007)."
        )
    found = _part(top, split)
    train = found if split == "train" else _part(top, "train")
    classes = _classes(train)
    extra = [name for name in _classes(found) if name not in classes]
    if extra or not classes:
        what = f"the class {shown(extra[0])!r}, which training has not" if extra else "no class"
        raise ValueError(f"The {split} part of {shown(root)} has {what}.")
    files = _files(top / "JPEGImages", found)
    may = may_be_read(top / "JPEGImages", files)
    marks = np.array([[image.get(c, 0) for c in classes] for image in found.values()], np.int8)
    validation = _listed(top, "val") if split == "train" else {}
    held = np.array([name in validation for name in found], bool)
    images = counted(len(found), "image")
    return Source(
        f"{shown(root)} {split}",
        len(found),
        how.channels,
        class_names=tuple(map(shown, classes)),
        marks=marks,
        held=held if 0 < held.sum() < len(held) else None,
        intact=None if may.all() else may,
        paths=np.array(files, object),
        root=str(top / "JPEGImages"),
        bits=how.bits,
        orient=how.orient,
        digest=digest_of([*(os.fsencode(f) for f in files), marks.tobytes()]),
        notes=(
            f"{'training' if split == 'train' else 'test'} part: {images} with "
            f"{counted(len(classes), 'class', 'classes')} from {shown(root)}",
        ),
    )


def _classes(part: Mapping[str, _Found]) -> list[str]:
    return sorted({name for image in part.values() for name in image})


def _part(top: Path, split: str) -> dict[str, _Found]:
    """The images of a part in order, and what is in each."""
    part = PARTS[split]
    ids = _listed(top, part)
    by_class = sorted((top / "ImageSets/Main").glob(f"*_{part}.txt"))
    if by_class:
        return _of_lists(by_class, part, ids)
    if not ids:
        raise ValueError(
            f"{shown(top)}/ImageSets/Main has no image in {part}.txt and no lists CLASS_{part}.txt"
            "; expected one of them (VOC2007's test part is a download of its own)."
        )
    found: dict[str, _Found] = {}
    for name in ids:
        pulse.beat()
        path = top / "Annotations" / f"{name}.xml"
        expected = "expected an annotation as VOC's are; repair it, or take it from the lists"
        with one_error(f"{shown(path)} cannot be read ({{}}); {expected}."):
            objects = read_objects(read_bytes(path, MOST_XML))
        found[name] = _whether_difficult(objects)
    return found


def _whether_difficult(objects: Iterable[VocObject]) -> _Found:
    found: dict[str, int] = {}
    for o in objects:
        found[o.name] = 1 if not o.difficult else found.get(o.name, -1)
    return found


def _of_lists(files: list[Path], part: str, ids: Mapping[str, None]) -> dict[str, _Found]:
    """What the lists by class say of the images `ids`, or of all that they name.

    Raises:
      ValueError: a line is not as expected, or an image is missing in a list.
    """
    found: dict[str, dict[str, int]] = {name: {} for name in ids}
    for at, file in enumerate(files):
        name = file.name.removesuffix(f"_{part}.txt")
        seen = set()
        for words in _lines(file):
            if len(words) != 2 or words[1] not in _MARKS:
                raise ValueError(
                    f"{shown(file)} has the line {shown(' '.join(words))[:100]!r}; expected an "
                    "image and -1, 0 or 1."
                )
            image, mark = words[0], _MARKS[words[1]]
            if image not in found and (ids or at):
                where = f"{part}.txt" if ids else files[0].name
                raise ValueError(f"{shown(file)} names {shown(image)!r}, but {where} does not.")
            seen.add(_checked(image, file))
            found.setdefault(image, {})
            if mark:
                found[image][name] = mark
        if len(seen) < len(found):
            missing = next(image for image in found if image not in seen)
            raise ValueError(
                f"{shown(file)} does not name {shown(missing)!r}; expected all images."
            )
    return dict(found)


def _listed(top: Path, part: str) -> dict[str, None]:
    """The images that a plain list names, in its order; none if there is no list."""
    file = top / "ImageSets/Main" / f"{part}.txt"
    return {_checked(words[0], file): None for words in _lines(file)} if file.exists() else {}


def _lines(file: Path) -> list[list[str]]:
    with one_error(f"{shown(file)} cannot be read ({{}}); expected a text file."):
        lines = read_bytes(file, MOST_BYTES).decode("utf-8").splitlines()
    return [words for line in lines if (words := line.split())]


def _checked(name: str, file: Path) -> str:
    if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        raise ValueError(
            f"{shown(file)} names the image {shown(name)[:100]!r}; expected the name of a file in "
            "JPEGImages/ without its suffix."
        )
    return name


def _files(folder: Path, images: Iterable[str]) -> list[str]:
    """The file of each image; ID.jpg where there is none, which then counts as damaged."""
    read = formats.suffixes()
    there = sorted(f for f in os.listdir(folder) if os.path.splitext(f)[1].lower() in read)
    by_name = {os.path.splitext(f)[0]: f for f in there}
    return [by_name.get(name, f"{name}.jpg") for name in images]


class VocObject(NamedTuple):
    """An object of an annotation: its name, whether it is difficult, and its corners as stored.

    corners: xmin, ymin, xmax, ymax; None where one is missing.
    """

    name: str
    difficult: bool
    corners: tuple[str | None, ...]


class _Plain(ElementTree.TreeBuilder):
    """Refuses document types, with which come entities that grow, or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("it declares a document type")


def read_objects(data: bytes) -> list[VocObject]:
    """The objects of an annotation.

    Raises:
      ValueError: it declares a document type (and with it might declare entities), is no XML, or
        has an object without a name; a phrase.
    """
    try:
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Plain()))
    except (ElementTree.ParseError, ValueError, LookupError) as e:
        raise ValueError(f"no XML as expected: {e}") from e
    found = []
    for thing in root.iter("object"):
        name, difficult = ((thing.findtext(of) or "").strip() for of in ("name", "difficult"))
        if not name:
            raise ValueError("an object has no name")
        sides = ("xmin", "ymin", "xmax", "ymax")
        corners = tuple(thing.findtext(f"bndbox/{side}") for side in sides)
        found.append(VocObject(name, difficult == "1", corners))
    return found
