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


def auc(score_N: Array, positive_N: Array, weight_N: Array) -> Array:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties one half.

    Args:
      score_N: [N].
      positive_N: 1 for positives, else 0.
      weight_N: 1 for examples that count, else 0.

    Returns:
      0 to 1; 0.5 if there are no positives or no negatives.
    """
    wide = score_N.dtype
    up_N = (positive_N > 0).astype(wide) * weight_N.astype(wide)
    down_N = (positive_N <= 0).astype(wide) * weight_N.astype(wide)
    difference_NN = score_N[:, None] - score_N[None]
    won_NN = (difference_NN > 0).astype(wide) + 0.5 * (difference_NN == 0).astype(wide)
    pairs = up_N.sum() * down_N.sum()
    return jnp.where(pairs > 0, up_N @ won_NN @ down_N / jnp.maximum(pairs, 1), 0.5)


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
