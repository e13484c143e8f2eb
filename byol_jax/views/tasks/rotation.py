"""Rotation: by how many quarters was the image turned?

Turns are exact (rows, columns and their order are exchanged): interpolation would give the odd
angles away.

Shape key: B examples, V copies, S side, C channels.

Reference: Gidaris et al. 2018; gidariss/FeatureLearningRotNet:dataloader.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Quiz
from byol_jax.views.tasks.tiles import mosaic


def rotation(turns: int = 4, *, every: bool = True) -> Quiz:
    """The task.

    Args:
      turns: 4: by 0, 90, 180 and 270 degrees, counter-clockwise; 2: by 0 and 180.
      every: each image once in every rotation, in one batch; otherwise in one that is drawn.

    Returns:
      The quiz: a question for each copy, "target" the number of its rotation. The views must be
      squares, and should not be rotated or flipped upside down before.

    Raises:
      ValueError: there are no such exact rotations.
    """
    if turns not in (2, 4):
        raise ValueError(
            f"turns is {turns}; expected 2 or 4: other rotations interpolate, which gives the "
            "answer away."
        )
    quarters = 4 // turns

    def task(batch: Batch, key: Array) -> Batch:
        images_BSSC = batch["views"][:, 0]
        views = jnp.stack([turned(images_BSSC, quarters * k) for k in range(turns)], 1)
        target = jnp.tile(jnp.arange(turns, dtype=jnp.int32)[None], (len(images_BSSC), 1))
        if not every:
            target = jax.random.randint(key, (len(images_BSSC), 1), 0, turns, jnp.int32)
            views = jnp.take_along_axis(views, target[:, :, None, None, None], 1)
        return {**batch, "views": views, "target": target}

    def shown(views_BVSSC: Array, target_BV: Array, answer_BV: Array) -> dict[str, Array]:
        del target_BV
        back = jnp.stack([turned(views_BVSSC, -quarters * k, 2) for k in range(turns)])
        chosen = jnp.take_along_axis(back, answer_BV[None, :, :, None, None, None], 0)[0]
        return {"asked": mosaic(views_BVSSC), "found": mosaic(chosen)}

    copies = turns if every else 1
    return Quiz(task, tuple((v,) for v in range(copies)), turns, shown)


def turned(x: Array, quarters: int, axis: int = 1) -> Array:
    """Images turned counter-clockwise by quarters of a turn; `axis` is that of their rows."""
    return jnp.rot90(x, quarters, (axis, axis + 1))
