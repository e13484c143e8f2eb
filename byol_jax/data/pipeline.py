"""Batches of views: every image is decoded once for all its views, in a reproducible order.

Training reads images in the order of `order.py`, so that a run resumes from its position alone. The
row of an image that does not decode is filled with a copy of a good one and has mask 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from byol_jax import pulse
from byol_jax.data import order
from byol_jax.data.rows import HostBatch, Opener, named, pad, readable, substitute
from byol_jax.data.source import Source, counted
from byol_jax.views.spec import EvalSpec, Recipe, ViewSpec, check_recipe

if TYPE_CHECKING:
    import tensorflow as tf

# Pixels of a view that are augmented in one call: few images if they are large, to stay in the
# cache; many if they are tiny, when calls cost more than pixels.
_PIXELS_PER_CALL = 65_536


def steps_per_epoch(source: Source, batch_size: int, process_count: int = 1) -> int:
    """Batches in an epoch; examples that do not fill a batch are left out.

    Args:
      source: the data set.
      batch_size: global.
      process_count: P; it only matters for streams, where each process reads its own shards.

    Returns:
      Steps, at least 1.

    Raises:
      ValueError: the batch is larger than the data set, or not a multiple of the processes.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size} with {counted(process_count, 'process', 'processes')}; "
            "expected a positive "
            "multiple of the number of processes."
        )
    if batch_size > source.num_examples:
        raise ValueError(
            f"batch_size is {batch_size}, more than the {source.num_examples} examples of "
            f"{source.name}; set batch_size to at most {source.num_examples}."
        )
    if not source.is_stream:
        return source.num_examples // batch_size
    lengths = [s.records for s in source.shards]
    steps = order.stream_steps(lengths, batch_size, process_count)
    if not steps:
        raise ValueError(
            f"{source.name} has {counted(len(lengths), 'shard')} of {min(lengths)} to "
            f"{max(lengths)} records, too few for "
            f"{counted(process_count, 'process', 'processes')} of "
            f"{counted(batch_size // process_count, 'example')} per batch; use fewer "
            "processes, a smaller batch, or more shards."
        )
    return steps


