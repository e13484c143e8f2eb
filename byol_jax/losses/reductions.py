"""The masked reductions that all losses are built from: mean, covariance, logits.

Shape key: B examples, A anchors, K keys, D embedding.
All losses compute in the dtype they are given, float32 or float64. They are matmuls on the
global arrays, so that they are exact under any sharding of B.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def normalize(x: Array) -> Array:
    """Scale the last axis to unit length: x * rsqrt(max(|x|^2, 1e-12))."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def check_views(loss: str, x_BVD: Array, views: int = 2) -> None:
    """Refuse a number of views that a loss does not support.

    Raises:
      ValueError: gives both numbers.
    """
    if x_BVD.ndim != 3 or x_BVD.shape[1] != views:
        raise ValueError(
            f"{loss} compares {views} views; got embeddings of shape {x_BVD.shape}, expected "
            f"[B, {views}, D]. Use a recipe that makes {views} views."
        )


def masked_mean(x_B: Array, mask_B: Array) -> Array:
    """Mean of x [B] over the rows whose mask is 1; 0 if there are none."""
    mask_B = mask_B.astype(x_B.dtype)
    return (x_B * mask_B).sum() / jnp.maximum(mask_B.sum(), 1)


def centred(x_BD: Array, mask_B: Array) -> tuple[Array, Array]:
    """Rows minus their mean, masked rows 0; and the number of rows that count (at least 1).

    Args:
      x_BD: [B, D].
      mask_B: 1 for rows that count.

    Returns:
      ([B, D], scalar).
    """
    mask = mask_B.astype(x_BD.dtype)[:, None]
    count = jnp.maximum(mask.sum(), 1)
    return (x_BD - (x_BD * mask).sum(0, keepdims=True) / count) * mask, count


def masked_covariance(x_BD: Array, mask_B: Array, *, unbiased: bool = False) -> Array:
    """Covariance of the rows whose mask is 1.

    Args:
      x_BD: [B, D].
      mask_B: 1 for rows that count.
      unbiased: divide by their number minus one.

    Returns:
      [D, D].
    """
    x_BD, count = centred(x_BD, mask_B)
    return x_BD.T @ x_BD / (jnp.maximum(count - 1, 1) if unbiased else count)


def masked_logits(anchors_AD: Array, keys_KD: Array, temperature: float, masked_K: Array) -> Array:
    """Similarities a.k / temperature, -inf for keys that must not count.

    Args:
      anchors_AD: [A, D], of unit length for cosines.
      keys_KD: [K, D].
      temperature: above 0.
      masked_K: True for keys that no anchor may see.

    Returns:
      [A, K].
    """
    logits_AK = anchors_AD @ keys_KD.T / temperature
    return jnp.where(masked_K[None, :], -jnp.inf, logits_AK)
