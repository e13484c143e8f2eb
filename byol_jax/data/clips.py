"""Videos in folders, with or without one folder per class; a folder of frames is a video too."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax import pulse
from byol_jax.data import media
from byol_jax.data import split as splits
from byol_jax.data.folder import (
    TEST,
    TRAIN,
    called,
    excerpt,
    first_folder,
    folders_in,
    is_run,
    most_common,
)
from byol_jax.data.source import Clip, Source, counted, digest_of, shown

_NAMED = 3


def open_clips(root: str, split: str, clip: Clip, channels: int, seed: int) -> Source:
    """Open a folder of videos and folders of frames, nested in any way, in sorted order.

    docs/data.md says what is taken as what. Where sound is asked for, silent clips are left out; to
    find them, each is read up to its first sound.

    Args:
      root: the folder.
      split: "train" or "test".
      clip: what is read of each.
      channels: 1 or 3.
      seed: for choosing a tenth, where there is no test part.

    Raises:
      ValueError: the folder does not exist, has no clips, or train has not all classes of test.
    """
    top = Path(root).expanduser() if root else Path()
    if not root or not top.is_dir():
        raise ValueError(f"{root!r} is not a folder; expected data.dir to name a folder of clips.")
    folders = folders_in(top)
    train = next(iter(called(folders, TRAIN)), top)
    tests = [f for f in called(folders, TEST) if train != top and _list(f)[0]]
    found, notes = _listed(train)
    classes = sorted({first_folder(p) for p in found} - {""})
    classes = classes if len(classes) > 1 else []
    base, part = train, found
    if not tests:
        part = _held_out(train, found, split, seed)
        notes = [*notes, "there is no test part: a tenth is held out, by content"]
    elif split == "test":
        base = tests[0]
        part, notes = _listed(base)
        _check_classes(base, part, train, classes)
    if clip.sound:
        part, note = _with_sound(base, part)
        notes = [*notes, note]
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(first_folder(p), -1) for p in part], np.int32)
    name = "training" if split == "train" else "test"
    summary = f"{name} part: {counted(len(part), 'clip')} from {shown(root)}" + (
        f" in {counted(len(classes), 'class', 'classes')}" if classes else ", no labels"
    )
    return Source(
        f"{shown(root)} {split}",
        len(part),
        channels,
        classes=len(classes),
        class_names=tuple(map(shown, classes)),
        labels=labels,
        paths=np.array(part, object),
        root=str(base),
        clip=clip,
        digest=digest_of(os.fsencode(p).replace(os.fsencode(os.sep), b"/") for p in part),
        notes=tuple(n for n in (summary, *notes) if n),
    )


def _listed(base: Path) -> tuple[list[str], list[str]]:
    """The clips under a folder, and what was left out.

    Raises:
      ValueError: there is none.
    """
    found, other = _list(base)
    remedy = ""
    if set(other) & set(media.VIDEOS):
        remedy = "; videos are read by PyAV: pip install 'byol_jax[video]'"
    if not found:
        expected = f"expected videos ({', '.join(media.VIDEOS)}) or folders of frames"
        raise ValueError(
            f"{shown(base)} has no clips (it has {most_common(other) or 'no files'}); {expected}"
            f"{remedy or '.'}"
        )
    total = counted(other.total(), "file")
    return found, [f"left out {total} ({most_common(other)}){remedy}"] if other else []


def _list(base: Path) -> tuple[list[str], Counter[str]]:
    """Paths of the clips under a folder, relative to it and sorted, and files left out by suffix.

    A folder with frames is a clip, and what lies deeper in it is not looked at; but the folder
    itself is none.
    """
    found, other, seen = [], Counter[str](), set[str]()
    videos = media.VIDEOS if media.has_av() else ()
    for folder, names, files in os.walk(base, followlinks=True):
        pulse.beat()
        real, inner = os.path.realpath(folder), os.path.relpath(folder, base)
        if real in seen or (inner != "." and is_run(names, files)):
            names[:] = []
            continue
        seen.add(real)
        files = [f for f in files if not f.startswith(".")]
        if inner != "." and any(f.lower().endswith(media.FRAMES) for f in files):
            found.append(inner)
            names[:] = []
            continue
        names[:] = sorted(n for n in names if not n.startswith("."))
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if suffix in videos:
                found.append(file if inner == "." else os.path.join(inner, file))
            else:
                other[suffix or "without a suffix"] += 1
    return sorted(found), other


def _check_classes(base: Path, part: list[str], train: Path, classes: list[str]) -> None:
    extra = sorted({first_folder(p) for p in part} - {"", *classes})
    if classes and extra:
        raise ValueError(
            f"{shown(base)} has the class folder {shown(extra[0])!r}, but {shown(train)} does not; "
            "expected the same class folders in both."
        )


def _in_parallel(function: Callable[[str], Any], paths: list[str]) -> list[Any]:
    def one(path: str) -> Any:
        pulse.beat()
        return function(path)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, paths))


def _held_out(base: Path, paths: list[str], split: str, seed: int) -> list[str]:
    def content(path: str) -> bytes:
        whole = base / path
        if not whole.is_dir():
            return excerpt(whole)
        return b"".join(excerpt(whole / name) for names in media.contents(whole) for name in names)

    held = splits.held_out(_in_parallel(content, paths), seed)
    part = [p for p, h in zip(paths, held, strict=True) if h == (split == "test")]
    if not part:
        raise ValueError(
            f"{shown(base)} has {counted(len(paths), 'clip')}, too few to hold out a tenth as the "
            f"{split} part; put clips into train/ and val/ folders."
        )
    return part


def _with_sound(base: Path, paths: list[str]) -> tuple[list[str], str]:
    """The clips that are not silent, and what to say of the others.

    Raises:
      ValueError: all are.
    """
    silent = _in_parallel(lambda path: media.is_silent(str(base / path)), paths)
    without = [p for p, s in zip(paths, silent, strict=True) if s]
    if not without:
        return paths, ""
    if len(without) == len(paths):
        raise ValueError(
            f"All {counted(len(paths), 'clip')} of {shown(base)} are silent, and data.sound asks "
            "for sound; set data.sound=0.0, or name other clips."
        )
    some = ", ".join(map(shown, without[:_NAMED])) + (" ..." if len(without) > _NAMED else "")
    kept = [p for p, s in zip(paths, silent, strict=True) if not s]
    return kept, f"left out {counted(len(without), 'silent clip')}: {some}"
