"""tfds data sets: found, prepared if necessary, and read from their TFRecord files."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from byol_jax.data import decode, formats, tfrecord
from byol_jax.data.facts import facts_of
from byol_jax.data.source import Decoding, Shard, Source, counted, digest_of
from byol_jax.data.split import held_out
from byol_jax.untrusted import read_json

FITS = 2**31
"""Bytes up to which a set is kept in memory: decoded if its images have one size, else encoded."""


_LOOKED_AT = 64  # first records of a stream


def open_tfds(
    name: str,
    data_dir: str,
    split: str,
    how: Decoding,
    seed: int = 0,
    *,
    in_memory: bool | None = None,
) -> Source:
    """Open a tfds data set that has an `image` and, optionally, a `label`.

    Args:
      name: as in tfds, with or without config and version: "cifar10", "imagenet2012:5.1.0".
      data_dir: where tfds keeps prepared data; "" for tfds' default.
      split: "train" or "test" ("validation" for sets without test labels, see `facts.py`). Without
        either, a tenth of "train" is held out: by content, of a stream its last shards.
      how: the images are decoded.
      seed: for choosing that tenth.
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
    parts = _split_names(name, list(info.splits), split) or ["train"]
    alone = not _split_names(name, list(info.splits), "test")
    features: dict[str, Any] = dict(info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image):
        raise ValueError(
            f"{name} has the features {', '.join(features)}; expected an image named 'image'."
        )
    found = []
    for part in parts:
        stream = _stream_of(name, info, part, how)
        fits = info.splits[part].num_bytes <= FITS if in_memory is None else in_memory
        source, labelled = _load(stream, tuple(image.shape or ())) if fits else _look_at(stream)
        if alone:
            source = _without_test(name, source, split, seed)
        if labelled or not source.classes:
            return source
        found.append(source)
    notes = (*found[0].notes, f"no image of {found[0].name} has a label")
    return dataclasses.replace(found[0], notes=notes)


def _without_test(name: str, source: Source, split: str, seed: int) -> Source:
    """The training or the test part of a set that has only "train"."""
    if source.is_stream:
        part = source.hold_out(0.1)[split == "test"]
        how = "its last shards are held out, a tenth"
    else:
        held = held_out(_contents(source), seed)
        rows = np.flatnonzero(held if split == "test" else ~held)
        if not len(rows):
            raise ValueError(
                f"{name} has {counted(source.num_examples, 'image')} and no test part, too few to "
                f"hold out a tenth as the {split} part; use a set with a test part."
            )
        part, how = source.take(rows), "a tenth is held out, by content"
    notes = (*source.notes, f"there is no test part: {how}")
    return dataclasses.replace(part, name=f"{name} {split}", notes=notes)


def _contents(source: Source) -> list[bytes]:
    if source.images is not None:
        return [image.tobytes() for image in source.images]
    assert source.encoded is not None
    return [bytes(data) for data in source.encoded.numpy()]


def _stream_of(name: str, info: Any, part: str, how: Decoding) -> Source:
    """One part of a prepared set, as a stream."""
    label = dict(info.features.items()).get("label")
    labelled = isinstance(label, tfds.features.ClassLabel)
    shards = tuple(
        Shard(str(path), length)
        for path, length in zip(
            info.splits[part].filepaths, info.splits[part].shard_lengths, strict=True
        )
    )
    title = f"{name} {part}"
    if not info.splits[part].num_examples:
        raise ValueError(f"{title} has no examples; prepare it again.")
    identity = [info.full_name, part, *(str(s.records) for s in shards)]
    return Source(
        title,
        info.splits[part].num_examples,
        how.channels,
        classes=(getattr(label, "num_classes", 0) or 0) if labelled else 0,
        class_names=tuple(getattr(label, "names", ()) or ()) if labelled else (),
        shards=shards,
        bits=how.bits,
        orient=how.orient,
        digest=digest_of(text.encode() for text in identity),
    )


def _look_at(stream: Source) -> tuple[Source, bool]:
    """The stream with notes from its first records, and whether one of these has a label."""
    try:
        data = tfrecord.read_all(stream.shards[:1], stream.classes, safe=False).take(_LOOKED_AT)
        images, labels = zip(*data.as_numpy_iterator(), strict=True)
    except (tf.errors.OpError, UnicodeDecodeError, ValueError):  # said where it is read
        return stream, True
    return _with_notes(stream, images), max(labels) >= 0


def _with_notes(source: Source, encoded: Sequence[bytes]) -> Source:
    note = formats.look_at_bits((encoded[i] for i in formats.samples_of(len(encoded))), source.bits)
    return dataclasses.replace(source, notes=(note,) if note else ())


def read_record(source: Source, index: int) -> bytes:
    """The encoded image of one example, read again from its shard.

    Raises:
      ValueError: the record cannot be used; the message is a phrase that says why.
      OSError: its shard cannot be read.
    """
    shard, record = source.locate(index)
    return tfrecord.explain(shard, record, source.classes)


