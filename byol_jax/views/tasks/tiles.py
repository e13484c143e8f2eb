"""Tiles of an image, and what keeps a network from cheating with them.

Shape key: B examples, H W C image, N tiles, S side of a tile, px, V views.

Neighbouring tiles share edges, so they are cut with a gap and a jitter; a lens shifts green against
red and blue along the radius, which tells where in the image a tile was: channels are shifted
independently, all but one dropped, or the direction in which they differ is projected away.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ABERRATION = np.array([-1.0, 2.0, -1.0])
"""The direction in colours along which lenses separate: green against red and blue."""


def cut(
    images_BHWC: Array, key: Array, *, grid: int, tile: int, jitter: int, shift: int = 0
) -> Array:
    """Cut one tile out of each cell of a grid.

    Args:
      images_BHWC: the cells are squares of min(H, W) // grid px, from the top left on.
      key: of the positions.
      grid: cells along a side.
      tile: side S, px.
      jitter: px; how far a tile may move in its cell along each axis, uniformly, around the centre.
      shift: px; each channel of a tile is moved by a further 0 to `shift` along each axis.

    Returns:
      [B, grid * grid, S, S, C], row by row.

    Raises:
      ValueError: a tile does not fit into a cell.
    """
    rows, height, width, channels = images_BHWC.shape
    cell = min(height, width) // grid
    gap = cell - tile - jitter - shift
    if gap < 0:
        raise ValueError(
            f"A tile of {tile} px with a jitter of {jitter} and a shift of {shift} px does not fit "
            f"into a cell of {cell} px, 1/{grid} of an image of {height} x {width} px; lower one "
            "of them by "
            f"{-gap} px in all, or set image_size to {grid * (cell - gap)} or more."
        )
    corner_N2 = cell * np.indices((grid, grid)).reshape(2, -1).T + gap // 2
    jitter_key, shift_key = jax.random.split(key)
    moved = jax.random.randint(jitter_key, (rows, grid**2, 1, 2), 0, jitter + 1, jnp.int32)
    apart = jax.random.randint(shift_key, (rows, grid**2, channels, 2), 0, shift + 1, jnp.int32)
    start_BNC2 = jnp.asarray(corner_N2)[None, :, None] + moved + apart

    def slices(plane_HW: Array, start_N2: Array) -> Array:
        return jax.vmap(lambda at: jax.lax.dynamic_slice(plane_HW, at, (tile, tile)))(start_N2)

    return jax.vmap(jax.vmap(slices, (-1, 1), -1))(images_BHWC, start_BNC2)


def normalised(tiles_BNSSC: Array) -> Array:
    """Each channel of each tile by its own mean and standard deviation over its pixels.

    A channel of one value becomes 0.

    Reference: Noroozi and Favaro 2016, section 4.2.
    """
    mean = tiles_BNSSC.mean((2, 3), keepdims=True)
    deviation = tiles_BNSSC.std((2, 3), keepdims=True)
    return (tiles_BNSSC - mean) / jnp.where(deviation > 1e-5, deviation, 1)


def project_colours(
    images_BHWC: Array,
    key: Array,
    probability: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Array:
    """Take the direction green against red and blue out of the colours of some images.

    Args:
      images_BHWC: normalised with `mean` and `std`, 3 channels.
      key: of the choice of images.
      probability: of each image.
      mean, std: per channel; () for 0 and 1.

    Returns:
      x - a (a.x) / (a.a), a = (-1, 2, -1), normalised in the same way.

    Raises:
      ValueError: the images have another number of channels.

    Reference: Doersch et al. 2015, section 3.1.
    """
    _check_colours(images_BHWC)
    a = jnp.asarray(ABERRATION, images_BHWC.dtype)
    scale = jnp.asarray(std or (1.0,) * 3, images_BHWC.dtype)
    offset = jnp.asarray(mean or (0.0,) * 3, images_BHWC.dtype)
    along = images_BHWC @ (scale * a) + offset @ a
    less = along[..., None] * (a / (a @ a) / scale)[None, None, None]
    drawn = jax.random.uniform(key, (len(images_BHWC), 1, 1, 1), jnp.float32) < probability
    return images_BHWC - jnp.where(drawn, less, 0)


def drop_channels(tiles_BNSSC: Array, key: Array, std: tuple[float, ...]) -> Array:
    """Keep one random channel of each tile, less its mean; noise in the others; unit power.

    Args:
      tiles_BNSSC: normalised with `std`, 3 channels.
      key: of the channel and the noise, which is uniform within half of 1/255 of the full range.
      std: per channel; () for 1.

    Returns:
      As many tiles, each divided by the root of its mean square.

    Raises:
      ValueError: the images have another number of channels.

    Reference: Doersch et al. 2015, section 3.1; cdoersch/deepcontext:train.py (prep_image), where
      the root mean square is 50.
    """
    _check_colours(tiles_BNSSC)
    channel_key, noise_key = jax.random.split(key)
    scale = jnp.asarray(std or (1.0,) * 3, tiles_BNSSC.dtype)[None, None, None, None]
    x = scale * (tiles_BNSSC - tiles_BNSSC.mean((2, 3), keepdims=True))
    keep = jax.random.randint(channel_key, (*x.shape[:2], 1, 1, 1), 0, 3, jnp.int32)
    keep = keep == jnp.arange(3)[None, None, None, None]
    noise = (jax.random.uniform(noise_key, x.shape, jnp.float32) - 0.5) / 255
    x = jnp.where(keep, x, noise.astype(x.dtype))
    return x / jnp.sqrt(jnp.square(x).mean((2, 3, 4), keepdims=True))


def _check_colours(images: Array) -> None:
    if images.shape[-1] != 3:
        raise ValueError(
            f"Images of {images.shape[-1]} channel(s) have no colours to drop or project; expected "
            "3 channels: turn both off."
        )


def mosaic(views_BVSSC: Array) -> Array:
    """Views of an example beside and below one another, in a square grid or the next larger one.

    Returns:
      [B, rows S, columns S, C]; 0 where there is no view.
    """
    b, v, s, _, c = views_BVSSC.shape
    columns = math.ceil(v**0.5)
    rows = math.ceil(v / columns)
    full = jnp.pad(views_BVSSC, ((0, 0), (0, rows * columns - v), (0, 0), (0, 0), (0, 0)))
    grid = full.reshape(b, rows, columns, s, s, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * s, columns * s, c)
