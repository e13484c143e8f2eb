"""Inpainting: what was in the hole?

Shape key: B examples, S side of an image, C channels.

Reference: Pathak et al. 2016; pathak22/context-encoder:train.lua and train_random.lua.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.tasks import Task

COARSE = 0.06
"""Side of the noise of random regions, a share of the image's."""


def inpainting(
    region: str = "centre",
    *,
    size: float = 0.5,
    band: int = 4,
    band_weight: float = 10.0,
    area: float = 0.25,
) -> Task:
    """The task.

    Args:
      region: "centre": a square; "random": blobs, drawn for each image.
      size: centre: side of the square, a share of the image's.
      band: centre: px along the inner border of the square that are shown, and predicted all the
        same, so that the filling fits.
      band_weight: of these pixels in the loss; those of the hole have 1.
      area: random: share of the image that is hidden.

    Returns:
      (batch, key) -> batch with "views" [B, 1, S, S, C] whose hole is 0, the mean colour of
      normalised views; "hidden" [B, S, S], bool, the hole; "target" [B, S, S, C], the images; and
      "weight" [B, S, S]: 1 in the hole, `band_weight` in the band, 0 elsewhere.

    Raises:
      ValueError: when called, if nothing of an image is hidden, or all of it.
    """

    def task(batch: Batch, key: Array) -> Batch:
        images = batch["views"][:, 0]
        b, side = images.shape[:2]
        if region == "centre":
            edge_SS = _inside(side, round(size * side), band)
            inner_SS = jnp.where(edge_SS < band, band_weight, 1.0)
            weight_SS = jnp.where(edge_SS < 0, 0.0, inner_SS).astype(images.dtype)
            hidden_BSS, weight_BSS = (
                jnp.tile(x[None], (b, 1, 1)) for x in (edge_SS >= band, weight_SS)
            )
        else:
            hidden_BSS = blobs(key, b, side, area)
            weight_BSS = hidden_BSS.astype(images.dtype)
        shown = jnp.where(hidden_BSS[..., None], 0, images)
        made = {"target": images, "weight": weight_BSS, "hidden": hidden_BSS}
        return {**batch, "views": shown[:, None], **made}

    return task


def _inside(side: int, square: int, band: int) -> Array:
    """How many px each pixel [S, S] lies from the border of a centred square; below 0 outside."""
    if not 2 * band < square < side:
        raise ValueError(
            f"A square of {square} px with a band of {band} px has no hole in an image of {side} "
            f"px; expected a square of more than {2 * band} and less than {side} px: change its "
            "size or the band."
        )
    start = (side - square) // 2
    from_start = jnp.arange(side) - start
    inside = jnp.minimum(from_start, square - 1 - from_start)
    return jnp.minimum(inside[:, None], inside[None, :])


def blobs(key: Array, rows: int, side: int, area: float) -> Array:
    """Regions of any form: coarse noise, resized bicubically, where it is lowest.

    NOTE: the authors cut windows with 20 to 30% of their pixels hidden out of one large pattern,
    one for a whole batch; here every image has its own, and exactly the share `area`.

    Returns:
      bool [rows, side, side].

    Raises:
      ValueError: no pixel would be hidden, or all.
    """
    hidden = round(area * side**2)
    if not 0 < hidden < side**2:
        raise ValueError(
            f"An area of {area} hides {hidden} of the {side**2} pixels of an image of {side} px; "
            "expected some of them, e.g. 0.25."
        )
    coarse = max(2, round(COARSE * side))
    noise = jax.random.uniform(key, (rows, coarse, coarse), jnp.float32)
    smooth = jax.image.resize(noise, (rows, side, side), "cubic").reshape(rows, -1)
    level = jnp.sort(smooth, axis=1)[:, hidden]
    return (smooth < level[:, None]).reshape(rows, side, side)
