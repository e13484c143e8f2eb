"""The records of TFRecord files; a damaged record does not shift the records after it.

A file is a sequence of records: each is a length (8 bytes), its checksum (4), the data and their
checksum (4). As long as the lengths lead to the end of the file, the offset of every record is
known. The lengths are checked before TensorFlow reads, since it allocates memory for whatever a
length says, or crashes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from byol_jax.data import decode
from byol_jax.data.source import MAX_BYTES, Shard
from byol_jax.untrusted import size_of

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types
Dataset = Any  # tf.data.Dataset

_FRAME = 16  # bytes of a record in addition to its data


@functools.lru_cache(maxsize=8192)
def record_offsets(shard: Shard) -> np.ndarray:
    """Where each record of a shard begins, and lastly where the file ends, int64 [N + 1], in bytes.

    Raises:
      ValueError: the lengths do not lead to the end of the file in the declared number of records.
      OSError: the file cannot be read.
    """
    remote = "://" in shard.path
    size = tf.io.gfile.stat(shard.path).length if remote else size_of(shard.path)
    found = [0]
    with tf.io.gfile.GFile(shard.path, "rb") if remote else open(shard.path, "rb", 0) as file:
        while found[-1] < size and len(found) <= shard.records:
            if remote:
                file.seek(found[-1])
                head = file.read(8)
            else:
                head = os.pread(file.fileno(), 8, found[-1])
            end = found[-1] + _FRAME + int.from_bytes(head, "little")
            if len(head) < 8 or end > size:
                raise ValueError(
                    f"{shard.path} is cut or corrupt at record {len(found) - 1} of {shard.records} "
                    f"(byte {found[-1]:,} of {size:,})"
                )
            found.append(end)
    if len(found) != shard.records + 1 or found[-1] != size:
        more = "more than" if found[-1] != size else f"{len(found) - 1} records, not"
        raise ValueError(f"{shard.path} has {more} the {shard.records} that its data set declares")
    return np.array(found, np.int64)


@decode.plain
def reader(
    shards: Sequence[Shard], classes: int, *, safe: bool
) -> Callable[[Tensor, Tensor, Tensor], Dataset]:
    """How records are read: (shard, first, count) -> elements (encoded image, label int32).

    Args:
      shards: of the data set.
      classes: labels are 0 to classes - 1, or -1; 0: no labels.
      safe: whether a damaged record becomes an empty image with label -1; otherwise it ends the
        data set with an error. Costs about 0.5 ms per record.

    Returns:
      A function of int64 scalars.
    """
    paths = tf.constant([s.path for s in shards])
    local = tf.constant(["://" not in s.path for s in shards])

    def look(shard: Any) -> np.ndarray:
        return record_offsets(shards[int(shard)])

    def check(shard: Any) -> np.bool_:
        if np.diff(look(shard)).max() > MAX_BYTES:
            raise ValueError("a record is too large")
        return np.True_

    def take(record: Tensor) -> tuple[Tensor, Tensor]:
        return parse(record, classes)

    def fast(shard: Tensor, first: Tensor, count: Tensor) -> Dataset:
        # Many small reads are slow over a network: there TensorFlow's own errors must suffice.
        fits = tf.cond(
            local[shard],
            lambda: tf.numpy_function(check, [shard], tf.bool),
            lambda: tf.constant(True),
        )
        with tf.control_dependencies([fits]):
            path = tf.identity(paths[shard])
        return tf.data.TFRecordDataset(path).skip(first).take(count).map(take)

    def slow(shard: Tensor, first: Tensor, count: Tensor) -> Dataset:
        found = tf.ensure_shape(tf.numpy_function(look, [shard], tf.int64), [None])
        blank = tf.data.Dataset.from_tensors((tf.constant(b""), tf.constant(-1)))

        def one(at: Tensor, end: Tensor) -> Dataset:
            # A record that is too large is not read: reading at the end of the file finds nothing.
            at = tf.where(end - at <= MAX_BYTES, at, found[-1])
            data = _at(paths[shard], at).map(take).ignore_errors()
            return data.concatenate(blank).take(1)

        ends = (found[first : first + count], found[first + 1 : first + count + 1])
        return tf.data.Dataset.from_tensor_slices(ends).flat_map(one)

    return slow if safe else fast


def _at(path: Tensor, at: Tensor) -> Dataset:
    """The record that begins at a byte of a file, as a data set of one element."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=0, byte_offsets=at[None]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)


