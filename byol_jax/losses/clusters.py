"""Losses in which a view predicts the cluster assignment, or code, of another.

Shape key: B examples, V views, C views that have codes (the first of V), K clusters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def sinkhorn(scores_BK: Array, mask_B: Array, *, epsilon: float, iterations: int) -> Array:
    """Codes that use all clusters equally: optimal transport of the rows to the clusters.

    Q = exp(scores / epsilon), then alternately every column (cluster) is scaled to a sum of 1 / K
    and every row to 1 / B. Rows are scaled last, and are returned with a sum of 1.

    Args:
      scores_BK: similarities to the prototypes; cosines in [-1, 1].
      mask_B: 1 for rows that count; the others take no part, and their codes are 0.
      epsilon: weight of the entropy, above 0: the lower, the sharper the codes. Clusters whose
        similarities are all 80 epsilon below the largest get nothing in float32.
      iterations: 3 in SwAV.

    Returns:
      [B, K], at least float32, without a gradient.

    Reference: Cuturi 2013; Caron et al. 2020, section 3.1;
      facebookresearch/swav:main_swav.py (distributed_sinkhorn), which does not subtract the
      largest similarity before the exponential: the same codes, where that does not overflow.
    """
    scores = jax.lax.stop_gradient(scores_BK)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    counts_B1 = mask_B[:, None] > 0
    largest = jnp.max(jnp.where(counts_B1, scores, -jnp.inf))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)  # no row counts
    q = jnp.where(counts_B1, jnp.exp((scores - largest) / epsilon), 0)
    rows = jnp.maximum(counts_B1.sum().astype(q.dtype), 1)
    smallest = jnp.finfo(q.dtype).tiny
    for _ in range(iterations):
        q = q / jnp.maximum(q.sum(0, keepdims=True), smallest) / q.shape[1]
        q = q / jnp.maximum(q.sum(1, keepdims=True), smallest) / rows
    return q * rows


def code_prediction(logits_BVK: Array, codes_BCK: Array) -> Array:
    """Cross-entropy of each view's prediction with the codes of every other view that has codes.

    Args:
      logits_BVK: of V >= 2 views, divided by their temperature.
      codes_BCK: distributions over K of the first C views; nothing flows back through them.

    Returns:
      [B], the mean over the C (V - 1) pairs of different views.

    Reference: Caron et al. 2020 (SwAV), equation 2 and section 3.2; Caron et al. 2021 (DINO),
      equation 3.
    """
    v, c = logits_BVK.shape[1], codes_BCK.shape[1]
    log_p_BVK = jax.nn.log_softmax(logits_BVK)
    codes_BCK = jax.lax.stop_gradient(codes_BCK).astype(log_p_BVK.dtype)
    likelihood_BCV = jnp.einsum("bck,bvk->bcv", codes_BCK, log_p_BVK)
    other_CV = jnp.arange(c)[:, None] != jnp.arange(v)[None]
    return -jnp.where(other_CV[None], likelihood_BCV, 0).sum((1, 2)) / (c * (v - 1))
