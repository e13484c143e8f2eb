"""The tf.data side of the pipeline: from the order of the examples to crops and views."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from byol_jax.data import decode, order, records, tfrecord
from byol_jax.data.source import MAX_BYTES, Decoding, Source
from byol_jax.untrusted import read_bytes
from byol_jax.views import host
from byol_jax.views.spec import EvalSpec, Recipe, ViewSpec, group_slices, total_views

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types
Dataset = Any  # tf.data.Dataset

_NO_END = np.iinfo(np.int64).max


@decode.plain
def shuffled_rows(rows: Callable[[int], np.ndarray], first_epoch: int) -> Dataset:
    """Elements {"epoch", "index"} in the order that `rows` returns for each epoch."""

    def of_epoch(epoch: Tensor) -> Dataset:
        index = tf.numpy_function(lambda e: rows(int(e)), [epoch], tf.int64)
        index = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(index, [None]))
        return index.map(lambda i: {"epoch": epoch, "index": i})

    return tf.data.Dataset.range(first_epoch, _NO_END).flat_map(of_epoch)


@decode.plain
def shuffled_records(
    source: Source,
    share: int,
    steps: int,
    start: tuple[int, int],
    seed: int,
    process_index: int,
    process_count: int,
    safe: bool,
) -> Dataset:
    """Elements {"epoch", "index", "label", "data"} of a stream, in the order of `order.py`.

    Args:
      source: a stream.
      share: examples of this process per batch.
      steps: batches in an epoch.
      start: (epoch, batch) to start with.
      seed: for the order.
      process_index: p.
      process_count: P.
      safe: whether a damaged record becomes an empty image with label -1; otherwise an error.
    """
    lengths = [s.records for s in source.shards]
    own = sum(lengths[process_index::process_count])
    used = steps * share  # of this process's records, in every epoch

    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.int64]:
        window = start[1] * share // order.WINDOW if epoch == start[0] else 0
        skip = window * order.WINDOW
        groups = order.stream_groups(seed, epoch, lengths, process_index, process_count, skip)
        pieces = np.array([p for g in groups for p in g], np.int64).reshape(-1, 3)
        ends = np.cumsum([0] + [len(g) for g in groups])
        return pieces, ends[:-1].astype(np.int64), ends[1:].astype(np.int64), np.int64(window)

    def permuted(epoch: int, window: int, size: int) -> np.ndarray:
        return order.window_permutation(seed, int(epoch), int(window), int(size), process_index)

    offsets = tf.constant(np.cumsum([0, *lengths[:-1]]), tf.int64)
    records_of = tfrecord.reader(source.shards, source.classes, safe=safe)

    def read(piece: Tensor) -> Dataset:
        shard, skip, count = piece[0], piece[1], piece[2]
        return records_of(shard, skip, count).enumerate(offsets[shard] + skip)

    def of_epoch(epoch: Tensor) -> Dataset:
        done = tf.constant(start[1] * share, tf.int64)
        before = tf.where(epoch == start[0], done, tf.zeros_like(done))
        pieces, begin, end, first = tf.numpy_function(plan, [epoch], [tf.int64] * 4)
        pieces, first = tf.ensure_shape(pieces, [None, 3]), tf.ensure_shape(first, [])
        groups = tf.data.Dataset.from_tensor_slices(
            (tf.ensure_shape(begin, [None]), tf.ensure_shape(end, [None]))
        )

        def of_group(begin: Tensor, end: Tensor) -> Dataset:
            members = tf.data.Dataset.from_tensor_slices(pieces[begin:end])
            return members.interleave(
                read, order.GROUP, 1, num_parallel_calls=order.GROUP, deterministic=True
            )

        def of_window(at: Tensor, window: tuple[Tensor, tuple[Tensor, Tensor]]) -> Dataset:
            index, (image, label) = window
            size = tf.shape(index, tf.int64)[0]
            positions = tf.numpy_function(permuted, [epoch, at, size], tf.int64)
            positions = tf.ensure_shape(positions, [None])
            # Part of the first window may have been read before.
            positions = positions[tf.maximum(before - at * order.WINDOW, 0) :]
            return tf.data.Dataset.from_tensor_slices(positions).map(
                lambda i: {"epoch": epoch, "index": index[i], "label": label[i], "data": image[i]}
            )

        windows = groups.flat_map(of_group).batch(order.WINDOW).prefetch(1)
        data = windows.enumerate(first).flat_map(of_window)
        return data.take(used - before)

    assert used <= own
    return tf.data.Dataset.range(start[0], _NO_END).flat_map(of_epoch)


@decode.plain
def views_of(
    source: Source,
    examples: Dataset,
    recipe: Recipe,
    seed: int,
    chunk: int,
    safe: bool,
    threads: int,
) -> Dataset:
    """Make the views of examples: every group of the recipe under its name.

    Args:
      source: the data set.
      examples: elements {"epoch", "index", optionally "label" and "data"}.
      recipe: the views by group.
      seed: for the views.
      chunk: how many examples are augmented in one call. 0: the views are only cropped.
      safe: whether an image that does not decode becomes zeros, "ok" False; otherwise an error.
      threads: 0: as many as TensorFlow chooses.

    Returns:
      Elements {group: float32 [chunk, V, S, S, C], "index", "ok", perhaps "label"}; with chunk 0
      each is one example, {group: uint8 [V, S, S, C], ...}.
    """
    total = total_views(recipe)

    def draw(example: dict[str, Tensor]) -> dict[str, Tensor]:
        epoch, index = example.pop("epoch"), example["index"]
        return {**example, "u": host.uniforms(seed, epoch, index, total)}

    def augment(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        u = batch.pop("u")
        made = _each_view(recipe, u, lambda name, i, spec, u: _augment(spec)(batch[name][:, i], u))
        return {**batch, **made}

    examples = examples.map(draw)
    if source.images is not None:
        images, intact = tf.constant(source.images), _intact(source)

        def cut(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            whole = tf.gather(images, batch["index"])
            crops = _each_view(
                recipe, batch["u"], lambda name, i, spec, u: host.crop_batch(whole, spec, u)
            )
            return augment({**batch, **crops, "ok": tf.gather(intact, batch["index"])})

        return examples.batch(chunk, drop_remainder=True).map(cut, **_calls(threads))

    read = _reader(source)
    dtype = tf.float32 if chunk else tf.uint8

    cut_out = _decode_crops(tuple(recipe.items()), source.decoding, dtype)

    def decode_crops(example: dict[str, Tensor]) -> dict[str, Tensor]:
        return cut_out(read(example), example["u"])

    blank = {
        name: tf.zeros([len(specs), specs[0].size, specs[0].size, source.channels], dtype)
        for name, specs in recipe.items()
    }
    done = ("data",) if chunk else ("data", "u")
    crops = _decoded(examples, decode_crops, blank, done, safe, threads)
    if not chunk:
        return crops
    return crops.batch(chunk, drop_remainder=True).map(augment, **_calls(threads))


# A pipeline is built for every pass over the data; these parts of it are traced once.


@functools.lru_cache(maxsize=256)
def _augment(spec: ViewSpec) -> Callable[[Tensor, Tensor], Tensor]:
    return tf.function(lambda images, u: host.augment(images, spec, u), autograph=False)


@functools.lru_cache(maxsize=256)
def _decode_crops(
    recipe: tuple[tuple[str, tuple[ViewSpec, ...]], ...], how: Decoding, dtype: Any
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    return tf.function(
        lambda data, u: decode.decode_crops(data, dict(recipe), u, how, dtype), autograph=False
    )


@functools.lru_cache(maxsize=256)
def _decode_eval(spec: EvalSpec, how: Decoding) -> Callable[[Tensor], Tensor]:
    return tf.function(lambda data: decode.decode_eval(data, spec, how), autograph=False)


def _each_view(
    recipe: Recipe, u: Tensor, make: Callable[[str, int, ViewSpec, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The groups of a batch, from what `make` returns for each view.

    Args:
      recipe: the views by group.
      u: [N, V, UNIFORMS], V over all groups.
      make: (group, number of the view in it, its spec, its draws [N, UNIFORMS]) -> [N, S, S, C].

    Returns:
      {group: [N, V, S, S, C]}.
    """
    groups = {}
    for name, part in group_slices(recipe).items():
        views = [make(name, i, spec, u[:, part.start + i]) for i, spec in enumerate(recipe[name])]
        groups[name] = tf.stack(views, axis=1)
    return groups


