"""Images with boxes around objects, as VOC and Penn-Fudan store them.

VOC: DIR/JPEGImages/ID.jpg, DIR/Annotations/ID.xml, DIR/ImageSets/Main/{trainval,train,val,test}.txt
Penn-Fudan: DIR/PNGImages/ID.png, DIR/Annotation/ID.txt

Both count pixels from 1 and give the first and the last of a box; here a box is [left, top, right,
bottom] with coordinates between pixels, from 0, so that its area is (right - left) (bottom - top).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byol_jax import pulse
from byol_jax.data import formats
from byol_jax.data.order import generator
from byol_jax.data.source import MAX_BYTES, counted, shown
from byol_jax.data.voc import MOST_XML, read_objects
from byol_jax.untrusted import read_bytes

_LISTS = "ImageSets/Main"
_SPLIT = 1  # what the numbers of the generator are for


class Boxes(NamedTuple):
    """The objects of an image: boxes [N, 4] in px, labels [N], difficult [N] (VOC's)."""

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class Boxed(NamedTuple):
    """A part of a data set.

    files: the images. boxes: of each. digests: of the files. empty: objects that were left out,
    since their box has no area. damaged: images that cannot be read, (name, reason).
    """

    files: tuple[Path, ...]
    boxes: tuple[Boxes, ...]
    digests: tuple[str, ...]
    empty: int
    damaged: tuple[tuple[str, str], ...]

    @property
    def num_examples(self) -> int:
        """How many images could be read."""
        return len(self.files)

    @property
    def num_boxes(self) -> int:
        """How many objects they have, difficult ones included."""
        return sum(len(b.labels) for b in self.boxes)


class BoxData(NamedTuple):
    """The two parts, the names of the classes, and how the parts were told apart."""

    train: Boxed
    test: Boxed
    classes: tuple[str, ...]
    split: str


class _Object(NamedTuple):
    name: str
    corners: tuple[float, float, float, float]  # as stored
    difficult: bool


class _Form(NamedTuple):
    """A form of a data set: the folders of images and annotations, and a reader of the latter."""

    images: str
    annotations: str
    suffix: str
    read: Any


def open_boxes(folders: Sequence[str], test_share: float, split_seed: int) -> BoxData:
    """Open a data set with boxes, and all of its images once, to see whether they can be read.

    Args:
      folders: of the data set; of further ones only the training part is read (VOC 2007 and 2012).
      test_share: part of the images that is held out where there are no lists, 0 to 1.
      split_seed: which images that are.

    Returns:
      Training and test part: `trainval` (or `train` and `val`) and `test` of VOC's lists; `train`
      and `val` where there is no `test`. The classes are those of both parts, by name.

    Raises:
      ValueError: a folder is no such data set, a file of a list is missing, an annotation is
        broken, a part is empty, or no image of a part can be read.
    """
    forms = [_form(f) for f in folders]
    train_ids, test_ids, split = _parts(forms[0], Path(folders[0]), test_share, split_seed)
    listed = [(forms[0], Path(folders[0]), train_ids)]
    for form, folder in zip(forms[1:], folders[1:], strict=True):
        lists = _lists(Path(folder))
        listed.append((form, Path(folder), _union(lists, Path(folder)) or _ids(form, Path(folder))))
    read = [_annotated(*part) for part in listed]
    held = _annotated(forms[0], Path(folders[0]), test_ids)
    objects = [o for part in (*read, held) for _, found in part for o in found]
    classes = tuple(sorted({o.name for o in objects}))
    train = _joined([_opened(part, classes) for part in read])
    test = _opened(held, classes)
    for what, part in (("training", train), ("test", test)):
        if not part.num_boxes:
            why = f": {part.damaged[0][1]}" if part.damaged else ""
            raise ValueError(f"The {what} part of {shown(folders[0])} has no object{why}.")
    return BoxData(train, test, classes, split)


# Which images.


def _form(folder: str) -> _Form:
    for form in (VOC, PENN_FUDAN):
        if (Path(folder) / form.images).is_dir() and (Path(folder) / form.annotations).is_dir():
            return form
    forms = " or ".join(f"{f.images}/ and {f.annotations}/" for f in (VOC, PENN_FUDAN))
    raise ValueError(
        f"{shown(folder) or 'An empty name'} is no data set with boxes: expected a folder with "
        f"{forms}."
    )


def _ids(form: _Form, folder: Path) -> list[str]:
    found = (folder / form.annotations).glob(f"*{form.suffix}")
    return sorted(p.stem for p in found if not p.name.startswith("."))


def _lists(folder: Path) -> dict[str, list[str]]:
    """The names in each of VOC's lists that is there."""
    found = {}
    for name in ("trainval", "train", "val", "test"):
        path = folder / _LISTS / f"{name}.txt"
        if path.is_file():
            lines = read_bytes(path, MAX_BYTES).decode("utf-8", "replace").splitlines()
            found[name] = [line.split()[0] for line in lines if line.strip()]
    return found


def _union(lists: dict[str, list[str]], folder: Path) -> list[str]:
    """All names to learn from: `trainval`, or `train` and `val`."""
    return lists.get("trainval") or lists.get("train", []) + lists.get("val", [])


def _parts(form: _Form, folder: Path, share: float, seed: int) -> tuple[list[str], list[str], str]:
    """(names to learn from, names to test on, what was chosen)."""
    lists = _lists(folder)
    if lists.get("test") and _union(lists, folder):
        whole = "trainval" if lists.get("trainval") else "train and val"
        return _union(lists, folder), lists["test"], f"{whole} / test of {_LISTS}"
    if lists.get("train") and lists.get("val"):
        return lists["train"], lists["val"], f"train / val of {_LISTS}"
    names = _ids(form, folder)
    held = round(share * len(names))
    if not 0 < held < len(names):
        raise ValueError(
            f"--test_share={share:g} of the {counted(len(names), 'image')} of {shown(folder)} "
            "leaves a part empty; expected a share between 0 and 1, and two images or more."
        )
    order = generator(seed, 0, _SPLIT).permutation(len(names))
    test = {names[i] for i in order[:held]}
    rest = [n for n in names if n not in test]
    return rest, sorted(test), f"{held} of {len(names)} images held out by split seed {seed}"


def _annotated(form: _Form, folder: Path, names: list[str]) -> list[tuple[Path, list[_Object]]]:
    """The image and the objects of each name.

    Raises:
      ValueError: an image or annotation is missing or broken.
    """
    suffixes = formats.suffixes()
    images = {p.stem: p for p in (folder / form.images).iterdir() if p.suffix.lower() in suffixes}
    notes = {p.stem: p for p in (folder / form.annotations).glob(f"*{form.suffix}")}
    for kind, there, place in (
        ("image", images, form.images),
        ("annotation", notes, form.annotations),
    ):
        missing = [n for n in names if n not in there]
        if missing:
            raise ValueError(
                f"{counted(len(missing), kind)} of {shown(folder)} missing in {place}/, the first "
                f"of them that of {shown(missing[0])}."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"A list of {shown(folder)} names an image twice; expected each once.")

    def one(name: str) -> tuple[Path, list[_Object]]:
        try:
            return images[name], form.read(read_bytes(notes[name], MOST_XML))
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", None) or str(e)
            raise ValueError(f"{shown(notes[name])} cannot be read: {why}.") from e

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, names))


