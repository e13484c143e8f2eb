"""Losses over triplets: an anchor, its other view, and one view of another image.

Shape key: B examples, V views, D embedding, A anchors (B * V).

Every view is an anchor; its negatives are all views of the other images of the batch. Plain losses
are the mean over an anchor's negatives, so that the balance between positives and negatives does
not depend on the batch. Semi-hard losses take one negative for each anchor: the closest of those
that are farther than the positive; if all are nearer, the farthest of them.

Reference: Chen et al. 2020, section 5.1 and table 4; Schroff et al. 2015, section 3.2 (semi-hard;
they do not say what to do where there is none: the rule here is tensorflow_addons' and, before it,
that of tf.contrib.losses.metric_learning.triplet_semihard_loss).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, normalize


def _triplets(z_BVD: Array, mask_B: Array, semi_hard: bool) -> tuple[Array, Array, Array]:
    """(cosine to the positive [A], cosines to all [A, A], weights of the negatives [A, A])."""
    b, v, d = z_BVD.shape
    unit = normalize(z_BVD)
    z_AD = unit.reshape(b * v, d)
    positive_A = (z_AD * unit[:, ::-1].reshape(b * v, d)).sum(-1)
    cosine_AA = z_AD @ z_AD.T
    image_A, counts_A = jnp.repeat(jnp.arange(b), v), jnp.repeat(mask_B > 0, v)
    negative_AA = (image_A[:, None] != image_A[None, :]) & counts_A[None, :]
    if semi_hard:
        farther_AA = negative_AA & (cosine_AA < positive_A[:, None])
        closest_A = jnp.where(farther_AA, cosine_AA, -jnp.inf).argmax(-1)
        farthest_A = jnp.where(negative_AA, cosine_AA, jnp.inf).argmin(-1)
        chosen_A = jnp.where(farther_AA.any(-1), closest_A, farthest_A)
        negative_AA &= jnp.arange(b * v)[None, :] == chosen_A[:, None]
    weights_AA = negative_AA.astype(z_BVD.dtype)
    return positive_A, cosine_AA, weights_AA / jnp.maximum(weights_AA.sum(-1, keepdims=True), 1)


def nt_logistic(
    z_BVD: Array, mask_B: Array, *, temperature: float, semi_hard: bool = False
) -> Array:
    """Normalised-temperature logistic loss: is this the other view of the same image, or not?

    -log sigmoid(u.v+ / t) - mean over negatives of log sigmoid(-u.v- / t), of unit vectors.

    Args:
      z_BVD: projections [B, 2, D], of any norm.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.
      temperature: t, above 0.
      semi_hard: one negative for each anchor instead of all, chosen as the module says.

    Returns:
      [B], the mean of both anchors' loss.

    Raises:
      ValueError: there are not two views.
    """
    check_views("nt_logistic", z_BVD)
    positive_A, cosine_AA, weights_AA = _triplets(z_BVD, mask_B, semi_hard)
    attract_A = jax.nn.softplus(-positive_A / temperature)
    repel_A = (weights_AA * jax.nn.softplus(cosine_AA / temperature)).sum(-1)
    return (attract_A + repel_A).reshape(z_BVD.shape[:2]).mean(1)


def margin_triplet(z_BVD: Array, mask_B: Array, *, margin: float, semi_hard: bool = False) -> Array:
    """Margin triplet loss: mean over negatives of max(u.v- - u.v+ + m, 0), of unit vectors.

    Args:
      z_BVD: projections [B, 2, D], of any norm.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.
      margin: m, 0 or more. A semi-hard negative beyond it adds nothing to the loss.
      semi_hard: one negative for each anchor instead of all, chosen as the module says.

    Returns:
      [B], the mean of both anchors' loss.

    Raises:
      ValueError: there are not two views.
    """
    check_views("margin_triplet", z_BVD)
    positive_A, cosine_AA, weights_AA = _triplets(z_BVD, mask_B, semi_hard)
    hinge_AA = jax.nn.relu(cosine_AA - positive_A[:, None] + margin)
    return (weights_AA * hinge_AA).sum(-1).reshape(z_BVD.shape[:2]).mean(1)