@decode.plain
def eval_views_of(
    source: Source, spec: EvalSpec, first: int, safe: bool, own: tuple[int, int, int]
) -> Dataset:
    """The evaluation views of this process's examples: {"views" [S, S, C], "index", "ok"}.

    Args:
      source: the data set.
      spec: the view.
      first: example to start with, counted over all processes.
      safe: whether to tolerate damaged images.
      own: (offset, share, period): this process has examples offset to offset + share - 1 of every
        `period`.
    """
    offset, share, period = own

    def ours(index: Tensor, *_: Tensor) -> Tensor:
        row = index % period
        return (offset <= row) & (row < offset + share)

    index = tf.data.Dataset.range(first, source.num_examples).filter(ours)
    if source.images is not None:
        images, intact = tf.constant(source.images), _intact(source)
        return index.map(
            lambda i: {"views": host.eval_view(images[i], spec), "index": i, "ok": intact[i]},
            **_calls(0),
        )
    examples = index.map(lambda i: {"index": i})
    if source.is_stream:
        data = tfrecord.read_all(source.shards, source.classes, safe=safe)
        examples = (
            data.enumerate()
            .skip(first)
            .filter(ours)
            .map(lambda i, record: {"index": i, "data": record[0], "label": record[1]})
        )
    read = _reader(source)

    def view(example: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"views": _decode_eval(spec, source.decoding)(read(example))}

    blank = {"views": tf.zeros([spec.size, spec.size, source.channels])}
    return _decoded(examples, view, blank, ("data",), safe)


