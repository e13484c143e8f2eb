"""Images as patches, and the positions of patches.

Shape key: N rows, H W C image, h w patches down and across, L = h w patches, P = p p C numbers of a
patch of p px, D features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def grid_of(images_NHWC: Array, patch: int) -> tuple[int, int]:
    """How many patches an image has: (down, across).

    Raises:
      ValueError: the patches do not cover the image exactly.
    """
    height, width = images_NHWC.shape[1:3]
    if height % patch or width % patch:
        raise ValueError(
            f"An image of {height} x {width} px cannot be divided into patches of {patch} px; "
            "choose an image_size that vit.patch divides."
        )
    return height // patch, width // patch


def patchify(images_NHWC: Array, patch: int) -> Array:
    """Cut images into patches, row by row; the inverse of `unpatchify`.

    Args:
      images_NHWC: any.
      patch: side of a patch, px; it must divide both sides.

    Returns:
      [N, L, P], the numbers of a patch in the order row, column, channel.
    """
    n, _, _, c = images_NHWC.shape
    h, w = grid_of(images_NHWC, patch)
    x = images_NHWC.reshape(n, h, patch, w, patch, c).swapaxes(2, 3)
    return x.reshape(n, h * w, patch * patch * c)


def unpatchify(patches_NLP: Array, patch: int, grid: tuple[int, int]) -> Array:
    """Put patches together; the inverse of `patchify`.

    Args:
      patches_NLP: as `patchify` returns them.
      patch: side of a patch, px.
      grid: (h, w).

    Returns:
      [N, H, W, C].
    """
    (n, _, p), (h, w) = patches_NLP.shape, grid
    x = patches_NLP.reshape(n, h, w, patch, patch, p // patch**2).swapaxes(2, 3)
    return x.reshape(n, h * patch, w * patch, -1)


def sincos(dim: int, grid: tuple[int, int]) -> np.ndarray:
    """Fixed positions: sines and cosines of the column, then of the row.

    Args:
      dim: D, a multiple of 4.
      grid: (h, w).

    Returns:
      [L, D] float64, of patches row by row.

    Reference: facebookresearch/mae:util/pos_embed.py. (facebookresearch/moco-v3:vits.py has the row
      first, which is the same but for the order of the features.)
    """
    frequency = 10000.0 ** -(np.arange(dim // 4) / (dim // 4))
    row, column = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    angles = column * frequency, row * frequency
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], 1)


def resampled(positions_LD: Array, before: tuple[int, int], grid: tuple[int, int]) -> Array:
    """Positions of one grid of patches for another one: bicubic, antialiased.

    Args:
      positions_LD: of the patches of `before`, row by row.
      before: (h, w) that they are for.
      grid: (h, w) wanted.

    Returns:
      [L', D], what timm's `resample_abs_pos_embed` returns, to rounding.
    """
    if before == grid:
        return positions_LD
    dim = positions_LD.shape[-1]
    table = jnp.asarray(positions_LD).reshape(*before, dim)
    return jax.image.resize(table, (*grid, dim), "cubic", antialias=True).reshape(-1, dim)