def _load(stream: Source, shape: tuple[int | None, ...]) -> tuple[Source, bool]:
    """A whole set read into memory, and whether an image has a label.

    Images of one size are decoded, if they fit.
    """
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
    labelled = bool((labels >= 0).any())
    few = [encoded[i].numpy() for i in formats.samples_of(len(labels))]
    stream = _with_notes(dataclasses.replace(stream, labels=labels), few)
    fixed = len(shape) == 3 and None not in shape
    height, width = [n or 0 for n in shape[:2]] if fixed else (0, 0)
    if stream.orient and height != width:  # turned images have another size
        fixed = False
    if fixed and len(labels) * height * width * stream.channels <= FITS:
        images, intact = _decode_all(encoded, (height, width), stream.decoding)
        some = None if intact.all() else intact
        return dataclasses.replace(stream, images=images, intact=some), labelled
    return dataclasses.replace(stream, encoded=encoded), labelled


def _decode_all(
    encoded: Any, sides: tuple[int, int], how: Decoding
) -> tuple[np.ndarray, np.ndarray]:
    """Decode N images of one size: uint8 [N, H, W, C], and which of them decoded."""
    height, width = sides
    shape = (height, width, how.channels)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + size
    plain = not how.bits and not how.orient
    if plain and tf.reduce_all(tf.strings.substr(encoded, 0, len(start)) == start):
        # All headers are known to be correct: five times as fast as checking each.
        one = lambda data: tf.io.decode_png(data, how.channels)  # noqa: E731
    else:
        one = lambda data: decode.decode_image(data, how)  # noqa: E731

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
    remote = "://" in data_dir
    if data_dir and not remote:
        data_dir = str(Path(data_dir).expanduser())
        if not Path(data_dir).is_dir():
            raise ValueError(
                f"{data_dir!r} is not a folder; expected data.dir to be a tfds data_dir."
            )
    where = data_dir or None
    # Prepared data is opened without the data set's own code, and without the network. If it is not
    # prepared, tfds raises many kinds of errors.
    with contextlib.suppress(Exception):
        return read_only_builder.builder_from_files(name, data_dir=where)
    if data_dir:
        _check_place(name, data_dir)
    try:
        builder = tfds.builder(name, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError as e:
        ours = ["digits", "folder", "npz", "voc", "clips"]
        near = difflib.get_close_matches(name, [*ours, *tfds.list_builders()])
        hint = f"did you mean {' or '.join(near)}?" if near else "see tfds.list_builders()."
        raise ValueError(f"There is no data set {name!r}: {hint}") from e
    except Exception as e:
        raise ValueError(
            f"{name!r} cannot be opened by tfds ({_line(e)}){_others(name, data_dir)}; check its "
            "name, config and version."
        ) from e
    try:
        builder.download_and_prepare()
    except Exception as e:
        raise ValueError(
            f"{name} is not prepared under {builder.data_dir}{_others(name, data_dir)}, and could "
            f"not be: {_line(e)}. "
            f"Prepare it on a machine with a network (tfds build {name} --data_dir=DIR) and set "
            "data.dir to DIR."
        ) from e
    return builder


def _check_place(name: str, data_dir: str) -> None:
    """Refuse a folder inside or above prepared data, where tfds would begin to prepare them again.

    Raises:
      ValueError: names the folder that was meant.
    """
    base, here = _base(name), tfds.core.Path(data_dir)
    patterns = ["dataset_info.json", "*/dataset_info.json", f"*/{base}/*/dataset_info.json"]
    if here.name == base:
        patterns.insert(2, "*/*/dataset_info.json")
    for pattern in patterns:
        for info in here.glob(pattern):
            title = base if "://" in data_dir else _title(info, base)
            above = [p.parent for p in info.parents if p.name == title]
            if above:
                raise ValueError(
                    f"data.dir is {data_dir}, but the prepared {title} belongs to {above[0]}; set "
                    f"data.dir to {above[0]}."
                )


def _title(info: Any, base: str) -> str:
    """The name of the data set that a dataset_info.json belongs to."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(read_json(Path(info))["name"])
    return base


def _base(name: str) -> str:
    return re.split("[:/]", name)[0]


def _others(name: str, data_dir: str) -> str:
    """The versions of a data set that are prepared, for a message."""
    if not data_dir:
        return ""
    base = _base(name)
    found = [p.parent for p in tfds.core.Path(data_dir).glob(f"{base}/*/dataset_info.json")]
    versions = sorted(p.name for p in found)
    return f" (prepared there: {base}:{f', {base}:'.join(versions)})" if versions else ""


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


def _split_names(name: str, splits: list[str], split: str) -> list[str]:
    """The splits that can be this part, best first: the next is for a test part without labels.

    None for the test part of a set that has only "train".
    """
    facts = facts_of(name)
    test = facts.test.name if facts else "test"
    wanted = ["train"] if split == "train" else list(dict.fromkeys((test, "validation")))
    found = [candidate for candidate in wanted if candidate in splits]
    if found or "train" in splits:
        return found
    raise ValueError(
        f"{name} has the splits {', '.join(splits) or 'none'}; expected {' or '.join(wanted)}."
    )
