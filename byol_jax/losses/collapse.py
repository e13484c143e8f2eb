"""Indicators of collapse, cheap enough to compute in every step.

Shape key: B examples, D embedding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import centred, normalize


def feature_std_and_rank(x_BD: Array, mask_B: Array) -> tuple[Array, Array]:
    """Standard deviation of l2-normalised rows, and their effective rank.

    Args:
      x_BD: features or projections [B, D].
      mask_B: 1 for rows that count.

    Returns:
      The mean over D of the standard deviation times sqrt(D): near 1 when rows are uniform on
      the sphere, 0 when they are all equal; and the participation ratio (tr C)^2 / tr C^2 of their
      covariance C, from 1 to D. Matmuls only: an SVD would cost more than the step.
    """
    x = normalize(x_BD.astype(jnp.promote_types(x_BD.dtype, jnp.float32)))
    x, count = centred(x, mask_B)
    variance_D = jnp.square(x).sum(0) / count
    # tr C^2 is the squared norm of C and of the Gram matrix: use the smaller of the two.
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    trace_of_square = jnp.square(gram / count).sum()
    rank = jnp.square(variance_D.sum()) / jnp.maximum(trace_of_square, 1e-30)
    return jnp.sqrt(variance_D).mean() * x.shape[1] ** 0.5, rank
