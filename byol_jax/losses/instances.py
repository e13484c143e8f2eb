"""Losses in which every example of the data set is a class of its own.

Shape key: B examples of the batch, K negatives of each, N examples of the data set (or rows of its
memory bank).
Similarities s are v.bank_j / temperature, between the embedding v of an example and row j of the
bank; the bank has no gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

EPSILON = 1e-7  # added to every denominator by the authors' code


def instance_softmax(positive_B: Array, s_BN: Array) -> Array:
    """Cross-entropy over all examples of the data set: log sum_j exp(s_j) - s_i.

    Args:
      positive_B: s_i, to the example's own row [B].
      s_BN: to every row [B, N]; -inf for a row that is no example.

    Returns:
      [B].

    Reference: Wu et al. 2018, equation 2.
    """
    return jax.nn.logsumexp(s_BN, -1) - positive_B


def instance_nce(positive_B: Array, negatives_BK: Array, z: Array, examples: int) -> Array:
    """Noise-contrastive estimation: is a row the example's own, or one of K uniform draws?

    With P(j | v) = exp(s_j) / Z and c = K / N + 1e-7:
    -log P(i | v) / (P(i | v) + c) - sum over the K draws of log (K / N) / (P(j | v) + c).

    Args:
      positive_B: s_i, to the example's own row [B].
      negatives_BK: to K rows drawn uniformly from all N [B, K].
      z: Z, a constant: an estimate of sum_j exp(s_j), see `partition`. Scalar, above 0.
      examples: N.

    Returns:
      [B].

    Reference: Wu et al. 2018, equation 7; zhirongw/lemniscate.pytorch:lib/NCECriterion.py.
    """
    noise = negatives_BK.shape[1] / examples
    log_z = jnp.log(z)

    def log_sum(s: Array) -> Array:  # log(P + c)
        return jnp.log(jnp.exp(s - log_z) + (noise + EPSILON))

    own_B = positive_B - log_z - log_sum(positive_B)
    return -own_B - (jnp.log(noise) - log_sum(negatives_BK)).sum(-1)


def partition(positive_B: Array, negatives_BK: Array, mask_B: Array, examples: int) -> Array:
    """N times the mean of exp(s) over a batch's own rows and draws: an estimate of Z; 0 if none.

    Args:
      positive_B, negatives_BK, examples: as for `instance_nce`.
      mask_B: 1 for examples that count.

    Returns:
      Scalar.

    Reference: Wu et al. 2018, equation 9; zhirongw/lemniscate.pytorch:lib/NCEAverage.py.
    """
    mask_B = mask_B.astype(positive_B.dtype)
    sums_B = jnp.exp(positive_B) + jnp.exp(negatives_BK).sum(-1)
    count = jnp.maximum(mask_B.sum(), 1) * (negatives_BK.shape[1] + 1)
    return examples * (sums_B * mask_B).sum() / count
