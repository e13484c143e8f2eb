"""Relative position: on which side of the first tile of an image does the second one lie?

Shape key: B examples, Q pairs, S side of a tile, C channels.

Reference: Doersch et al. 2015; cdoersch/deepcontext:train.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Quiz
from byol_jax.views.tasks.tiles import cut, drop_channels, mosaic, project_colours

CENTRE, AROUND = 4, np.array([0, 1, 2, 3, 5, 6, 7, 8], np.int32)
"""Cells of a 3x3 grid, row by row; answer k is that the tile is of cell AROUND[k]."""


def relative(
    pairs: int = 8,
    *,
    tile: int = 64,
    jitter: int = 21,
    drop: bool = False,
    project: float = 0.0,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Quiz:
    """The task.

    Args:
      pairs: Q, how many of the eight neighbours of the centre are asked for, drawn without
        replacement; 1 to 8.
      tile, jitter: of the tiles, px; see `tiles.cut`. What they leave of a cell is the gap.
      drop: one channel of each tile is kept, the others are noise; see `tiles.drop_channels`.
      project: probability that the colours of an image are projected; see `tiles.project_colours`.
      mean, std: that the views are normalised with.

    Returns:
      The quiz. View 0 is the centre, views 1 to Q are neighbours; question q is about views 0 and
      q + 1, "target" [B, Q] its place: 0 to 2 above, 3 left, 4 right, 5 to 7 below.

    Raises:
      ValueError: `pairs` is not 1 to 8.
    """
    if not 1 <= pairs <= 8:
        raise ValueError(f"pairs is {pairs}; expected 1 to 8, the neighbours of a tile.")

    def task(batch: Batch, key: Array) -> Batch:
        cut_key, colour_key, order_key = jax.random.split(key, 3)
        images = batch["views"][:, 0]
        if project:
            images = project_colours(images, colour_key, project, mean, std)
        tiles = cut(images, cut_key, grid=3, tile=tile, jitter=jitter)
        if drop:
            tiles = drop_channels(tiles, colour_key, std)
        noise = jax.random.uniform(order_key, (len(images), 8), jnp.float32)
        target = jnp.argsort(noise, axis=1)[:, :pairs].astype(jnp.int32)
        around = jnp.take_along_axis(tiles[:, AROUND], target[:, :, None, None, None], 1)
        views = jnp.concatenate([tiles[:, CENTRE : CENTRE + 1], around], 1)
        return {**batch, "views": views, "target": target}

    def shown(views_BVSSC: Array, target_BQ: Array, answer_BQ: Array) -> dict[str, Array]:
        found, right = (mosaic(_placed(views_BVSSC, place)) for place in (answer_BQ, target_BQ))
        return {"asked": mosaic(views_BVSSC), "found": found, "right": right}

    return Quiz(task, tuple((0, q + 1) for q in range(pairs)), 8, shown)


def _placed(views_BVSSC: Array, place_BQ: Array) -> Array:
    """The tiles in a 3x3 grid [B, 9, S, S, C], the neighbours in given places, 0 elsewhere."""
    cell_BQ = jnp.asarray(AROUND)[place_BQ]
    blank = jnp.zeros((len(views_BVSSC), 9, *views_BVSSC.shape[2:]), views_BVSSC.dtype)
    row_B1 = jnp.arange(len(blank))[:, None]
    return blank.at[:, CENTRE].set(views_BVSSC[:, 0]).at[row_B1, cell_BQ].set(views_BVSSC[:, 1:])
