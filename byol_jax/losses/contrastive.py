"""Losses in which two views of one image attract and other images of the batch repel.

Shape key: B examples, V views, D embedding, A anchors (B * V).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.reductions import check_views, masked_logits, normalize


def _similarity_and_partition(
    online_BVD: Array, target_BVD: Array, temperature: float, mask_B: Array
) -> tuple[Array, Array]:
    """Cosine to the other view, and log-partition over all pairs but the self-pair, both [B, V]."""
    b, v, d = online_BVD.shape
    q_AD = normalize(online_BVD).reshape(b * v, d)
    z_AD = normalize(target_BVD).reshape(b * v, d)
    positive_BV = (q_AD * z_AD.reshape(b, v, d)[:, ::-1].reshape(b * v, d)).sum(-1).reshape(b, v)
    # A substituted row is never a negative; its own row is left out by the caller's mean.
    masked_A = jnp.repeat(mask_B == 0, v)
    logits_AA = masked_logits(q_AD, z_AD, temperature, masked_A)
    anchors = jnp.arange(b * v)
    logits_AA = jnp.where(anchors[:, None] == anchors[None, :], -jnp.inf, logits_AA)
    # A masked anchor keeps one finite entry, so that no NaN can reach the gradient.
    logits_AA = jnp.where(masked_A[:, None], 0.0, logits_AA)
    return positive_BV, jax.nn.logsumexp(logits_AA, -1).reshape(b, v)


def nt_xent(z_BVD: Array, temperature: float, mask_B: Array) -> Array:
    """SimCLR's normalised-temperature cross-entropy over the global 2N.

    Args:
      z_BVD: projections [B, 2, D], of any norm.
      temperature: above 0.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.

    Returns:
      [B], the mean of both anchors' loss.

    Raises:
      ValueError: there are not two views.

    Reference: Chen et al. 2020, equation 1.
    """
    check_views("nt_xent", z_BVD)
    positive_BV, partition_BV = _similarity_and_partition(z_BVD, z_BVD, temperature, mask_B)
    return (partition_BV - positive_BV / temperature).mean(1)


def n_pair(z_BVD: Array, mask_B: Array, *, l2: float) -> Array:
    """N-pair loss: view 1 of an image finds view 2 of the same image among those of all images.

    Cross-entropy over the products a.p, of vectors as they are (not normalised), in one direction,
    plus l2 / 4 (|a|^2 + |p|^2), which keeps them from growing.

    Args:
      z_BVD: projections [B, 2, D]: anchors a, positives p.
      mask_B: 1, or 0 for an example that is neither anchor nor negative.
      l2: weight of the squared norms, 0 or more.

    Returns:
      [B].

    Raises:
      ValueError: there are not two views.

    Reference: Sohn 2016; the l2 term is that of tf.contrib.losses.metric_learning.npairs_loss,
      0.25 * 0.002.
    """
    check_views("n_pair", z_BVD)
    a_BD, p_BD = z_BVD[:, 0], z_BVD[:, 1]
    masked_B = mask_B == 0
    logits_BB = masked_logits(a_BD, p_BD, 1.0, masked_B)
    logits_BB = jnp.where(masked_B[:, None], 0.0, logits_BB)
    loss_B = jax.nn.logsumexp(logits_BB, -1) - (a_BD * p_BD).sum(-1)
    return loss_B + l2 / 4 * (jnp.square(a_BD) + jnp.square(p_BD)).sum(-1)


def supervised_contrastive(
    z_BVD: Array, label_B: Array, mask_B: Array, *, temperature: float, inside: bool = False
) -> Array:
    """SupCon: all views of all images of one class attract.

    Mean over the positives p of an anchor i of -log(exp(s_ip / t) / sum_k exp(s_ik / t)), s the
    cosine, k over all views but i itself; every view is an anchor.

    A label of -1 (unknown) is a class of its own: the only positive is the image's other view, as
    in NT-Xent, and the image is a negative of all others.

    Args:
      z_BVD: projections [B, 2, D], of any norm.
      label_B: class of each image, -1 where unknown.
      mask_B: 1, or 0 for an example that is neither anchor, positive nor negative.
      temperature: t, above 0.
      inside: take the mean over the positives inside the logarithm, of the probabilities.

    Returns:
      [B], the mean of both anchors' loss.

    Raises:
      ValueError: there are not two views.

    Reference: Khosla et al. 2020, equations 2 (outside) and 3 (inside).
    """
    check_views("supervised_contrastive", z_BVD)
    b, v, d = z_BVD.shape
    z_AD = normalize(z_BVD).reshape(b * v, d)
    masked_A, label_A = jnp.repeat(mask_B == 0, v), jnp.repeat(label_B, v)
    image_A, anchors = jnp.repeat(jnp.arange(b), v), jnp.arange(b * v)
    self_AA = anchors[:, None] == anchors[None, :]
    alike_AA = (label_A[:, None] == label_A[None, :]) & (label_A >= 0)[:, None]
    alike_AA |= image_A[:, None] == image_A[None, :]
    positive_AA = alike_AA & ~self_AA & ~masked_A[None, :] & ~masked_A[:, None]
    count_A = jnp.maximum(positive_AA.sum(-1), 1).astype(z_BVD.dtype)

    logits_AA = jnp.where(self_AA, -jnp.inf, masked_logits(z_AD, z_AD, temperature, masked_A))
    # A masked anchor keeps finite entries, so that no NaN can reach the gradient.
    logits_AA = jnp.where(masked_A[:, None], 0.0, logits_AA)
    log_p_AA = logits_AA - jax.nn.logsumexp(logits_AA, -1, keepdims=True)
    if inside:
        found_AA = jnp.where(positive_AA | masked_A[:, None], log_p_AA, -jnp.inf)
        log_p_A = jax.nn.logsumexp(found_AA, -1) - jnp.log(count_A)
    else:
        log_p_A = jnp.where(positive_AA, log_p_AA, 0.0).sum(-1) / count_A
    return -log_p_A.reshape(b, v).mean(1)


def regression_with_negatives(
    online_BVD: Array, target_BVD: Array, mask_B: Array, *, beta: float, temperature: float
) -> Array:
    """The common form of BYOL and SimCLR, with negatives weighted by `beta`, to be minimised.

    Sum over both directions of 2 - 2 cos + beta * 2 alpha * log-partition: at beta 0 it is
    `regression`; at beta 1 with online = target it is 4 + 4 alpha NT-Xent.

    Args:
      online_BVD: predictions (or projections without a predictor) [B, 2, D].
      target_BVD: target projections [B, 2, D].
      mask_B: 1, or 0 for an example that is neither anchor nor negative.
      beta: weight of the negatives, 0 or more.
      temperature: alpha, above 0.

    Returns:
      [B].

    Raises:
      ValueError: there are not two views.

    Reference: Grill et al. 2020, equation 8 (appendix F.4), negated and shifted by 2 per direction.
    """
    check_views("regression_with_negatives", online_BVD)
    check_views("regression_with_negatives", target_BVD)
    positive_BV, partition_BV = _similarity_and_partition(
        online_BVD, target_BVD, temperature, mask_B
    )
    return (2 - 2 * positive_BV + beta * 2 * temperature * partition_BV).sum(1)
