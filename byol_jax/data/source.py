"""What images there are: scikit-learn's digits, a .npz file, a folder, or any tfds data set.

Opening digits or a .npz file does not import TensorFlow. How an example is read inside tf.data
is `stream.py` and `pipeline.py`'s business; what they need is in `Source`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**29
"""Image files and records that are larger are not read: they count as damaged images."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: where it is, and how many records it holds."""

    path: str
    records: int


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set of N images, in one of four forms: `images`, `encoded`, `paths` or a stream.

    name: what was asked for, with the split: "digits train".
    num_examples: N. channels: C of every image, 1 or 3.
    classes: how many, 0 where there are no labels. class_names: their names.
    labels: int32 [N], -1 unknown; None for streams, whose labels are in the records.
    images: uint8 [N, H, W, C], decoded, in memory; intact: bool [N], False where it did not decode,
    or, of a file, must not be read (None: all did, and may).
    encoded: tf.string [N], encoded images in memory.
    paths: object [N], image files; root: the folder that they are named from.
    shards: TFRecord files, in order. Alone, they are read as a stream.
    rows: int64 [N], each example's place in what was opened (None: its index).
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
        """The name of an example for a message: its file, or its place in the data set."""
        if self.paths is not None:
            return str(Path(self.root) / str(self.paths[index]))
        if self.shards:
            shard, record = self.locate(index)
            return f"{self.name}, example {self._row(index)} (record {record} of {shard.path})"
        return f"{self.name}, example {self._row(index)}"

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard that holds an example, and the record's place in it."""
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
                f"{self.name} is read as a stream, and its examples cannot be picked; "
                "hold out whole shards with hold_out instead."
            )
        at = np.asarray(indices, np.int64)
        rows = at if self.rows is None else self.rows[at]

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[at]

        encoded = self.encoded
        if encoded is not None:
            import tensorflow as tf  # only here: the strings are TensorFlow's

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
        """Split off a share of the examples; of a stream, its last shards.

        Args:
          fraction: of the examples, between 0 and 1.
          seed: which examples.

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


def open_source(
    name: str, data_dir: str = "", split: str = "train", *, channels: int = 3, seed: int = 0
) -> Source:
    """Open a data set.

    Args:
      name: "digits", "npz", "folder", or any tfds name.
      data_dir: the .npz file, the folder of images, or the folder of prepared tfds data.
      split: "train", or "test" for evaluation.
      channels: 1 or 3, of encoded images once decoded; arrays keep their own.
      seed: of the tenth that is held out of data without a test part.

    Returns:
      The data set.

    Raises:
      ValueError: it is not there or not as expected, with the remedy.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'.")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; expected 1 or 3.")
    if name not in _OPEN:
        from byol_jax.data import records  # imports TensorFlow

        return records.open_tfds(name, data_dir, split, channels)
    return _OPEN[name](data_dir, split, channels, seed)


def _open_digits(data_dir: str, split: str, channels: int, seed: int) -> Source:
    """scikit-learn's 1,797 scans of 8x8 px; the last 500 of a fixed permutation are the test."""
    del data_dir, channels, seed
    from sklearn.datasets import load_digits  # comes with scikit-learn: nothing is downloaded

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.images))
    rows = order[:1297] if split == "train" else order[1297:]
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(
        f"digits {split}",
        len(rows),
        1,
        classes=10,
        class_names=tuple("0123456789"),
        labels=data.target[rows].astype(np.int32),
        images=images[rows],
        rows=rows,
    )


def _open_npz(data_dir: str, split: str, channels: int, seed: int) -> Source:
    del channels
    from byol_jax.data import arrays

    return arrays.open_npz(data_dir, split, seed)


def _open_folder(data_dir: str, split: str, channels: int, seed: int) -> Source:
    from byol_jax.data import folder

    return folder.open_folder(data_dir, split, channels, seed)


_OPEN: dict[str, Callable[[str, str, int, int], Source]] = {
    "digits": _open_digits,
    "npz": _open_npz,
    "folder": _open_folder,
}