def train_batches(
    source: Source,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    on_device: bool = False,
) -> Iterator[HostBatch]:
    """This process's rows of the training batches, from `position` on, without end.

    Args:
      source: the data set.
      recipe: the views by group, with as many channels as the images.
      batch_size: global.
      seed: for the order and for the views.
      position: examples read so far in the global order, a multiple of batch_size.
      process_index: p.
      process_count: P.
      threads: that make views; 0: as many as TensorFlow chooses.
      on_device: whether `views/device.py` will make the views. Images in memory are then returned
        whole, without TensorFlow; others are decoded and cropped here (see `cuts`).

    Returns:
      Batches {group: float32 [b, V, S, S, C] for every group of the recipe, "index": int32 [b],
      "label": int32 [b] (-1 unknown), "mask": float32 [b]} with b = batch_size / P. With
      `on_device` the groups are uint8 crops or, for images in memory, replaced by "image",
      uint8 [b, H, W, C]. Of clips there is "sound" too, if it is asked for. A row that did not
      decode has mask 0 and its own index, with the images and the label of the good row before it.
      Everything is bitwise the same for the same arguments, and after a resume. Arrays are
      read-only.

    Raises:
      ValueError: immediately if an argument is wrong; later if no row of a batch decodes, or a file
        cannot be read at all.
    """
    steps = steps_per_epoch(source, batch_size, process_count)
    _check_views(source, recipe)
    order.locate(position, batch_size, steps)
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}; expected 0 to {process_count - 1}, one below "
            "process_count."
        )
    share = batch_size // process_count
    process = (process_index, process_count)
    if on_device and not cuts(source):
        plan = row_batches(
            source,
            batch_size=batch_size,
            seed=seed,
            position=position,
            process_index=process_index,
            process_count=process_count,
        )
        return _whole_images(source, plan)
    # How many images are augmented in one call; 0: they are only cropped.
    largest = max(specs[0].size for specs in recipe.values())
    chunk = 0 if on_device else _divisor(share, _PIXELS_PER_CALL // largest**2)

    if source.clip is not None:
        rows = _rows(source, batch_size, seed, position, process_index, process_count)
        return _train_clips(source, rows, recipe, seed, chunk, threads)

    def open_at(done: int, safe: bool) -> tf.data.Dataset:
        from byol_jax.data import stream  # imports TensorFlow

        start = divmod(position // batch_size + done, steps)
        if source.is_stream:
            examples = stream.shuffled_records(source, share, steps, start, seed, *process, safe)
        else:
            n = source.num_examples

            def rows(epoch: int) -> np.ndarray:
                first = start[1] if epoch == start[0] else 0
                return order.epoch_rows(seed, epoch, n, batch_size, *process, first)

            examples = stream.shuffled_rows(rows, start[0])
        data = stream.views_of(source, examples, recipe, seed, chunk, safe, threads)
        return stream.finish(data, share // (chunk or 1), threads)

    return _train_batches(source, open_at, chunk)


def cuts(source: Source) -> bool:
    """Whether the host crops even if the device makes the views, as for images of many sizes."""
    return source.images is None


def row_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[HostBatch]:
    """The training batches of images in memory, by row: `train_batches` without the images.

    Returns:
      Batches {"row": int32 [b], "index", "label", "mask"}. `row` is the image to read; it
      differs from `index` if that image did not decode.
    """
    place = process_index, process_count
    for _, index in _rows(source, batch_size, seed, position, *place):
        ok = np.ones(len(index), bool) if source.intact is None else source.intact[index]
        batch = named(source, {"row": index.astype(np.int32), "index": index, "ok": ok})
        yield substitute(source, batch)


def _rows(
    source: Source,
    batch_size: int,
    seed: int,
    position: int,
    process_index: int,
    process_count: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Epoch and examples [b] of each of this process's batches, without end."""
    steps = steps_per_epoch(source, batch_size, process_count)
    epoch, first = order.locate(position, batch_size, steps)
    share = batch_size // process_count
    while True:
        rows = order.epoch_rows(
            seed, epoch, source.num_examples, batch_size, process_index, process_count, first
        )
        for index in rows.reshape(-1, share):
            yield epoch, index
        epoch, first = epoch + 1, 0


def _whole_images(source: Source, plan: Iterator[HostBatch]) -> Iterator[HostBatch]:
    images = source.images
    assert images is not None
    for batch in plan:
        yield {"image": images[batch.pop("row")], **batch}


def _train_batches(source: Source, open_at: Opener, chunk: int) -> Iterator[HostBatch]:
    for raw in readable(source, open_at):
        # Merge chunks of images into one axis of rows.
        batch = {k: v.reshape(-1, *v.shape[2:]) for k, v in raw.items()} if chunk else raw
        yield substitute(source, named(source, batch))


def _train_clips(
    source: Source,
    rows: Iterator[tuple[int, np.ndarray]],
    recipe: Recipe,
    seed: int,
    chunk: int,
    threads: int,
) -> Iterator[HostBatch]:
    from byol_jax.data import clip_views  # imports TensorFlow

    found = clip_views.train_clips(source, rows, recipe, seed=seed, chunk=chunk, threads=threads)
    for batch in found:
        yield substitute(source, named(source, batch))


def eval_batches(
    source: Source,
    spec: EvalSpec,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[HostBatch]:
    """This process's rows of one pass over all examples, in the data set's order.

    Images in memory that already have the right size are read without TensorFlow.

    Args:
      source: the data set.
      spec: the view.
      batch_size: rows of every global batch, the last one padded; a multiple of process_count.
      process_index: p.
      process_count: P; every process returns equally many batches.

    Returns:
      Batches {"views": float32 [b, 1, S, S, C], "index": int32 [b], "label": int32 [b], "mask":
      float32 [b]} with b = batch_size / P. Rows that did not decode have mask 0 and their own
      index; rows of padding have mask 0, index -1 and label -1.

    Raises:
      ValueError: an argument is wrong; later if a file cannot be read at all.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}; expected a positive multiple of the {process_count} "
            "processes."
        )
    _check_channels(source, spec)
    images, share = source.images, batch_size // process_count
    own = (process_index * share, share, batch_size)
    if images is not None and images.shape[1:3] == (spec.size, spec.size) == (spec.resize,) * 2:
        return _array_batches(source, images, spec, own)
    if source.clip is not None:
        return _eval_clips(source, spec, own)

    def open_at(done: int, safe: bool) -> tf.data.Dataset:
        from byol_jax.data import stream  # imports TensorFlow

        data = stream.eval_views_of(source, spec, done * batch_size, safe, own)
        return stream.finish(data, share, 0, remainder=True)

    return _eval_batches(source, open_at, spec, share, -(-source.num_examples // batch_size))


def _eval_batches(
    source: Source, open_at: Opener, spec: EvalSpec, share: int, count: int
) -> Iterator[HostBatch]:
    done = 0
    for raw in readable(source, open_at):
        batch = named(source, {**raw, "views": raw["views"][:, None]})
        yield pad(batch, share)
        done += 1
        pulse.beat()
    # This process may have no rows in the last batch.
    for _ in range(count - done):
        views = np.zeros((0, 1, spec.size, spec.size, source.channels), np.float32)
        nothing = {"views": views, "index": np.zeros(0, np.int32), "ok": np.zeros(0, bool)}
        yield pad(named(source, {**nothing, "label": np.zeros(0, np.int32)}), share)


def _own_rows(source: Source, own: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """This process's examples of each batch of a pass, int32 [at most `share`]."""
    offset, share, batch_size = own
    for batch in range(0, source.num_examples, batch_size):
        start = min(batch + offset, source.num_examples)
        yield np.arange(start, min(start + share, source.num_examples), dtype=np.int32)


def _eval_clips(source: Source, spec: EvalSpec, own: tuple[int, int, int]) -> Iterator[HostBatch]:
    from byol_jax.data import clip_views  # imports TensorFlow

    blank = np.zeros((0, spec.size, spec.size, source.channels), np.float32)
    nothing = {"views": blank, "ok": np.zeros(0, bool)}
    for raw in clip_views.eval_clips(source, _own_rows(source, own), spec):
        batch = nothing | raw
        yield pad(named(source, {**batch, "views": batch["views"][:, None]}), own[1])
        pulse.beat()


def _array_batches(
    source: Source, images: np.ndarray, spec: EvalSpec, own: tuple[int, int, int]
) -> Iterator[HostBatch]:
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    for index in _own_rows(source, own):
        views = (images[index].astype(np.float32) * np.float32(1 / 255) - mean) / std
        ok = np.ones(len(index), bool) if source.intact is None else source.intact[index]
        yield pad(named(source, {"views": views[:, None], "index": index, "ok": ok}), own[1])


def decode_all(source: Source, side: int, antialias: bool = False) -> Source:
    """The data set with its images decoded and in memory.

    Args:
      source: the data set; returned unchanged if its images are in memory.
      side, antialias: of the square images, in px: their `resize` and `antialias` in `EvalSpec`.

    Returns:
      The same examples in the same order, with `images` uint8 [N, side, side, C] and `intact`.
    """
    if source.images is not None:
        return source
    plain = EvalSpec(side, side, (0.0,) * source.channels, (1.0,) * source.channels, antialias)
    images = np.empty((source.num_examples, side, side, source.channels), np.uint8)
    intact = np.zeros(source.num_examples, bool)
    labels = np.full(source.num_examples, -1, np.int32)
    for batch in eval_batches(source, plain, batch_size=256):
        real = batch["index"] >= 0
        index = batch["index"][real]
        images[index] = np.rint(batch["views"][real, 0] * 255)
        intact[index], labels[index] = batch["mask"][real] > 0, batch["label"][real]
    return dataclasses.replace(source, images=images, intact=intact, labels=labels)


def _check_channels(source: Source, spec: ViewSpec | EvalSpec) -> None:
    if spec.channels != source.channels:
        raise ValueError(
            f"The views have {spec.channels} channels and {source.name} has {source.channels}; "
            f"expected a mean and a std of {source.channels} values."
        )


def _check_views(source: Source, recipe: Recipe) -> None:
    check_recipe(recipe)
    for specs in recipe.values():
        for spec in specs:
            _check_channels(source, spec)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, or 1."""
    return max(d for d in range(1, max(1, min(n, most)) + 1) if n % d == 0)
