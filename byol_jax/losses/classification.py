"""Cross-entropy with unknown labels, and with a teacher's probabilities.

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


def distillation(student_BK: Array, teacher_BK: Array, temperature: float) -> Array:
    """Cross-entropy with a teacher: -sum over k of P_T(k; t) log P_S(k; t), P(t) = softmax(f / t).

    Args:
      student_BK, teacher_BK: logits f [B, K].
      temperature: t, above 0.

    Returns:
      [B].

    Reference: Chen et al. 2020 (SimCLR v2), equation 2.
    """
    target_BK = jax.nn.softmax(teacher_BK / temperature)
    return -(target_BK * jax.nn.log_softmax(student_BK / temperature)).sum(-1)


def soft_cross_entropy(logits_BK: Array, target_BK: Array) -> Array:
    """Softmax cross-entropy [B] with probabilities as targets; rows of zeros give 0."""
    return -(target_BK * jax.nn.log_softmax(logits_BK)).sum(-1)
