"""InfoNCE: pick the key of the same image out of many.

Shape key: B examples, V views, D embedding, A anchors (B * V), K keys of a queue.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, masked_logits, normalize


def info_nce(query_BVD: Array, key_BVD: Array, queue_KD: Array, temperature: float) -> Array:
    """Cross-entropy of each query between its own key and the keys of a queue.

        -log exp(q.k / T) / (exp(q.k / T) + sum over the queue of exp(q.k_j / T))

    Args:
      query_BVD: queries [B, V, D], of any norm.
      key_BVD: the key of each query, [B, V, D] or [B, 1, D] for all of them, of any norm.
      queue_KD: negatives [K, D], of unit length.
      temperature: T, above 0.

    Returns:
      [B, V].

    Reference: He et al. 2020, equation 1; facebookresearch/moco:moco/builder.py.
    """
    q_BVD, b, v = normalize(query_BVD), *query_BVD.shape[:2]
    positive_BV = (q_BVD * normalize(key_BVD)).sum(-1) / temperature
    everywhere = jnp.zeros(queue_KD.shape[0], bool)  # every entry of the queue counts
    logits_AK = masked_logits(q_BVD.reshape(b * v, -1), queue_KD, temperature, everywhere)
    negatives_BV = jax.nn.logsumexp(logits_AK, -1).reshape(b, v)
    return jnp.logaddexp(positive_BV, negatives_BV) - positive_BV


def info_nce_in_batch(
    query_BD: Array, key_BD: Array, mask_B: Array, *, temperature: float
) -> Array:
    """Cross-entropy of each query between its own key and those of the others of the global batch.

        -log exp(q_i.k_i / T) / sum_j exp(q_i.k_j / T)

    Args:
      query_BD: queries [B, D], of any norm.
      key_BD: the key of each, [B, D], of any norm.
      mask_B: 1, or 0 for an example whose key is no negative; its own row is left to the caller.
      temperature: T, above 0.

    Returns:
      [B].

    Reference: Chen, Xie and He 2021, algorithm 1; facebookresearch/moco-v3:moco/builder.py.
    """
    q_BD, k_BD, masked_B = normalize(query_BD), normalize(key_BD), mask_B == 0
    logits_BB = masked_logits(q_BD, k_BD, temperature, masked_B)
    # A masked query keeps finite entries, so that no NaN can reach the gradient.
    logits_BB = jnp.where(masked_B[:, None], 0.0, logits_BB)
    return jax.nn.logsumexp(logits_BB, -1) - (q_BD * k_BD).sum(-1) / temperature


def symmetric_info_nce(
    online_BVD: Array, target_BVD: Array, mask_B: Array, *, temperature: float
) -> Array:
    """MoCo v3's loss: 2T CE(q1, k2) + 2T CE(q2, k1), negatives from the other view's keys.

    Args:
      online_BVD: predictions q [B, 2, D], of any norm.
      target_BVD: target projections k [B, 2, D], of any norm.
      mask_B: 1, or 0 for an example that is neither query nor negative.
      temperature: T, above 0. The factor 2T keeps the size of the gradient.

    Returns:
      [B], the sum over both directions.

    Raises:
      ValueError: there are not two views.

    Reference: Chen, Xie and He 2021, algorithm 1; facebookresearch/moco-v3:moco/builder.py.
    """
    check_views("symmetric_info_nce", online_BVD)
    check_views("symmetric_info_nce", target_BVD)
    directions = [
        info_nce_in_batch(online_BVD[:, v], target_BVD[:, 1 - v], mask_B, temperature=temperature)
        for v in (0, 1)
    ]
    return 2 * temperature * (directions[0] + directions[1])
