"""Losses in which one embedding predicts another.

Shape key: B examples, V views, T views with targets, D embedding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, normalize


def regression(online_BVD: Array, target_BVD: Array, mask_B: Array) -> Array:
    """BYOL's loss: view 1 predicts the target of view 2 and vice versa, summed.

    Args:
      online_BVD: predictions [B, 2, D], of any norm.
      target_BVD: target projections [B, 2, D], of any norm.
      mask_B: part of every objective's signature; rows do not interact here, so it has no effect.

    Returns:
      [B], the sum over both directions of |q/|q| - z'/|z'||^2 = 2 - 2 cos; in [0, 8].

    Raises:
      ValueError: there are not two views.

    Reference: Grill et al. 2020, equations 2 and 3.
    """
    del mask_B
    check_views("regression", online_BVD)
    check_views("regression", target_BVD)
    difference = normalize(online_BVD) - normalize(target_BVD[:, ::-1])
    return jnp.square(difference).sum((1, 2))


def negative_cosine(online_BVD: Array, target_BVD: Array, mask_B: Array) -> Array:
    """SimSiam's loss: minus the cosine of each prediction and the other view's projection.

    Args:
      online_BVD: predictions [B, 2, D], of any norm.
      target_BVD: projections [B, 2, D], of any norm.
      mask_B: part of every objective's signature; it has no effect.

    Returns:
      [B], the mean of both directions, in [-1, 1]: a quarter of `regression`, minus 1.

    Raises:
      ValueError: there are not two views.

    Reference: Chen and He 2021, equation 2; facebookresearch/simsiam:main_simsiam.py.
    """
    del mask_B
    check_views("negative_cosine", online_BVD)
    check_views("negative_cosine", target_BVD)
    return -(normalize(online_BVD) * normalize(target_BVD[:, ::-1])).sum(-1).mean(1)


def regression_of_all(online_BVD: Array, target_BTD: Array) -> Array:
    """BYOL's loss for local views: each predicts the target of every global view.

    Args:
      online_BVD: predictions of the local views, of any norm.
      target_BTD: target projections of the global views, of any norm.

    Returns:
      [B], the sum over all pairs of 2 - 2 cos.
    """
    q, z = normalize(online_BVD), normalize(target_BTD)
    return (2 - 2 * jnp.einsum("bvd,btd->bvt", q, z)).sum((1, 2))
