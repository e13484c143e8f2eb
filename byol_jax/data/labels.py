"""Parts of a data set with few labels: named in a file, or equally many of each class."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from byol_jax.data.source import Source, counted, digest_of, shown
from byol_jax.untrusted import one_error, read_bytes

MOST_BYTES = 2**28  # of a file of names


def named_in(source: Source, path: str) -> Source:
    """The examples that a file names, in the order of the data set.

    Args:
      source: images in files, or in memory.
      path: a text file with one example per line: the name of its file, with or without the folders
        and the suffix (as in SimCLR's lists of 1% and 10% of ImageNet); of images in memory their
        number from 0. Empty lines do not count.

    Raises:
      ValueError: the file cannot be read, names an example twice, one that is not there or a name
        that several have; or the data are a stream.
    """
    if source.is_stream:
        raise ValueError(
            f"data.ids_file selects files or images in memory, but {source.name} is read as a "
            "stream; use a folder of images."
        )
    with one_error(f"data.ids_file {shown(path)} cannot be read ({{}}); expected a text file."):
        text = read_bytes(Path(path).expanduser(), MOST_BYTES).decode("utf-8")
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"data.ids_file {shown(path)} is empty; expected one example per line.")
    places = _places(source, set(ids))
    rows: dict[int, str] = {}
    for name in ids:
        found = places.get(name)
        if found is None or found < 0:
            why = "no image of" if found is None else "several images of"
            raise ValueError(
                f"data.ids_file names {shown(name)!r}, which is {why} {source.name}; expected the "
                f"name of one, such as {_example(source)!r}."
            )
        if found in rows:
            raise ValueError(f"data.ids_file names {shown(name)!r} twice (as {rows[found]!r} too).")
        rows[found] = shown(name)
    chosen = np.array(sorted(rows), np.int64)
    note = f"of {source.name}, the {counted(len(chosen), 'example')} of {shown(path)}"
    digest = digest_of([source.digest.encode(), chosen.tobytes()])
    part = source.take(chosen)
    return dataclasses.replace(part, digest=digest, notes=(*source.notes, note))


def _example(source: Source) -> str:
    return "0" if source.paths is None else shown(str(source.paths[0]))


def _places(source: Source, wanted: set[str]) -> dict[str, int]:
    """Row by every wanted name that an example goes by; -1 where several do."""
    if source.paths is None:
        return {name: i for i in range(source.num_examples) if (name := str(i)) in wanted}
    places: dict[str, int] = {}
    for row, path in enumerate(source.paths):
        file = str(path).replace(os.sep, "/")
        base = file.rsplit("/", 1)[-1]
        names = {file, base, os.path.splitext(file)[0], os.path.splitext(base)[0]}
        for name in names & wanted:
            places[name] = -1 if places.get(name, row) != row else row
    return places


def balanced(source: Source, share: float, seed: int) -> Source:
    """A share of the examples with equally many of each class.

    Of each class as many are taken as it would have if all were equally large, and all of it where
    it has fewer. A smaller share is part of a larger one of the same seed.

    Args:
      source: labelled.
      share: of the examples, above 0.
      seed: for choosing them.

    Raises:
      ValueError: the data are a stream, or the share is less than one per class.
    """
    if source.is_stream or source.labels is None:
        raise ValueError(
            f"eval.label_balance needs the labels of all images, but {source.name} is read as a "
            "stream; set it to False, or use a folder of images."
        )
    classes = np.unique(source.labels[source.labels >= 0])
    each = round(share * int((source.labels >= 0).sum()) / max(len(classes), 1))
    if not each:
        raise ValueError(
            f"eval.label_fraction {share} of {source.name} is less than one image for each of its "
            f"{counted(len(classes), 'class', 'classes')}; set a larger one."
        )
    picked = []
    for c in classes:
        random = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, c], np.uint64)))
        picked.append(random.permutation(np.flatnonzero(source.labels == c))[:each])
    return source.take(np.sort(np.concatenate(picked)))
