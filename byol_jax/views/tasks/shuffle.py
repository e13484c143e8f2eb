"""Shuffle and learn: are three frames of a clip in order?

The first and the last of them stay, and the middle one is exchanged: the ends do not tell.

Shape key: B examples, T frames, S side, C channels, W windows.

Reference: Misra et al. 2016, section 3.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.spec import FRAMES
from byol_jax.views.tasks import Quiz


def shuffle(frames: int, *, span: int = 4, apart: int = 1, positive: float = 0.25) -> Quiz:
    """The task.

    Args:
      frames: T, of a clip.
      span: frames from the first of the three, b, to the last, d; at least 2.
      apart: frames from b back to a, and from d on to e, which are put into the middle of those
        that are not in order; at least 1.
      positive: share of b, c, d, with c anywhere between b and d. The others are b, a, d and
        b, e, d, equally often.

    Returns:
      The quiz: one question about three views, "target" 1 if they are in order, else 0. The window
      from a to e is drawn in proportion to the motion from b to d: the mean absolute difference of
      frames that follow one another. Half of the triples are shown backwards, which changes no
      answer: b, c, d is in order either way.

    Raises:
      ValueError: the window does not fit into the clip, or nothing lies between b and d.
    """
    window = span + 2 * apart + 1
    if span < 2 or apart < 1:
        raise ValueError(
            f"shuffle.span is {span} and shuffle.apart {apart}; expected at least 2, so that a "
            "frame lies between the ends, and at least 1."
        )
    if frames < window:
        raise ValueError(
            f"data.frames is {frames}; shuffle.span {span} and shuffle.apart {apart} need a window "
            f"of {window} frames: set data.frames to {window} or more (data.name=clips)."
        )

    def task(batch: Batch, key: Array) -> Batch:
        frames_BTSSC = batch[FRAMES]
        rows = len(frames_BTSSC)
        keys = jax.random.split(key, 5)
        first_B = _drawn(motion(frames_BTSSC), span, apart, keys[0]) + apart
        between_B = jax.random.randint(keys[1], (rows,), 1, span, jnp.int32)
        ordered_B = jax.random.uniform(keys[2], (rows,), jnp.float32) < positive
        before_B, back_B = (jax.random.bernoulli(k, 0.5, (rows,)) for k in (keys[3], keys[4]))
        outside_B = jnp.where(before_B, -apart, span + apart)
        middle_B = jnp.where(ordered_B, between_B, outside_B)
        ends = (jnp.where(back_B, span, 0), jnp.where(back_B, 0, span))
        at_B3 = first_B[:, None] + jnp.stack([ends[0], middle_B, ends[1]], 1).astype(jnp.int32)
        views = jnp.take_along_axis(frames_BTSSC, at_B3[:, :, None, None, None], 1)
        rest = {k: v for k, v in batch.items() if k != FRAMES}
        return {**rest, "views": views, "target": ordered_B[:, None].astype(jnp.int32)}

    def shown(views_BVSSC: Array, target_BQ: Array, answer_BQ: Array) -> dict[str, Array]:
        titles = ("1st", "2nd", "3rd")  # in the order that jit gives them
        frames = {title: views_BVSSC[:, i] for i, title in enumerate(titles)}
        blank = jnp.ones_like(views_BVSSC[:, 0, :, : views_BVSSC.shape[3] // 2])
        halves = [(2.0 * x_BQ[:, :1, None, None] - 1) * blank for x_BQ in (answer_BQ, target_BQ)]
        return {**frames, "found, right": jnp.concatenate(halves, 2)}

    return Quiz(task, ((0, 1, 2),), 2, shown, reads={FRAMES: frames}, auc=True)


def motion(frames_BTSSC: Array) -> Array:
    """How much changes from each frame to the next: the mean absolute difference, [B, T - 1]."""
    return jnp.abs(jnp.diff(frames_BTSSC, axis=1)).mean((2, 3, 4))


def _drawn(motion_BT: Array, span: int, apart: int, key: Array) -> Array:
    """The first frame of a window, in proportion to the motion in the middle of it, [B] int32.

    Where nothing moves, all are equally likely.
    """
    starts = motion_BT.shape[1] + 1 - (span + 2 * apart)
    weight_BW = jnp.stack(
        [motion_BT[:, w + apart : w + apart + span].mean(1) for w in range(starts)], 1
    )
    drawn = jax.random.categorical(key, jnp.log(weight_BW + 1e-6), axis=-1)
    return drawn.astype(jnp.int32)