def read_all(shards: Sequence[Shard], classes: int, *, safe: bool) -> Dataset:
    """All records of all shards in their order; see `reader`."""
    read = reader(shards, classes, safe=safe)
    lengths = tf.constant([s.records for s in shards], tf.int64)
    order = tf.data.Dataset.range(len(shards))
    return order.flat_map(lambda shard: read(shard, tf.constant(0, tf.int64), lengths[shard]))


def parse(record: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Encoded image and label (int32, -1 if there is none) of one serialised record.

    It fails if the record is not a tf.train.Example or its label is not a class. A missing
    image becomes an empty one, which does not decode.
    """
    features: dict[str, Any] = {"image": tf.io.FixedLenFeature([], tf.string, "")}
    if classes:
        features["label"] = tf.io.FixedLenFeature([], tf.int64, -1)
    parsed = tf.io.parse_single_example(record, features)
    if not classes:
        return parsed["image"], tf.constant(-1)
    label = parsed["label"]
    fits = tf.debugging.Assert(
        (label >= -1) & (label < classes), [f"label not in 0..{classes - 1}"]
    )
    with tf.control_dependencies([fits]):
        return parsed["image"], tf.cast(label, tf.int32)


def explain(shard: Shard, record: int, classes: int) -> bytes:
    """The encoded image of one record.

    Raises:
      ValueError: it cannot be used; the message is a phrase that says why.
      OSError: the shard cannot be read.
    """
    found = record_offsets(shard)
    at, size = int(found[record]), int(found[record + 1] - found[record]) - _FRAME
    if size > MAX_BYTES:
        raise ValueError(f"a record of {size:,} bytes, more than {MAX_BYTES:,}")
    # Inside flat_map, because TensorFlow cannot optimise this data set alone.
    data = tf.data.Dataset.from_tensors(tf.constant(at, tf.int64))
    data = data.flat_map(lambda at: _at(tf.constant(shard.path), at))
    try:
        serialised = next(data.as_numpy_iterator())
    except (tf.errors.OpError, StopIteration) as e:
        raise ValueError("the record is corrupt: its checksum is wrong") from e
    try:
        example = tf.train.Example.FromString(serialised)
    except Exception as e:  # the kinds of error differ between versions of protobuf
        raise ValueError("the record is not a tf.train.Example") from e
    image = example.features.feature["image"].bytes_list.value
    if len(image) != 1:
        raise ValueError(f"the record has {len(image) or 'no'} images under 'image', expected one")
    label = example.features.feature["label"].int64_list.value
    if classes and len(label) == 1 and not -1 <= label[0] < classes:
        raise ValueError(f"its label is {label[0]}, expected 0 to {classes - 1}")
    return bytes(image[0])


def what_is_wrong(name: str, shards: Sequence[Shard], error: Any) -> str:
    """The first shard that cannot be read at all, as a message; else TensorFlow's own error."""
    reason = getattr(error, "message", "").splitlines()[:1] or ["its records are damaged"]
    for shard in shards:
        try:
            record_offsets(shard)
        except (OSError, ValueError, tf.errors.OpError) as e:
            reason = [f"{shard.path}: {e.strerror or e}" if isinstance(e, OSError) else str(e)]
            break
    return f"{name} cannot be read: {reason[0]}. Restore its files or prepare it again."
