"""What becomes of the rows that are read: labels, masks, substitutes, padding."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from byol_jax.data import media
from byol_jax.data.source import Source

if TYPE_CHECKING:
    import tensorflow as tf

HostBatch = dict[str, np.ndarray]
# (batches done, whether to tolerate damaged images) -> the rest of the data set.
Opener = Callable[[int, bool], "tf.data.Dataset"]


def readable(source: Source, open_at: Opener) -> Iterator[HostBatch]:
    """Batches of the fast pipeline until the first damaged image, then of the safe one."""
    import tensorflow as tf

    # Bound now, since at exit the module may be gone. The second is raised for messages that quote
    # bytes.
    failure = (tf.errors.OpError, UnicodeDecodeError)
    done = 0
    for safe in (False, True):
        try:
            for raw in open_at(done, safe).as_numpy_iterator():
                done += 1
                yield raw
            return
        except failure as e:
            if safe:
                # A single image does not lead here: a shard is missing, truncated or corrupt.
                from byol_jax.data import tfrecord

                raise ValueError(tfrecord.what_is_wrong(source.name, source.shards, e)) from e


def named(source: Source, batch: HostBatch) -> HostBatch:
    """Add the labels, and turn "ok" into the mask."""
    images: HostBatch = {k: v for k, v in batch.items() if k not in ("index", "label", "ok")}
    index = batch["index"].astype(np.int32)
    if "label" in batch:
        label = batch["label"]
    elif source.labels is None:
        label = np.full(len(index), -1, np.int32)
    else:
        label = source.labels[index]
    mask = batch["ok"].astype(np.float32)
    return {**images, "index": index, "label": label, "mask": mask}


def substitute(source: Source, batch: HostBatch) -> HostBatch:
    """Fill rows of mask 0 with images and label of the nearest good row before them, cyclically."""
    good = np.flatnonzero(batch["mask"])
    if len(good) == len(batch["mask"]):
        return batch
    if not len(good):
        index = int(batch["index"][0])
        raise ValueError(
            f"None of the {len(batch['mask'])} images of a batch decodes; the first is "
            f"{source.describe(index)}: {why_damaged(source, index)}. Check the data set."
        )
    # Index -1, for rows before the first good one, is the last good one.
    before = good[np.searchsorted(good, np.arange(len(batch["mask"])), side="right") - 1]
    return {k: v if k in ("index", "mask") else v[before] for k, v in batch.items()}


def why_damaged(source: Source, index: int) -> str:
    """Read one example again and find out what is wrong with it; slow, for messages.

    Args:
      source: the data set.
      index: of an example that had mask 0.

    Returns:
      A phrase: "empty file", "20000x20000 px, more than 89478485", "does not decode: ...".
    """
    if source.paths is None and not source.shards:
        return "nothing is wrong with it"
    if source.clip is not None:
        assert source.paths is not None
        path = os.path.join(source.root, str(source.paths[index]))
        return media.what_is_wrong(path, source.clip, source.channels)
    from byol_jax.data import stream  # imports TensorFlow

    try:
        data = stream.encoded_image(source, index)
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    except ValueError as e:
        return str(e)
    return stream.what_is_wrong(data, source.decoding)


def pad(batch: HostBatch, batch_size: int) -> HostBatch:
    """Add rows of mask 0, index -1 and label -1 up to the batch size."""
    missing = batch_size - len(batch["index"])
    if not missing:
        return batch
    fill = {"views": 0, "index": -1, "label": -1, "mask": 0}
    return {
        k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1), constant_values=fill[k])
        for k, v in batch.items()
    }