# Annotations.


def _voc(data: bytes) -> list[_Object]:
    """The objects of an annotation of VOC.

    Raises:
      ValueError: it is no such XML; a phrase.
    """
    found = []
    for o in read_objects(data):
        corners = [side for side in o.corners if side is not None]
        if len(corners) < 4:
            raise ValueError("an object lacks its bndbox with xmin, ymin, xmax, ymax")
        found.append(_Object(o.name, _corners(corners), o.difficult))
    return found


_PENN_NAME = re.compile(r'Original label for object (\d+) "([^"]+)"')
_PENN_BOX = re.compile(
    r"Bounding box for object (\d+) [^:]*: \(\s*(\d+),\s*(\d+)\) - \(\s*(\d+),\s*(\d+)\)"
)
_PENN_COUNT = re.compile(r"Objects with ground truth : (\d+)")


def _penn_fudan(data: bytes) -> list[_Object]:
    """The objects of an annotation of Penn-Fudan, people that walk or stand: one class.

    Raises:
      ValueError: it is no such file; a phrase.
    """
    text = data.decode("utf-8", "replace")
    labels = dict(_PENN_NAME.findall(text))
    said = _PENN_COUNT.search(text)
    found = []
    for number, *corners in _PENN_BOX.findall(text):
        name = labels.get(number, "object")
        name = "person" if name.startswith("PASperson") else name
        found.append(_Object(name, _corners(corners), False))
    if said is None or int(said.group(1)) != len(found):
        many = said.group(1) if said else "no"
        raise ValueError(f"it says {many} objects and has {len(found)} boxes")
    return found


