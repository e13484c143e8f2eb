"""Feature maps of a stage pooled to about as many numbers for every stage.

Shape key: N images, G groups, H W positions, C channels, S positions per side after pooling.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array


def _bins(length: int, parts: int) -> np.ndarray:
    """Means over `parts` ranges of `length` positions [parts, length]; neighbours may overlap."""
    weights = np.zeros((parts, length), np.float32)
    for i in range(parts):
        low, high = i * length // parts, -(-(i + 1) * length // parts)
        weights[i, low:high] = 1 / (high - low)
    return weights


def pooled(maps_NGHWC: Array, numbers: int) -> Array:
    """Average a feature map over a grid of SxS ranges, as torch's adaptive_avg_pool2d does.

    Args:
      maps_NGHWC: the maps of one stage.
      numbers: about how many numbers S * S * C to keep per image; S is 1 at least, and at most the
        side of the map. 0: the global average, S = 1.

    Returns:
      [N, G, S * S * C], float32.

    Reference: Zhang et al. 2016: about 9,000 numbers per layer.
    """
    n, g, h, w, c = maps_NGHWC.shape
    side = max(1, round((numbers / c) ** 0.5))
    rows, columns = _bins(h, min(side, h)), _bins(w, min(side, w))
    x = maps_NGHWC.astype(jnp.float32)
    x = jnp.einsum("sh,nghwc->ngswc", rows, x, precision="highest")
    return jnp.einsum("tw,ngswc->ngstc", columns, x, precision="highest").reshape(n, g, -1)
