"""tfds data sets: found, prepared if necessary, and read from their TFRecord files."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from byol_jax.data import decode, tfrecord
from byol_jax.data.facts import facts_of
from byol_jax.data.source import Shard, Source

FITS = 2**31
"""Bytes up to which a set is kept in memory: decoded if its images have one size, else encoded."""


def open_tfds(
    name: str, data_dir: str, split: str, channels: int, *, in_memory: bool | None = None
) -> Source:
    """Open a tfds data set that has an `image` and, optionally, a `label`.

    Args:
      name: as in tfds, with or without config and version: "cifar10", "imagenet2012:5.1.0".
      data_dir: where tfds keeps prepared data; "" for tfds' default.
      split: "train" or "test" ("validation" for sets without test labels, see `facts.py`).
      channels: 1 or 3.
      in_memory: whether to read all of it now; None: only if it has at most `FITS` bytes.

    Raises:
      ValueError: it is unknown, is not prepared and cannot be, or is not a set of images.
    """
    builder = _builder(name, data_dir)
    info = builder.info
    if str(info.file_format.value) != "tfrecord":
        raise ValueError(
            f"{name} is prepared as {info.file_format.value}; expected tfrecord: prepare it again "
            "with tfds' file_format='tfrecord'."
        )
    part = _split_name(name, list(info.splits), split)
    features: dict[str, Any] = dict(info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image):
        raise ValueError(
            f"{name} has the features {', '.join(features)}; expected an image named 'image'."
        )
    label = features.get("label")
    labelled = isinstance(label, tfds.features.ClassLabel)
    stream = Source(
        f"{name} {part}",
        info.splits[part].num_examples,
        channels,
        classes=(getattr(label, "num_classes", 0) or 0) if labelled else 0,
        class_names=tuple(getattr(label, "names", ()) or ()) if labelled else (),
        shards=tuple(
            Shard(str(path), length)
            for path, length in zip(
                info.splits[part].filepaths, info.splits[part].shard_lengths, strict=True
            )
        ),
    )
    if not stream.num_examples:
        raise ValueError(f"{stream.name} has no examples; prepare it again.")
    if in_memory is None:
        in_memory = info.splits[part].num_bytes <= FITS
    return _load(stream, tuple(image.shape or ())) if in_memory else stream


def read_record(source: Source, index: int) -> bytes:
    """The encoded image of one example, read again from its shard.

    Raises:
      ValueError: the record cannot be used; the message is a phrase that says why.
      OSError: its shard cannot be read.
    """
    shard, record = source.locate(index)
    return tfrecord.explain(shard, record, source.classes)


def _load(stream: Source, shape: tuple[int | None, ...]) -> Source:
    """Read a whole set into memory; decoded, if its images have one size and fit."""
    for safe in (False, True):
        try:
            data = tfrecord.read_all(stream.shards, stream.classes, safe=safe)
            parts = list(data.batch(1024).prefetch(2))
            break
        except (tf.errors.OpError, UnicodeDecodeError) as e:  # bytes of a record in the message
            if safe:
                raise ValueError(tfrecord.what_is_wrong(stream.name, stream.shards, e)) from e
    encoded = tf.concat([p[0] for p in parts], 0)
    labels = np.concatenate([p[1].numpy() for p in parts])
    fixed = len(shape) == 3 and None not in shape
    pixels = [n or 0 for n in shape[:2]]
    if fixed and len(labels) * int(np.prod(pixels)) * stream.channels <= FITS:
        images, intact = _decode_all(encoded, (*pixels, stream.channels))
        some = None if intact.all() else intact
        return dataclasses.replace(stream, labels=labels, images=images, intact=some)
    return dataclasses.replace(stream, labels=labels, encoded=encoded)


def _decode_all(encoded: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Decode N images of one shape: uint8 [N, H, W, C], and which of them decoded."""
    height, width, channels = shape
    sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + sides
    if tf.reduce_all(tf.strings.substr(encoded, 0, len(start)) == start):
        # All headers are known to be correct: five times as fast as checking each.
        one = lambda data: tf.io.decode_png(data, channels)  # noqa: E731
    else:
        one = lambda data: decode.decode_image(data, channels)  # noqa: E731

    def exact(data: Any) -> tuple[Any, bool]:
        return tf.ensure_shape(one(data), shape), True

    def blank(data: Any) -> tuple[Any, bool]:
        del data
        return tf.zeros(shape, tf.uint8), False

    images = np.empty((len(encoded), *shape), np.uint8)
    intact = np.empty(len(encoded), bool)
    data = tf.data.Dataset.from_tensor_slices(encoded)
    for safe in (False, True):
        batches = decode.map_or_substitute(data, exact, blank, safe=safe).batch(1024).prefetch(2)
        at = 0
        try:
            for pixels, ok in batches.as_numpy_iterator():
                images[at : at + len(ok)], intact[at : at + len(ok)] = pixels, ok
                at += len(ok)
            break
        except tf.errors.OpError:
            assert not safe
    return images, intact


def _builder(name: str, data_dir: str) -> Any:
    if data_dir and not Path(data_dir).expanduser().is_dir() and "://" not in data_dir:
        raise ValueError(f"{data_dir!r} is not a folder; expected data.dir to be a tfds data_dir.")
    where = data_dir or None
    # Prepared data is opened without the data set's own code, and without the network. If it is not
    # prepared, tfds raises many kinds of errors.
    with contextlib.suppress(Exception):
        return read_only_builder.builder_from_files(name, data_dir=where)
    try:
        builder = tfds.builder(name, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError as e:
        near = difflib.get_close_matches(name, ["digits", "folder", "npz", *tfds.list_builders()])
        hint = f"did you mean {' or '.join(near)}?" if near else "see tfds.list_builders()."
        raise ValueError(f"There is no data set {name!r}: {hint}") from e
    except Exception as e:
        raise ValueError(
            f"{name!r} cannot be opened by tfds ({_line(e)}); check its name, config and version."
        ) from e
    try:
        builder.download_and_prepare()
    except Exception as e:
        raise ValueError(
            f"{name} is not prepared under {builder.data_dir}, and could not be: {_line(e)}. "
            f"Prepare it on a machine with a network (tfds build {name} --data_dir=DIR) and set "
            "data.dir to DIR."
        ) from e
    return builder


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


def _split_name(name: str, splits: list[str], split: str) -> str:
    facts = facts_of(name)
    test = facts.test.name if facts else "test"
    wanted = ["train"] if split == "train" else list(dict.fromkeys((test, "validation")))
    for candidate in wanted:
        if candidate in splits:
            return candidate
    raise ValueError(
        f"{name} has the splits {', '.join(splits) or 'none'}; expected {' or '.join(wanted)}."
    )
