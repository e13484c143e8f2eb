"""Losses in which one embedding predicts another.

Shape key: B examples, V views, D embedding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, normalize


def regression(online_BVD: Array, target_BVD: Array, mask_B: Array) -> Array:
    """BYOL's loss: view 1 predicts the target of view 2 and view 2 that of view 1, summed.

    Args:
      online_BVD: predictions [B, 2, D], any length.
      target_BVD: target projections [B, 2, D], any length.
      mask_B: as every objective takes it; rows do not meet here, so it changes nothing.

    Returns:
      [B], sum over the two directions of |q/|q| - z'/|z'||^2 = 2 - 2 cos; in [0, 8].

    Raises:
      ValueError: there are not two views.

    Reference: Grill et al. 2020, equations 2 and 3.
    """
    del mask_B
    check_views("regression", online_BVD)
    check_views("regression", target_BVD)
    difference = normalize(online_BVD) - normalize(target_BVD[:, ::-1])
    return jnp.square(difference).sum((1, 2))
