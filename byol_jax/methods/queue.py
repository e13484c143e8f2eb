"""A queue of embeddings, first in, first out; without a pointer: the newest are in front.

Shape key: B rows, K entries, D embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses import normalize


def random_queue(key: Array, size: int, dim: int, dtype: jnp.dtype) -> Array:
    """What a queue starts from: `size` random directions [K, D]."""
    return normalize(jax.random.normal(key, (size, dim), dtype))


def enqueue(queue_KD: Array, new_BD: Array, mask_B: Array) -> Array:
    """The queue with new entries in front, and as many of the oldest dropped.

    A masked row (an image that could not be read) must not become a negative of others: in its
    place the entry that its own would have displaced stays for another round.

    Args:
      queue_KD: the newest entries first.
      new_BD: at most K of them, of unit length. No gradient flows through the queue.
      mask_B: 1 for rows to take.

    Returns:
      [K, D], in the queue's dtype.
    """
    size, rows = queue_KD.shape[0], new_BD.shape[0]
    taken_BD = jnp.where(mask_B[:, None] > 0, new_BD.astype(queue_KD.dtype), queue_KD[-rows:])
    return jax.lax.stop_gradient(jnp.concatenate([taken_BD, queue_KD])[:size])
