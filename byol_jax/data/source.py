"""A data set of images: how many examples it has, and what is needed to read them.

`opening.py` makes a `Source` from a name; `stream.py` and `pipeline.py` read its examples.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**29
"""Image files and records larger than this are not read; they count as damaged images."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its path, and how many records it has."""

    path: str
    records: int


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set of N images, in one of four forms: `images`, `encoded`, `paths` or a stream.

    name: the requested name, with the split: "digits train".
    num_examples: N. channels: C of every image, 1 or 3.
    classes: how many, 0 without labels. class_names: their names.
    labels: int32 [N], -1 if unknown; None for streams, whose labels are in the records.
    images: uint8 [N, H, W, C], decoded, in memory.
    intact: bool [N], False for images that did not decode and files that must not be read (None:
    all are intact).
    encoded: tf.string [N], encoded images in memory.
    paths: object [N], image files, relative to the folder `root`.
    shards: TFRecord files, in order. A data set with only shards is read as a stream.
    rows: int64 [N], each example's position in what was opened (None: its index).
    """

    name: str
    num_examples: int
    channels: int
    classes: int = 0
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    images: np.ndarray | None = None
    intact: np.ndarray | None = None
    encoded: Any = None
    paths: np.ndarray | None = None
    root: str = ""
    shards: tuple[Shard, ...] = ()
    rows: np.ndarray | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the examples can only be read in the order of their shards."""
        return self.images is None and self.encoded is None and self.paths is None

    def describe(self, index: int) -> str:
        """The name of an example in messages: its file, or its position in the data set."""
        if self.paths is not None:
            return str(Path(self.root) / str(self.paths[index]))
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
                f"Holding out {fraction} of the {self.num_examples} examples of {self.name} "
                "leaves a part empty; expected a fraction that leaves something in both."
            )
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(self.num_examples)
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))

    def _hold_out_shards(self, fraction: float) -> tuple[Source, Source]:
        count = max(1, round(len(self.shards) * fraction))
        if not 0 < fraction < 1 or count >= len(self.shards):
            raise ValueError(
                f"Holding out {fraction} of the {len(self.shards)} shards of {self.name} leaves a "
                "part empty; a stream is held out by whole shards: prepare it with more of them."
            )

        def part(shards: tuple[Shard, ...], name: str) -> Source:
            records = sum(s.records for s in shards)
            return dataclasses.replace(self, name=name, num_examples=records, shards=shards)

        return (
            part(self.shards[:-count], self.name),
            part(self.shards[-count:], f"{self.name}, last {count} shards"),
        )
