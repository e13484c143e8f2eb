"""Losses in which two views of one image attract and other images of the batch repel.

Shape key: B examples, V views, D embedding, A anchors (B * V).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, masked_logits, normalize


def _similarity_and_partition(
    online_BVD: Array, target_BVD: Array, temperature: float, mask_B: Array
) -> tuple[Array, Array]:
    """Cosine to the other view, and log-partition over all pairs but the self-pair, both [B, V]."""
    b, v, d = online_BVD.shape
    q_AD = normalize(online_BVD).reshape(b * v, d)
    z_AD = normalize(target_BVD).reshape(b * v, d)
    positive_BV = (q_AD * z_AD.reshape(b, v, d)[:, ::-1].reshape(b * v, d)).sum(-1).reshape(b, v)
    # A substituted row is never a negative; its own row is left out by the caller's mean.
    masked_A = jnp.repeat(mask_B == 0, v)
    logits_AA = masked_logits(q_AD, z_AD, temperature, masked_A)
    anchors = jnp.arange(b * v)
    logits_AA = jnp.where(anchors[:, None] == anchors[None, :], -jnp.inf, logits_AA)
    # A masked anchor keeps one finite entry, so that no NaN can reach the gradient.
    logits_AA = jnp.where(masked_A[:, None], 0.0, logits_AA)
    return positive_BV, jax.nn.logsumexp(logits_AA, -1).reshape(b, v)


def nt_xent(z_BVD: Array, temperature: float, mask_B: Array) -> Array:
    """SimCLR's normalised-temperature cross-entropy over the global 2N.

    Args:
      z_BVD: projections [B, 2, D], of any norm.
      temperature: above 0.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.

    Returns:
      [B], the mean of both anchors' loss.

    Raises:
      ValueError: there are not two views.

    Reference: Chen et al. 2020, equation 1.
    """
    check_views("nt_xent", z_BVD)
    positive_BV, partition_BV = _similarity_and_partition(z_BVD, z_BVD, temperature, mask_B)
    return (partition_BV - positive_BV / temperature).mean(1)


def regression_with_negatives(
    online_BVD: Array, target_BVD: Array, mask_B: Array, *, beta: float, temperature: float
) -> Array:
    """The common form of BYOL and SimCLR, with negatives weighted by `beta`, to be minimised.

    Sum over both directions of 2 - 2 cos + beta * 2 alpha * log-partition: at beta 0 it is
    `regression`; at beta 1 with online = target it is 4 + 4 alpha NT-Xent.

    Args:
      online_BVD: predictions (or projections without a predictor) [B, 2, D].
      target_BVD: target projections [B, 2, D].
      mask_B: 1, or 0 for an example that is neither anchor nor negative.
      beta: weight of the negatives, 0 or more.
      temperature: alpha, above 0.

    Returns:
      [B].

    Raises:
      ValueError: there are not two views.

    Reference: Grill et al. 2020, equation 8 (appendix F.4), negated and shifted by 2 per direction.
    """
    check_views("regression_with_negatives", online_BVD)
    check_views("regression_with_negatives", target_BVD)
    positive_BV, partition_BV = _similarity_and_partition(
        online_BVD, target_BVD, temperature, mask_B
    )
    return (2 - 2 * positive_BV + beta * 2 * temperature * partition_BV).sum(1)
