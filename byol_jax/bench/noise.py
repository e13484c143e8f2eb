"""Synthetic images for measurements without data."""

from __future__ import annotations

import numpy as np

from byol_jax.data.source import Source


def noise(count: int, side: int) -> Source:
    """Smooth coloured noise in memory; not zeros, which some hardware computes faster.

    Args:
      count: number of images.
      side: of each image, px.
    """
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, -(-side // 4), -(-side // 4), 3), np.uint8)
    images = coarse.repeat(4, 1).repeat(4, 2)[:, :side, :side]
    images = images // 2 + random.integers(0, 128, images.shape, np.uint8)
    labels = random.integers(0, 1000, count).astype(np.int32)
    return Source("noise", count, 3, classes=1000, labels=labels, images=images)
