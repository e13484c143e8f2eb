"""Operations on some rows of a batch, on the host: computed for those rows only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow ships no usable types


def of_rows(rows: Tensor, op: Callable[..., Tensor], x: Tensor, *amounts: Tensor) -> Tensor:
    """Apply `op` to the rows [N] that are true, computing it only for them.

    Args:
      rows: bool [N].
      op: (x, *amounts) of those rows -> x.
      x: [N, ...], with N known when tracing.
      *amounts: [N, ...].
    """
    if x.shape[0] == 1:
        return tf.cond(rows[0], lambda: op(x, *amounts), lambda: x)
    at = tf.where(rows)
    changed = op(*(tf.gather(v, at[:, 0]) for v in (x, *amounts)))
    return tf.tensor_scatter_nd_update(x, at, changed)


def sometimes(
    probability: float, u: Tensor, op: Callable[..., Tensor], x: Tensor, *amounts: Tensor
) -> Tensor:
    """`of_rows` for those whose draw u [N] is below the probability."""
    if probability == 0:
        return x
    return op(x, *amounts) if probability == 1 else of_rows(u < probability, op, x, *amounts)
