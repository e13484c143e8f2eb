"""Cross-entropy with unknown labels.

Shape key: B examples, K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits_BK: Array, label_B: Array) -> Array:
    """Softmax cross-entropy [B]; rows labelled -1 give 0."""
    log_p = jax.nn.log_softmax(logits_BK)
    picked = jnp.take_along_axis(log_p, jnp.maximum(label_B, 0)[:, None], 1)[:, 0]
    return jnp.where(label_B >= 0, -picked, 0.0)
