"""Losses of every pixel of an image, with pixels of unknown truth left out.

Shape key: B images, H W pixels, K classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.losses.classification import cross_entropy
from byol_jax.losses.reductions import masked_mean

THRESHOLD = 0.2  # c of the reverse Huber loss, as a share of the largest error


def pixel_cross_entropy(logits_BHWK: Array, class_BHW: Array, mask_B: Array) -> Array:
    """Mean softmax cross-entropy over all pixels of the batch.

    Args:
      logits_BHWK: [B, H, W, K].
      class_BHW: int32 [B, H, W], 0 to K - 1; -1: void, does not count.
      mask_B: 0 for images that do not count.

    Returns:
      Scalar.
    """
    classes = class_BHW.reshape(-1)
    value = cross_entropy(logits_BHWK.reshape(len(classes), -1), classes)
    return masked_mean(value, _counts(class_BHW >= 0, mask_B))


def reverse_huber(found_BHW: Array, depth_BHW: Array, mask_B: Array) -> Array:
    """Mean reverse Huber loss over all pixels of the batch.

        |e|  where |e| <= c,   (e^2 + c^2) / (2 c)  elsewhere,     e = found - depth

    c is a fifth of the largest |e| of the batch, and is taken as a constant.

    Args:
      found_BHW: depths [B, H, W].
      depth_BHW: the true ones, above 0; 0: not known, does not count.
      mask_B: 0 for images that do not count.

    Returns:
      Scalar.

    Reference: Laina et al. 2016, equation 1.
    """
    counts = _counts(depth_BHW > 0, mask_B)
    error = jnp.abs(found_BHW - depth_BHW.astype(found_BHW.dtype)).reshape(-1)
    c = jax.lax.stop_gradient(THRESHOLD * jnp.max(jnp.where(counts, error, 0)))
    c = jnp.maximum(c, jnp.finfo(error.dtype).tiny ** 0.5)
    return masked_mean(jnp.where(error <= c, error, (error**2 + c**2) / (2 * c)), counts)


def _counts(known_BHW: Array, mask_B: Array) -> Array:
    """Whether each pixel counts, [B * H * W]."""
    return (known_BHW & (mask_B > 0)[:, None, None]).reshape(-1)
