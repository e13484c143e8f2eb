"""Jigsaw puzzles: which of a fixed set of permutations were the tiles put into?

Shape key: B examples, N tiles, S side of a tile, C channels, K permutations, P all permutations.

Reference: Noroozi and Favaro 2016; MehdiNoroozi/JigsawPuzzleSolver.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Quiz
from byol_jax.views.tasks.tiles import cut, mosaic, normalised, project_colours


def jigsaw(
    permutations: int = 100,
    *,
    grid: int = 3,
    tile: int = 64,
    jitter: int = 19,
    shift: int = 2,
    normalise: bool = True,
    project: float = 0.25,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Quiz:
    """The task.

    Args:
      permutations: K, of the set that `permutation_set` makes.
      grid: cells along a side; N = grid^2 tiles, one out of each.
      tile, jitter, shift: of the tiles, px; see `tiles.cut`.
      normalise: each channel of each tile by its own mean and deviation.
      project: probability that the colours of an image are projected; see `tiles.project_colours`.
      mean, std: that the views are normalised with.

    Returns:
      The quiz: one question about all tiles, "target" [B, 1] the number of the permutation p; in
      place i lies tile p[i] of the image, counted row by row.
    """
    table_KN = permutation_set(permutations, grid)

    def task(batch: Batch, key: Array) -> Batch:
        cut_key, colour_key, order_key = jax.random.split(key, 3)
        images = batch["views"][:, 0]
        if project:
            images = project_colours(images, colour_key, project, mean, std)
        tiles = cut(images, cut_key, grid=grid, tile=tile, jitter=jitter, shift=shift)
        if normalise:
            tiles = normalised(tiles)
        target = jax.random.randint(order_key, (len(images), 1), 0, permutations, jnp.int32)
        views = _ordered(tiles, jnp.asarray(table_KN)[target[:, 0]])
        return {**batch, "views": views, "target": target}

    def shown(views_BNSSC: Array, target_B1: Array, answer_B1: Array) -> dict[str, Array]:
        back = jnp.asarray(np.argsort(table_KN, axis=1))
        right, found = (_ordered(views_BNSSC, back[x[:, 0]]) for x in (target_B1, answer_B1))
        return {"asked": mosaic(views_BNSSC), "found": mosaic(found), "right": mosaic(right)}

    return Quiz(task, (tuple(range(grid**2)),), permutations, shown)


def _ordered(tiles_BNSSC: Array, order_BN: Array) -> Array:
    return jnp.take_along_axis(tiles_BNSSC, order_BN[:, :, None, None, None], 1)


@functools.cache
def permutation_set(count: int, grid: int = 3) -> np.ndarray:
    """Permutations of the tiles that differ in as many places as can be, chosen greedily.

    The first is drawn with a fixed seed. Each further one is, of all there are, the farthest from
    the nearest of those chosen, in Hamming distance; of several, the one with the largest sum of
    distances, then the first in lexicographic order. A function of its arguments alone: a run that
    goes on, or an evaluation, has the same set. A smaller set is the beginning of a larger one.

    Args:
      count: K.
      grid: 2 or 3; grid^2 tiles.

    Returns:
      int32 [K, grid^2].

    Raises:
      ValueError: there are not as many, or too many to go through.
    """
    tiles = grid**2
    if grid not in (2, 3):
        raise ValueError(f"A puzzle of {grid} x {grid} tiles is not possible; expected 2 or 3.")
    if not 1 < count <= math.factorial(tiles):
        raise ValueError(
            f"{count} permutations of {tiles} tiles were asked for; expected 2 to "
            f"{math.factorial(tiles)}."
        )
    everyone_NP = np.array(list(itertools.permutations(range(tiles))), np.uint8).T.copy()
    nearest = np.full(everyone_NP.shape[1], tiles, np.uint8)
    total = np.zeros(everyone_NP.shape[1], np.int32)
    chosen = [np.random.RandomState(0).randint(len(total))]
    while len(chosen) < count:
        distance = np.zeros_like(nearest)
        for place in everyone_NP:
            distance += place != place[chosen[-1]]
        np.minimum(nearest, distance, out=nearest)
        total += distance
        chosen.append(int(np.argmax(np.where(nearest == nearest.max(), total, -1))))
    return everyone_NP.T[chosen].astype(np.int32)