@decode.plain
def decoded_only(source: Source, count: int, threads: int) -> Dataset:
    """Decode the first `count` images from memory repeatedly, and drop them: {"index"}."""
    encoded = tf.constant([encoded_image(source, i) for i in range(count)])

    def one(image: Tensor) -> dict[str, Tensor]:
        return {"index": tf.shape(decode.decode_image(image, source.decoding))[0]}

    data = tf.data.Dataset.from_tensor_slices(encoded).repeat().map(one, **_calls(threads))
    return data.ignore_errors()


def finish(data: Dataset, rows: int, threads: int, remainder: bool = False) -> Dataset:
    """Batch and prefetch, with the options that make the result reproducible."""
    options = tf.data.Options()
    options.deterministic = True
    # One thread per operation, so that sums do not depend on the machine. Images run in parallel.
    options.threading.max_intra_op_parallelism = 1
    if threads:
        options.threading.private_threadpool_size = threads
    return data.batch(rows, drop_remainder=not remainder).prefetch(2).with_options(options)


def encoded_image(source: Source, index: int) -> bytes:
    """The bytes of one example's image.

    Raises:
      OSError: its file cannot be read.
      ValueError: it is larger than `MAX_BYTES`, or its record is damaged; says why in a phrase.
    """
    if source.paths is not None:
        return read_bytes(Path(source.root, source.paths[index]), MAX_BYTES)
    return records.read_record(source, index)


def what_is_wrong(data: bytes, how: Decoding) -> str:
    """Why an encoded image is refused, as a phrase."""
    if not data:
        return "empty file"
    # What `formats` raises; TensorFlow's, also if its message quotes bytes of the image.
    failure = (tf.errors.OpError, ValueError)
    try:
        height, width = decode.header(data)
    except failure as e:
        return f"does not decode: {_reason(e)}"
    height, width = int(height), int(width)
    if not 0 < height * width <= decode.MAX_PIXELS:
        return f"{width}x{height} px, more than {decode.MAX_PIXELS}"
    try:
        decode.decode_image(tf.constant(data), how)
    except failure as e:
        return f"does not decode: {_reason(e)}"
    return "it decodes now; was it changed, or is it not of the declared size?"


def _reason(error: Any) -> str:
    text = getattr(error, "message", "" if isinstance(error, UnicodeError) else str(error))
    text = re.sub(r"^\{\{.*?\}\} *", "", text)  # the operation's name
    if "out of range for string" in text:  # quotes the image
        text = "too short"
    text = (text or "no valid image").replace("assertion failed: ", "").strip()
    return text.splitlines()[0].removesuffix("[Op:Assert]").strip()[:200]


def _calls(threads: int) -> dict[str, Any]:
    return {"num_parallel_calls": threads or tf.data.AUTOTUNE, "deterministic": True}


def _intact(source: Source) -> Tensor:
    return tf.constant(
        np.ones(source.num_examples, bool) if source.intact is None else source.intact
    )


def _reader(source: Source) -> Callable[[dict[str, Tensor]], Tensor]:
    """How to read an example's encoded image. A file that cannot be read is a damaged image."""
    if source.paths is not None:
        may = np.ones(len(source.paths), bool) if source.intact is None else source.intact
        paths = tf.constant(
            [
                os.fsencode(os.path.join(source.root, p)) if ok else b""
                for p, ok in zip(source.paths, may, strict=True)
            ]
        )
        return lambda example: tf.io.read_file(paths[example["index"]])
    if source.encoded is not None:
        encoded = source.encoded
        return lambda example: encoded[example["index"]]
    return lambda example: example["data"]


def _decoded(
    examples: Dataset,
    make: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    blank: dict[str, Tensor],
    done: tuple[str, ...],
    safe: bool,
    threads: int = 0,
) -> Dataset:
    """Add to each example what `make` returns and "ok" True; on failure `blank` and "ok" False.

    The entries `done` are dropped.
    """

    def with_images(
        example: dict[str, Tensor], images: dict[str, Tensor], ok: bool
    ) -> dict[str, Tensor]:
        return {**{k: v for k, v in example.items() if k not in done}, **images, "ok": ok}

    return decode.map_or_substitute(
        examples,
        lambda example: with_images(example, make(example), True),
        lambda example: with_images(example, blank, False),
        safe=safe,
        threads=threads,
    )
