"""The order of the examples: pure functions of (seed, epoch, position), in NumPy.

A position is the number of examples read so far in the global data order, in whole global batches.
An epoch is `steps` batches; examples that do not fill a batch are left out of that epoch.

Data read by index: one permutation per epoch; global batch k is its rows [k B, (k + 1) B), and
process p of P takes rows [p B / P, (p + 1) B / P) of every batch, so that a global batch has the
same examples for any P.

Data read as a stream: process p keeps shards p, p + P, ...; they are permuted each epoch and read
in groups of `GROUP`, round-robin within a group, and windows of `WINDOW` consecutive records are
permuted. To resume, whole windows are skipped without reading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

GROUP = 16
"""Shards read at the same time."""

WINDOW = 4096
"""Records permuted together. Two windows of encoded images are kept in memory (0.9 GB for
ImageNet)."""

_ROWS, _SHARDS, _RECORDS = range(3)  # what is permuted


class Piece(NamedTuple):
    """Consecutive records of one shard: `skip` are skipped, then `take` are read."""

    shard: int
    skip: int
    take: int


def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of all n examples in one epoch, int64 [n].

    It uses NumPy's `Generator.permutation`: if NumPy changed that, the order would change.
    """
    return generator(seed, epoch, _ROWS).permutation(n)


def locate(position: int, batch_size: int, steps: int) -> tuple[int, int]:
    """Epoch and batch at a position.

    Args:
      position: examples of the global order read so far.
      batch_size: global.
      steps: batches in an epoch.

    Returns:
      (epoch, batch), both from 0.

    Raises:
      ValueError: the position is not at the start of a batch.
    """
    if position < 0 or position % batch_size:
        raise ValueError(
            f"position is {position}; expected a multiple of the batch size {batch_size}. "
            "A run resumes with the batch size it was started with."
        )
    return divmod(position // batch_size, steps)


def epoch_rows(
    seed: int,
    epoch: int,
    n: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    first: int = 0,
) -> np.ndarray:
    """The examples that one process reads in an epoch from batch `first` on, in order.

    Args:
      seed: of the run.
      epoch: from 0.
      n: examples in the data set.
      batch_size: global, a multiple of `process_count`.
      process_index: p.
      process_count: P.
      first: batch of the epoch to start with.

    Returns:
      int64 [(n // batch_size - first) * batch_size / process_count].
    """
    steps = n // batch_size
    rows = epoch_permutation(seed, epoch, n)[: steps * batch_size]
    return rows.reshape(steps, process_count, -1)[first:, process_index].reshape(-1)


def stream_steps(lengths: Sequence[int], batch_size: int, process_count: int = 1) -> int:
    """Batches per epoch of a stream: as many as the process with the fewest records can fill.

    Args:
      lengths: records in each shard.
      batch_size: global, a multiple of `process_count`.
      process_count: P.

    Returns:
      Steps; 0 if a process has too few records.
    """
    share = batch_size // process_count
    return min(sum(lengths[p::process_count]) // share for p in range(process_count))


def stream_groups(
    seed: int,
    epoch: int,
    lengths: Sequence[int],
    process_index: int = 0,
    process_count: int = 1,
    skip: int = 0,
) -> list[list[Piece]]:
    """What one process reads from a stream in one epoch, after its first `skip` records.

    Args:
      seed: of the run.
      epoch: from 0.
      lengths: records in each shard.
      process_index: p.
      process_count: P.
      skip: records of this process and epoch to skip.

    Returns:
      Groups to read one after another. Within a group, one record of each piece is read in turn;
      pieces that are used up are left out.
    """
    own = np.arange(process_index, len(lengths), process_count)
    own = own[generator(seed, epoch, _SHARDS).permutation(len(own))]
    groups = []
    for start in range(0, len(own), GROUP):
        shards = own[start : start + GROUP]
        sizes = np.array([lengths[s] for s in shards])
        read, first = _round_robin(sizes, min(skip, int(sizes.sum())))
        skip -= int(read.sum())
        # Reading continues with the shard whose turn it is.
        turn = [*range(first, len(shards)), *range(first)]
        pieces = [Piece(int(shards[i]), int(read[i]), int(sizes[i] - read[i])) for i in turn]
        pieces = [p for p in pieces if p.take]
        if pieces:
            groups.append(pieces)
    return groups


def window_permutation(
    seed: int, epoch: int, window: int, size: int, process_index: int = 0
) -> np.ndarray:
    """The order within a window of `size` records of one process, int64 [size]."""
    return generator(seed, epoch, _RECORDS, window, process_index).permutation(size)


def _round_robin(sizes: np.ndarray, taken: int) -> tuple[np.ndarray, int]:
    """Records read from each shard after `taken` in turn, and the shard whose turn is next."""
    rounds = 0  # whole rounds done: min(size_i, rounds) were read from shard i
    for size in np.unique(sizes):
        alive = int((sizes > rounds).sum())
        done = int(np.minimum(sizes, rounds).sum())
        rounds += min(int(size) - rounds, (taken - done) // alive)
    read = np.minimum(sizes, rounds)
    live = np.flatnonzero(sizes > rounds)
    rest = taken - int(read.sum())
    read[live[:rest]] += 1
    return read, int(live[rest]) if rest < len(live) else 0


def generator(
    seed: int, epoch: int, purpose: int, place: int = 0, process: int = 0
) -> np.random.Generator:
    """Random numbers that are a function of the arguments alone.

    Args:
      seed: of the run.
      epoch: counted from 0.
      purpose: what they are for, a number of its own for each use of one seed.
      place: of a window of records, or of an image, counted from 0.
      process: counted from 0.
    """
    # Philox counts in the lowest word of its counter; the others select the stream of numbers.
    key = np.array([seed % 2**64, epoch], np.uint64)
    counter = np.array([0, purpose, place, process], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
