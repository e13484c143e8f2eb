"""A data set of images: how many examples it has, and what is needed to read them.

`opening.py` makes a `Source` from a name; `stream.py` and `pipeline.py` read its examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_BYTES = 2**29
"""Image files and records larger than this are not read; they count as damaged images."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its path, and how many records it has."""

    path: str
    records: int


class Decoding(NamedTuple):
    """How encoded images become pixels.

    channels: 1 or 3. bits: in use of values stored in 16 bits, 1 to 16, which become 0 to 255; 0:
    all 16. orient: whether images are turned upright as their EXIF data ask for.
    """

    channels: int = 3
    bits: int = 0
    orient: bool = False


class Clip(NamedTuple):
    """What is read of a clip of a video.

    frames: T, at least 1. stride: frames of the video from one of them to the next. sound: seconds,
    0.0 for none; rate: its samples per second.
    """

    frames: int = 1
    stride: int = 1
    sound: float = 0.0
    rate: int = 16_000

    @property
    def samples(self) -> int:
        """Of the sound."""
        return round(self.sound * self.rate)

    @property
    def span(self) -> int:
        """Frames of the video from the first that is read to the last."""
        return (self.frames - 1) * self.stride + 1


def shown(name: str | Path) -> str:
    """A file name that can be printed on one line: other bytes and line breaks are escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(n: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 image", "1,200 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


MAX_NAMED = 10_000
"""Classes up to which a fingerprint has their names rather than their number."""


def digest_of(parts: Iterable[bytes]) -> str:
    """What tells a sequence of names from others: 16 hexadecimal digits of its SHA-256."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set of N images, in one of four forms: `images`, `encoded`, `paths` or a stream.

    name: the requested name, with the split: "digits train".
    num_examples: N. channels: C of every image, 1 or 3.
    classes: how many, 0 without labels. class_names: their names.
    labels: int32 [N], -1 if unknown; None for streams, whose labels are in the records.
    marks: of images with several labels each, which have no `labels` and 0 `classes`: int8 [N, K]
      for the K classes of `class_names`: 1 it is there, 0 it is not, -1 only as difficult objects.
    held: bool [N], the official validation part of the training images; None if there is none.
    images: uint8 [N, H, W, C], decoded, in memory.
    intact: bool [N], False for images that did not decode and files that must not be read (None:
    all are intact).
    encoded: tf.string [N], encoded images in memory.
    paths: object [N], image files, relative to the folder `root`; with `clip`, videos and folders
      of frames.
    clip: what is read of each video; None for images.
    shards: TFRecord files, in order. A data set with only shards is read as a stream.
    rows: int64 [N], each example's position in what was opened (None: its index).
    bits, orient: how images are decoded, see `Decoding`.
    digest: of the names or contents of what was opened, wherever it is kept; "" if not known.
    notes: what was noticed at opening, one sentence each: files left out, folders taken as parts.
    """

    name: str
    num_examples: int
    channels: int
    classes: int = 0
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    marks: np.ndarray | None = None
    held: np.ndarray | None = None
    images: np.ndarray | None = None
    intact: np.ndarray | None = None
    encoded: Any = None
    paths: np.ndarray | None = None
    root: str = ""
    clip: Clip | None = None
    shards: tuple[Shard, ...] = ()
    rows: np.ndarray | None = None
    bits: int = 0
    orient: bool = False
    digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def decoding(self) -> Decoding:
        """How the images are decoded."""
        return Decoding(self.channels, self.bits, self.orient)

    @property
    def labelled(self) -> int | None:
        """How many examples have a known label; None for a stream with classes."""
        if self.labels is None:
            return None if self.classes else 0
        return int((self.labels >= 0).sum())

    def fingerprint(self) -> dict[str, int | str | list[str]]:
        """What must be the same for a run to go on with these data, as JSON.

        Returns:
          {"examples": their number, "classes": their names in the order of the labels (their number
          beyond `MAX_NAMED`), "digest": see above}. The place of the data is no part of it.
        """
        named = len(self.class_names) == self.classes <= MAX_NAMED
        return {
            "examples": self.num_examples,
            "classes": list(self.class_names) if named else self.classes,
            "digest": self.digest,
        }

    @property
    def is_stream(self) -> bool:
        """Whether the examples can only be read in the order of their shards."""
        return self.images is None and self.encoded is None and self.paths is None

    def describe(self, index: int) -> str:
        """The name of an example in messages: its file, or its position in the data set."""
        if self.paths is not None:
            return shown(Path(self.root) / str(self.paths[index]))
        if self.shards:
            shard, record = self.locate(index)
            return f"{self.name}, example {self._row(index)} (record {record} of {shard.path})"
        return f"{self.name}, example {self._row(index)}"

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of an example, and its record's position in the shard."""
        left = self._row(index)
        for shard in self.shards:
            if left < shard.records:
                return shard, left
            left -= shard.records
        raise ValueError(f"{self.name} has no example {index}; it has {self.num_examples}.")

    def _row(self, index: int) -> int:
        return int(index) if self.rows is None else int(self.rows[index])

    def take(self, indices: np.ndarray) -> Source:
        """The data set of the examples at `indices`, int [M], in that order.

        Raises:
          ValueError: this is a stream.
        """
        if self.is_stream:
            raise ValueError(
                f"{self.name} is read as a stream, so its examples cannot be selected; "
                "hold out whole shards with hold_out instead."
            )
        at = np.asarray(indices, np.int64)
        rows = at if self.rows is None else self.rows[at]

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[at]

        encoded = self.encoded
        if encoded is not None:
            import tensorflow as tf  # only here: the strings are TensorFlow tensors

            encoded = tf.gather(encoded, at)
        return dataclasses.replace(
            self,
            num_examples=len(at),
            labels=pick(self.labels),
            marks=pick(self.marks),
            held=pick(self.held),
            images=pick(self.images),
            intact=pick(self.intact),
            encoded=encoded,
            paths=pick(self.paths),
            rows=rows,
        )

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[Source, Source]:
        """Split off a fraction of the examples; for a stream, its last shards.

        Args:
          fraction: of the examples, between 0 and 1.
          seed: for choosing the examples.

        Returns:
          (rest, held), neither of them empty.

        Raises:
          ValueError: one of the two would be empty.
        """
        if self.is_stream:
            return self._hold_out_shards(fraction)
        held = round(self.num_examples * fraction)
        if not 0 < held < self.num_examples:
            raise ValueError(
                f"Holding out {fraction} of the {counted(self.num_examples, 'example')} of "
                f"{self.name} leaves a part empty; expected a fraction that leaves something in "
                "both."
            )
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(self.num_examples)
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))

    def _hold_out_shards(self, fraction: float) -> tuple[Source, Source]:
        count = max(1, round(len(self.shards) * fraction))
        if not 0 < fraction < 1 or count >= len(self.shards):
            raise ValueError(
                f"Holding out {fraction} of the {counted(len(self.shards), 'shard')} of "
                f"{self.name} leaves a part empty; a stream is held out by whole shards: prepare "
                "it with more of them."
            )

        def part(shards: tuple[Shard, ...], name: str) -> Source:
            records = sum(s.records for s in shards)
            return dataclasses.replace(self, name=name, num_examples=records, shards=shards)

        return (
            part(self.shards[:-count], self.name),
            part(self.shards[-count:], f"{self.name}, last {counted(count, 'shard')}"),
        )
