"""Mixup and cutmix: images of a batch mixed in pairs, and soft targets to match.

Row i is mixed with row B - 1 - i of the global batch, all rows with the same weight (timm's mode
"batch"):

    mixup    x = l x_i + (1 - l) x_j
    cutmix   x = x_i outside a box, x_j inside of it;  l = 1 - the box's share of the image
    target   l s(y_i) + (1 - l) s(y_j),  s(y) = (1 - e) onehot(y) + e / K

l is drawn from Beta(a, a), once per step.

Shape key: B examples, V views (one), S side of a view, K classes.

Reference: Zhang et al. 2018 (mixup), Yun et al. 2019 (cutmix); timm:data/mixup.py (Mixup).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Task


class Mix(NamedTuple):
    """How one batch is mixed: scalars.

    weight: l, float32 in [0, 1]; of cutmix, before the box is cut off at the borders. 1: not mixed.
    cut: whether by cutmix. row, column: centre of the box, int32 px, 0 to S - 1.
    """

    weight: Array
    cut: Array
    row: Array
    column: Array


def mixing(
    classes: int,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    probability: float = 1.0,
    switch: float = 0.5,
    smoothing: float = 0.0,
) -> Task:
    """Mixup, cutmix and label smoothing.

    Args:
      classes: K.
      mixup, cutmix: a of Beta(a, a) for each; 0 for none.
      probability: of mixing a batch at all, 0 to 1.
      switch: probability of cutmix where there are both.
      smoothing: e, in [0, 1).

    Returns:
      The task. Of "views" [B, 1, S, S, C] and "label" [B] it makes mixed "views" and "target"
      [B, K]. An image without a label (-1) is not mixed with any other, and its target is 0.
    """

    def task(batch: Batch, key: Array) -> Batch:
        views, label = batch["views"], batch["label"]
        weight_B = jnp.ones(len(label), jnp.float32)
        if mixup or cutmix:
            how = draw_mix(key, views.shape[2], mixup, cutmix, probability, switch)
            views, weight_B = mix_views(views, how, (label >= 0) & (label[::-1] >= 0))
        target = mixed_targets(label, weight_B, classes, smoothing)
        return {**batch, "views": views, "target": target}

    return task


def draw_mix(
    key: Array, side: int, mixup: float, cutmix: float, probability: float, switch: float
) -> Mix:
    """What one step draws; see `mixing`. side: S, px."""
    keys = jax.random.split(key, 3)
    u = jax.random.uniform(keys[0], (2,), jnp.float32)
    cut = u[0] < (switch if mixup and cutmix else float(cutmix > 0))
    a = jnp.where(cut, jnp.float32(cutmix), jnp.float32(mixup))
    weight = jnp.where(u[1] < probability, jax.random.beta(keys[1], a, a, dtype=jnp.float32), 1)
    row, column = jax.random.randint(keys[2], (2,), 0, side, jnp.int32)
    return Mix(weight, cut, row, column)


def mix_views(views_BVSSC: Array, how: Mix, on_B: Array) -> tuple[Array, Array]:
    """Mix the views of a batch.

    Args:
      views_BVSSC: of any range.
      how: drawn for the batch.
      on_B: which rows may be mixed; of each pair, both or none.

    Returns:
      (views [B, V, S, S, C], the share l of each row's own image [B], float32).
    """
    others, side = views_BVSSC[::-1], views_BVSSC.shape[2]
    inside_SS, share = _box(how, side)
    weight = jnp.where(how.cut & (how.weight < 1), 1 - share, how.weight)
    weight_B = jnp.where(on_B, weight, 1)
    own = weight_B.astype(views_BVSSC.dtype)[:, None, None, None, None]
    mixed = own * views_BVSSC + (1 - own) * others
    cut = (on_B & (how.weight < 1))[:, None, None, None, None] & inside_SS[None, None, :, :, None]
    pasted = jnp.where(cut, others, views_BVSSC)
    return jnp.where(how.cut, pasted, mixed), weight_B


def _box(how: Mix, side: int) -> tuple[Array, Array]:
    """(which pixels are inside [S, S], their share): of side sqrt(1 - l) S, cut off at borders."""
    length = jnp.floor(side * jnp.sqrt(1 - how.weight)).astype(jnp.int32)
    pixels = jnp.arange(side, dtype=jnp.int32)

    def inside(centre: Array) -> Array:
        return (pixels >= centre - length // 2) & (pixels < centre + (length + 1) // 2)

    rows, columns = inside(how.row), inside(how.column)
    share = (rows.sum() * columns.sum()).astype(jnp.float32) / side**2
    return rows[:, None] & columns[None], share


def mixed_targets(label_B: Array, weight_B: Array, classes: int, smoothing: float) -> Array:
    """Soft targets [B, K], float32, for rows that are mixed with those from the other end.

    Args:
      label_B: int32, -1 unknown.
      weight_B: share l of each row's own image.
      classes: K.
      smoothing: e, in [0, 1).
    """
    known = (label_B >= 0)[:, None]
    one_hot = jax.nn.one_hot(label_B, classes, dtype=jnp.float32)
    own = jnp.where(known, (1 - smoothing) * one_hot + smoothing / classes, 0)
    weight = weight_B.astype(jnp.float32)[:, None]
    return weight * own + (1 - weight) * own[::-1]
