"""Losses that decorrelate the dimensions of an embedding, over the global batch.

Shape key: B examples, V views, D embedding.

They are sums over all rows at once, so they have no value per example: each returns its terms,
which the method weighs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import centred, check_views, masked_covariance


def _off_diagonal(x_DD: Array) -> Array:
    """Sum of the squares off the diagonal."""
    return jnp.square(jnp.where(jnp.eye(x_DD.shape[0], dtype=bool), 0, x_DD)).sum()


def cross_correlation(z_BVD: Array, mask_B: Array) -> Array:
    """Correlation [D, D] of the dimensions of view 1 with those of view 2.

    Each dimension of each view is first normalised over the rows that count, as by batch norm
    without scale and offset: biased variance, epsilon 1e-5.

    Args:
      z_BVD: projections [B, 2, D].
      mask_B: 1 for rows that count.

    Raises:
      ValueError: there are not two views.
    """
    check_views("cross_correlation", z_BVD)
    unit = []
    for view in (0, 1):
        x_BD, count = centred(z_BVD[:, view], mask_B)
        variance_D = jnp.square(x_BD).sum(0) / count
        unit.append(x_BD * jax.lax.rsqrt(variance_D + 1e-5)[None])
    return unit[0].T @ unit[1] / count


def barlow_twins(z_BVD: Array, mask_B: Array) -> tuple[Array, Array]:
    """The two terms of Barlow Twins: sum_i (1 - C_ii)^2, and the sum over i != j of C_ij^2.

    Args:
      z_BVD: projections [B, 2, D].
      mask_B: 1 for rows that count.

    Returns:
      (on the diagonal, off the diagonal) of `cross_correlation`, not weighted.

    Raises:
      ValueError: there are not two views.

    Reference: Zbontar et al. 2021, equation 1; facebookresearch/barlowtwins:main.py.
    """
    c_DD = cross_correlation(z_BVD, mask_B)
    return jnp.square(jnp.diagonal(c_DD) - 1).sum(), _off_diagonal(c_DD)


def vicreg(z_BVD: Array, mask_B: Array) -> tuple[Array, Array, Array]:
    """The three terms of VICReg.

    invariance: mean over rows and dimensions of (z1 - z2)^2.
    variance: mean over dimensions of max(0, 1 - sqrt(var + 1e-4)), var with B - 1; the mean of
      both views.
    covariance: sum over i != j of cov_ij^2 / D, cov with B - 1; the sum of both views.

    Args:
      z_BVD: projections [B, 2, D].
      mask_B: 1 for rows that count.

    Returns:
      (invariance, variance, covariance), not weighted.

    Raises:
      ValueError: there are not two views.

    Reference: Bardes et al. 2022, equations 1 to 5; facebookresearch/vicreg:main_vicreg.py, whose
      variance term is the mean of both views where the paper has their sum.
    """
    check_views("vicreg", z_BVD)
    mask_B = mask_B.astype(z_BVD.dtype)
    difference_BD = (z_BVD[:, 0] - z_BVD[:, 1]) * mask_B[:, None]
    dim = z_BVD.shape[-1]
    invariance = jnp.square(difference_BD).sum() / (jnp.maximum(mask_B.sum(), 1) * dim)
    variance = covariance = jnp.zeros((), z_BVD.dtype)
    for view in (0, 1):
        c_DD = masked_covariance(z_BVD[:, view], mask_B, unbiased=True)
        std_D = jnp.sqrt(jnp.diagonal(c_DD) + 1e-4)
        variance += jax.nn.relu(1 - std_D).mean() / 2
        covariance += _off_diagonal(c_DD) / dim
    return invariance, variance, covariance