def _corners(stored: list[str]) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(s) for s in stored)
    except ValueError as e:
        raise ValueError(f"a box is {stored}; expected four numbers") from e
    if not all(abs(v) < 1e9 for v in (left, top, right, bottom)):  # NaN fails too
        raise ValueError(f"a box is {stored}; expected four numbers")
    return left, top, right, bottom


VOC = _Form("JPEGImages", "Annotations", ".xml", _voc)
PENN_FUDAN = _Form("PNGImages", "Annotation", ".txt", _penn_fudan)


# Images.


def _opened(part: list[tuple[Path, list[_Object]]], classes: tuple[str, ...]) -> Boxed:
    """The images that can be read, with their boxes inside the image."""
    number = {name: i for i, name in enumerate(classes)}

    def one(pair: tuple[Path, list[_Object]]) -> tuple[Boxes, str, int] | str:
        pulse.beat()
        path, objects = pair
        try:
            data = read_bytes(path, MAX_BYTES)
            height, width = decoded(data).shape[:2]
        except (OSError, ValueError) as e:
            return getattr(e, "strerror", None) or str(e)
        kept = [(o, _inside(o.corners, width, height)) for o in objects]
        full = [(o, box) for o, box in kept if box is not None]
        boxes = Boxes(
            np.array([box for _, box in full], np.float64).reshape(-1, 4),
            np.array([number[o.name] for o, _ in full], np.int64),
            np.array([o.difficult for o, _ in full], bool),
        )
        return boxes, hashlib.sha256(data).hexdigest(), len(kept) - len(full)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, part))
    bad = tuple((str(p), f) for (p, _), f in zip(part, found, strict=True) if isinstance(f, str))
    good = [(p, f) for (p, _), f in zip(part, found, strict=True) if not isinstance(f, str)]
    return Boxed(
        tuple(p for p, _ in good),
        tuple(f[0] for _, f in good),
        tuple(f[1] for _, f in good),
        sum(f[2] for _, f in good),
        bad,
    )


def _inside(
    corners: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """A stored box between pixels and inside the image; None if it has no area as stored."""
    left, top, right, bottom = corners
    if right <= left or bottom <= top:  # a single column or row of pixels is no object either
        return None
    box = (max(left - 1, 0.0), max(top - 1, 0.0), min(right, width), min(bottom, height))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _joined(parts: list[Boxed]) -> Boxed:
    return Boxed(
        tuple(f for p in parts for f in p.files),
        tuple(b for p in parts for b in p.boxes),
        tuple(d for p in parts for d in p.digests),
        sum(p.empty for p in parts),
        tuple(d for p in parts for d in p.damaged),
    )


def decoded(data: bytes) -> np.ndarray:
    """The pixels of an image in a file, uint8 [H, W, 3], as stored (not turned by EXIF data).

    Raises:
      ValueError: it cannot be decoded; a phrase.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
        if image.size[0] * image.size[1] > formats.MAX_PIXELS:
            raise ValueError(f"more than {formats.MAX_PIXELS} pixels")
        return np.asarray(image.convert("RGB"))
    except ValueError:
        raise
    except Exception as e:  # Pillow's plugins raise errors of many kinds
        what = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise ValueError(what if data else "empty file") from e


def same_images(data: BoxData) -> list[str]:
    """Test images that are training images too, by content."""
    train = set(data.train.digests)
    pairs = zip(data.test.files, data.test.digests, strict=True)
    return [p.name for p, digest in pairs if digest in train]
