"""Exemplars: which patch of which image is this a distorted copy of?

One patch of each image, its seed, is a class of its own; where it lies is drawn once, where the
image has edges. What the network sees is a copy of it, moved, scaled, turned and recoloured.

Shape key: B examples, S side of an image, P side of a patch, U draws.

Reference: Dosovitskiy et al. 2014, section 2.1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.lab import denormalised, normalised
from byol_jax.views.tasks import Quiz
from byol_jax.views.tasks.tiles import mosaic

# NOTE: the paper's directions of contrast are the principal components of all pixels of the data.
# On CIFAR-10 these three, light, blue against red, and green, have cosines above 0.998 with them.
_DIRECTIONS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_FACTOR, _OFFSET = (0.7, 1.4), 0.1  # of saturation and value, after the power
_DRAWS = 16


def exemplar(
    seeds: int,
    examples: int,
    *,
    patch: int = 32,
    shift: float = 0.2,
    scale: tuple[float, float] = (0.7, 1.4),
    rotate: float = 20.0,
    contrast: float = 2.0,
    power: float = 4.0,
    hue: float = 0.1,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Quiz:
    """The task.

    Args:
      seeds: the classes: images whose "index" is below it.
      examples: images of the data set.
      patch: P, px.
      shift: along each axis, at most, a share of P.
      scale: of the window, lowest and highest factor.
      rotate: degrees, to either side, at most.
      contrast: colours are spread along three directions, each by a factor from 1 / contrast.
      power: saturation and value are raised to a power from 1 / power; then by _FACTOR, _OFFSET.
      hue: in turns, to either side, at most.
      mean, std: that the views are normalised with.

    Returns:
      The quiz: one question, "target" [B, 1] the index, about one view of P px. Rows of images that
      have no seed show copies of the others of the batch, with all that belongs to them. The
      views must be whole images, always the same: a random crop would move the seed.

    Raises:
      ValueError: there are no such seeds; when called, if the images are grey or too small.
    """
    if not 2 <= seeds <= examples:
        raise ValueError(
            f"exemplar.seeds is {seeds}; expected 2 to the {examples} images of the data."
        )

    def task(batch: Batch, key: Array) -> Batch:
        images = batch["views"][:, 0]
        _check(images, patch)
        index = batch.get("index", jnp.arange(len(images), dtype=jnp.int32))
        found: Batch = {**batch, "index": index}
        if seeds < examples and "mask" in batch:
            found = _filled(found, (index < seeds) & (batch["mask"] > 0))
        rgb = denormalised(found["views"][:, 0], mean, std)
        u_BU = jax.random.uniform(key, (len(images), _DRAWS), jnp.float32).astype(rgb.dtype)
        corner_B2 = seed_corners(rgb, found["index"], patch)
        copies = copied(rgb, corner_B2, u_BU, patch, shift, scale, rotate)
        copies = recoloured(copies, u_BU[:, 4:], contrast, power, hue, mean or (0.5,) * 3)
        views = normalised(copies, mean, std)[:, None]
        return {**found, "views": views, "target": found["index"][:, None]}

    def shown(views_B1PPC: Array, target_B1: Array, answer_B1: Array) -> dict[str, Array]:
        del target_B1, answer_B1
        return {"asked": mosaic(views_B1PPC)}

    return Quiz(task, ((0,),), seeds, shown)


def _check(images: Array, patch: int) -> None:
    side, channels = images.shape[-2:]
    if channels != 3:
        raise ValueError(
            f"Images of {channels} channel(s) have no colours to change; method.name exemplar "
            "needs images of 3 channels: choose another method for grey data."
        )
    if patch > side:
        raise ValueError(f"exemplar.patch is {patch} px; expected at most image_size, {side} px.")


def _filled(batch: Batch, has_seed_B: Array) -> Batch:
    """The batch with the rows that have a seed repeated in place of the others."""
    first_B = jnp.argsort(~has_seed_B, stable=True)
    row_B = first_B[jnp.arange(len(first_B)) % jnp.maximum(has_seed_B.sum(), 1)]
    found = {k: v[row_B] for k, v in batch.items()}
    return {**found, "mask": has_seed_B[row_B].astype(batch["mask"].dtype)}


def seed_corners(rgb: Array, index_B: Array, patch: int) -> Array:
    """Top and left of the seed of each image [B, S, S, 3], drawn in proportion to the mean squared
    gradient of the patch by numbers that depend on the index alone; int32 [B, 2].
    """
    grey = rgb.mean(-1)
    down, across = jnp.gradient(grey, axis=(1, 2))
    squared = jnp.square(down) + jnp.square(across)
    total = jnp.pad(squared, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    inside = total[:, patch:] - total[:, :-patch]
    strength = inside[:, :, patch:] - inside[:, :, :-patch]
    b, side, _ = strength.shape
    chance = jnp.log(jnp.maximum(strength.reshape(b, -1), 1e-12))

    def noise(index: Array) -> Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(0), index), (side**2,))

    place = (chance + jax.vmap(noise)(index_B)).argmax(1).astype(jnp.int32)
    return jnp.stack([place // side, place % side], -1)


def copied(
    rgb: Array,
    corner_B2: Array,
    u_BU: Array,
    patch: int,
    shift: float,
    scale: tuple[float, float],
    rotate: float,
) -> Array:
    """Copies [B, P, P, 3] of the seeds, moved, scaled and turned, by one bilinear resampling."""
    u = [u_BU[:, i, None, None] for i in range(4)]
    size = scale[0] + (scale[1] - scale[0]) * u[2]
    turn = math.radians(rotate) * (2 * u[3] - 1)
    place = jnp.arange(patch, dtype=rgb.dtype) - (patch - 1) / 2
    y, x = size * place[None, :, None], size * place[None, None]
    centre = [
        corner_B2[:, i, None, None] + (patch - 1) / 2 + shift * patch * (2 * u[i] - 1)
        for i in (0, 1)
    ]
    rows = centre[0] + jnp.cos(turn) * y + jnp.sin(turn) * x
    columns = centre[1] - jnp.sin(turn) * y + jnp.cos(turn) * x

    def sample(plane_SS: Array, row_PP: Array, column_PP: Array) -> Array:
        at = [row_PP, column_PP]
        return jax.scipy.ndimage.map_coordinates(plane_SS, at, order=1, mode="nearest")

    return jax.vmap(jax.vmap(sample, (-1, None, None), -1))(rgb, rows, columns)


def recoloured(
    rgb: Array, u_BU: Array, contrast: float, power: float, hue: float, mean: tuple[float, ...]
) -> Array:
    """Images [B, P, P, 3] in 0..1 with other contrast, saturation, value and hue."""
    u = [u_BU[:, i, None, None] for i in range(10)]
    offset = rgb - jnp.asarray(mean, rgb.dtype)[None, None, None]
    for i, direction in enumerate(jnp.asarray(_DIRECTIONS, rgb.dtype)):
        along = (offset * direction[None, None, None]).sum(-1)
        more = contrast ** (2 * u[i] - 1) - 1
        rgb = rgb + (more * along)[..., None] * direction[None, None, None]
    planes = jnp.clip(rgb, 0, 1)
    red, green, blue = (planes[..., c] for c in range(3))
    value = planes.max(-1)
    chroma = value - planes.min(-1)
    # Of the channels with each other: computed twice, none need equal the largest.
    is_red, is_green = (red >= green) & (red >= blue), green >= blue
    ahead = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    start = jnp.where(is_red, 0, jnp.where(is_green, 2, 4))
    sixths = ahead / jnp.maximum(chroma, 1e-12) + start + 6 * hue * (2 * u[3] - 1)
    saturation = chroma / jnp.maximum(value, 1e-12)

    def changed(x: Array, i: int) -> Array:
        factor = _FACTOR[0] + (_FACTOR[1] - _FACTOR[0]) * u[i + 1]
        exponent = power ** (2 * u[i] - 1)
        return jnp.clip(factor * x**exponent + _OFFSET * (2 * u[i + 2] - 1), 0, 1)

    saturation, value = changed(saturation, 4), changed(value, 7)
    shares = [(n + sixths) % 6 for n in (5, 3, 1)]
    falls = [jnp.clip(jnp.minimum(k, 4 - k), 0, 1) for k in shares]
    return jnp.stack([value - value * saturation * f for f in falls], -1)
