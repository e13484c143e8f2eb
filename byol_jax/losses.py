"""Pure maths on embeddings, each against its equation.

Shape key: B examples, V views, D embedding, A anchors (B * V), G groups.
All functions work in the dtype given and want float32 or float64. They are written as matmuls on
the global arrays, so that they are exact under any sharding of B.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def normalize(x: Array) -> Array:
    """Scale the last axis to unit length: x * rsqrt(max(|x|^2, 1e-12))."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def masked_mean(x_B: Array, mask_B: Array) -> Array:
    """Mean of x [B] over the rows whose mask is 1; 0 where there are none."""
    mask_B = mask_B.astype(x_B.dtype)
    return (x_B * mask_B).sum() / jnp.maximum(mask_B.sum(), 1)


def regression(online_BVD: Array, target_BVD: Array) -> Array:
    """BYOL's loss: each view predicts the other one's target, the directions summed.

    Args:
      online_BVD: predictions [B, 2, D], any length.
      target_BVD: target projections [B, 2, D], any length.

    Returns:
      [B], sum over the two directions of |q/|q| - z'/|z'||^2 = 2 - 2 cos; in [0, 8].

    Reference: Grill et al. 2020, equations 2 and 3.
    """
    difference = normalize(online_BVD) - normalize(target_BVD[:, ::-1])
    return jnp.square(difference).sum((1, 2))


def _similarity_and_partition(
    online_BVD: Array, target_BVD: Array, temperature: float, mask_B: Array
) -> tuple[Array, Array]:
    """Cosine to the positive and log-partition over all pairs but the self-pair, both [B, V]."""
    b, v, d = online_BVD.shape
    q_AD = normalize(online_BVD).reshape(b * v, d)
    z_AD = normalize(target_BVD).reshape(b * v, d)
    positive_BV = (q_AD * z_AD.reshape(b, v, d)[:, ::-1].reshape(b * v, d)).sum(-1).reshape(b, v)
    logits_AA = q_AD @ z_AD.T / temperature
    anchors = jnp.arange(b * v)
    self_pair_AA = anchors[:, None] == anchors[None, :]
    masked_A = jnp.repeat(mask_B == 0, v)
    # A substituted row is nobody's negative; its own row is left out by the caller's mean.
    logits_AA = jnp.where(self_pair_AA | masked_A[None, :], -jnp.inf, logits_AA)
    # A masked anchor keeps one finite entry, so that no NaN can reach the gradient.
    logits_AA = jnp.where(masked_A[:, None], 0.0, logits_AA)
    return positive_BV, jax.nn.logsumexp(logits_AA, -1).reshape(b, v)


def nt_xent(z_BVD: Array, temperature: float, mask_B: Array) -> Array:
    """SimCLR's normalised-temperature cross-entropy over the global 2N.

    Args:
      z_BVD: projections [B, 2, D], any length.
      temperature: above 0.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.

    Returns:
      [B], the mean of both anchors' loss.

    Reference: Chen et al. 2020, equation 1.
    """
    positive_BV, partition_BV = _similarity_and_partition(z_BVD, z_BVD, temperature, mask_B)
    return (partition_BV - positive_BV / temperature).mean(1)


def info_nce(
    online_BVD: Array, target_BVD: Array, temperature: float, beta: float, mask_B: Array
) -> Array:
    """The common form of BYOL and SimCLR, negatives weighted by `beta`, to be minimised.

    Sum over both directions of 2 - 2 cos + beta * 2 alpha * log-partition: at beta 0 it is
    `regression`; at beta 1 with online = target it is 4 + 4 alpha NT-Xent.

    Args:
      online_BVD: predictions (or projections without a predictor) [B, 2, D].
      target_BVD: target projections [B, 2, D].
      temperature: alpha, above 0.
      beta: weight of the negatives, 0 or more.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.

    Returns:
      [B].

    Reference: Grill et al. 2020, equation 8 (appendix F.4), negated and shifted by 2 a direction.
    """
    positive_BV, partition_BV = _similarity_and_partition(
        online_BVD, target_BVD, temperature, mask_B
    )
    return (2 - 2 * positive_BV + beta * 2 * temperature * partition_BV).sum(1)


def cross_entropy(logits_BK: Array, label_B: Array) -> Array:
    """Softmax cross-entropy [B]; rows labelled -1 give 0."""
    log_p = jax.nn.log_softmax(logits_BK)
    picked = jnp.take_along_axis(log_p, jnp.maximum(label_B, 0)[:, None], 1)[:, 0]
    return jnp.where(label_B >= 0, -picked, 0.0)


def spread(x_BD: Array, mask_B: Array) -> tuple[Array, Array]:
    """Two signs of collapse: spread of l2-normalised rows, and their effective rank.

    Args:
      x_BD: features or projections [B, D].
      mask_B: 1 for rows that count.

    Returns:
      The mean over D of the standard deviation times sqrt(D): near 1 when rows spread evenly over
      the sphere, 0 when they are all equal; and the participation ratio (tr C)^2 / tr C^2 of their
      covariance C, from 1 to D. Matmuls only: an SVD would cost more than the step.
    """
    x = normalize(x_BD.astype(jnp.promote_types(x_BD.dtype, jnp.float32)))
    mask = mask_B.astype(x.dtype)[:, None]
    count = jnp.maximum(mask.sum(), 1)
    x = (x - (x * mask).sum(0, keepdims=True) / count) * mask
    variance_D = jnp.square(x).sum(0) / count
    # tr C^2 is the squared norm of C, and of the Gram matrix: take the smaller of the two.
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    trace_of_square = jnp.square(gram / count).sum()
    rank = jnp.square(variance_D.sum()) / jnp.maximum(trace_of_square, 1e-30)
    return jnp.sqrt(variance_D).mean() * x.shape[1] ** 0.5, rank
