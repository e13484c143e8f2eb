"""Colorization: which colours do the pixels of a grey image have?

The colours a and b of Lab are divided into squares, the bins. Which of them are in use, and how
often, is counted in images of the data set.

Shape key: B examples, S side of an image, T side of its sampled colours, K bins, N nearest bins.

Reference: Zhang et al. 2016; richzhang/colorization.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax.core import Batch
from byol_jax.views.lab import denormalised, to_lab, to_rgb
from byol_jax.views.tasks import Task

BIN = 10
"""Side of a bin, in a and b."""
COLOURLESS = 5
"""An image of which no colour is farther than this from grey, in a or b, is not asked for."""
_REACH = 110  # of the grid of bins


@functools.cache
def bins() -> np.ndarray:
    """Centres of all bins in which sRGB has a colour, float32 [K, 2], by a and then b; K = 261.

    A function of nothing, so that arrays of K numbers fit any data set.
    """
    level = np.linspace(0, 1, 256)
    face = np.stack(np.meshgrid(level, level, indexing="ij"), -1).reshape(-1, 2)
    faces = [np.insert(face, axis, end, 1) for axis in range(3) for end in (0.0, 1.0)]
    coarse = np.stack(np.meshgrid(*[level[::5]] * 3), -1).reshape(-1, 3)  # and what is inside
    ab = to_lab(np.concatenate([*faces, coarse]))[:, 1:]
    return np.unique(BIN * np.floor(ab / BIN + 0.5), axis=0).astype(np.float32)


def colorization(
    sample: int = 4, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Task:
    """The task.

    Args:
      sample: px; every so many pixels along both sides the colour is asked for.
      mean, std: that the views are normalised with.

    Returns:
      (batch, key) -> batch with "views" [B, 1, S, S, 3] as they are, for an encoder that sees their
      lightness alone (models/lightness.py), and "target" [B, T, T, 2], a and b.

    Raises:
      ValueError: when called, if the images are grey, or S is no multiple of `sample`.
    """

    def task(batch: Batch, key: Array) -> Batch:
        del key
        images = batch["views"][:, 0]
        side, channels = images.shape[-2:]
        if channels != 3:
            raise ValueError(
                f"Images of {channels} channel(s) have no colours to predict; method.name "
                "colorization needs images of 3 channels: choose another method for grey data."
            )
        if side % sample:
            raise ValueError(
                f"colorization.sample is {sample} px; expected a divisor of image_size, {side} px."
            )
        dots = images[:, ::sample, ::sample]
        return {**batch, "target": to_lab(denormalised(dots, mean, std))[..., 1:]}

    return task


def colourful(ab: Array) -> Array:
    """Which images [B, T, T, 2] have a colour, bool [B]."""
    return abs(ab).max((1, 2, 3)) > COLOURLESS


def soft_bins(ab: Array, used_K: Array, neighbours: int, sigma: float) -> tuple[Array, Array]:
    """Colours as weights of the nearest bins in use, by a Gaussian of their distance.

    Args:
      ab: [..., 2].
      used_K: bool.
      neighbours: N; sigma: of the Gaussian, in a and b.

    Returns:
      (numbers of the bins int32 [..., N], the nearest first; weights [..., N], of sum 1).
    """
    lead = (1,) * (ab.ndim - 1)
    a_K, b_K = (jnp.asarray(x, ab.dtype).reshape(*lead, -1) for x in bins().T)
    far = jnp.square(ab[..., :1] - a_K) + jnp.square(ab[..., 1:] - b_K)
    near, index = jax.lax.top_k(-jnp.where(used_K.reshape(*lead, -1), far, jnp.inf), neighbours)
    return index, jax.nn.softmax(near / (2 * sigma**2))


def rebalancing(prior_K: Array, rebalance: float) -> Array:
    """Weights [K] of bins by how rare they are, ((1 - l) p + l / Q)^-1, with mean 1 under p.

    Args:
      prior_K: p, the share of each bin; 0: not in use. Q are in use.
      rebalance: l, 0 to 1; 1: all bins weigh the same.
    """
    used = prior_K > 0
    mixed = (1 - rebalance) * prior_K + rebalance / jnp.maximum(used.sum(), 1)
    weight = jnp.where(used, 1 / jnp.where(used, mixed, 1), 0)
    return weight / (prior_K * weight).sum()


def annealed_mean(logits: Array, temperature: float) -> Array:
    """Colours [..., 2] of logits [..., K]: the mean of the bins by a sharpened distribution."""
    share = jax.nn.softmax(logits / temperature)
    return jnp.stack([(share * jnp.asarray(x, share.dtype)).sum(-1) for x in _planes(share)], -1)


def _planes(share: Array) -> np.ndarray:
    return bins().T.reshape(2, *(1,) * (share.ndim - 1), -1)


def coloured(lightness: Array, ab: Array) -> Array:
    """RGB images [B, S, S, 3] in 0..1 of L [B, S, S] and colours [B, T, T, 2], resized to S."""
    b, side = lightness.shape[:2]
    wide = jax.image.resize(ab, (b, side, side, 2), "bilinear").astype(lightness.dtype)
    return to_rgb(jnp.concatenate([lightness[..., None], wide], -1))


def counted_colours(targets: Iterable[np.ndarray], neighbours: int, sigma: float) -> np.ndarray:
    """How often each bin is the colour of a pixel, in images that have colours.

    A bin is in use if a pixel lies in it. The shares are the mean of the pixels' soft weights, so
    that they are the best answer that knows nothing of the image. Pixels are counted in squares of
    one unit first, which stand for them.

    Args:
      targets: arrays [B, T, T, 2] of a and b.
      neighbours, sigma: as in `soft_bins`.

    Returns:
      float64 [K], of sum 1; 0: not in use.

    Raises:
      ValueError: no image has a colour.
    """
    side = 2 * (_REACH + BIN)
    counts = np.zeros((side, side))
    for ab in targets:
        kept = ab[np.abs(ab).max((1, 2, 3)) > COLOURLESS].reshape(-1, 2)
        cell = np.clip(np.floor(kept).astype(np.int64) + side // 2, 0, side - 1)
        counts += np.bincount(cell[:, 0] * side + cell[:, 1], minlength=side**2).reshape(side, side)
    cells = np.argwhere(counts)
    if not len(cells):
        raise ValueError(
            "The images have no colours to predict: of those looked at, all are grey; choose "
            "another method.name for them."
        )
    share = counts[tuple(cells.T)] / counts.sum()
    squared = np.square(cells[:, None] + 0.5 - side // 2 - bins()[None].astype(np.float64)).sum(-1)
    used = np.isin(np.arange(len(bins())), squared.argmin(1))
    nearest = np.argsort(np.where(used[None], squared, np.inf), 1, "stable")[:, :neighbours]
    weight = np.exp(-np.take_along_axis(squared, nearest, 1) / (2 * sigma**2))
    weight = weight * used[nearest] / (weight * used[nearest]).sum(1, keepdims=True)
    found = np.zeros(len(used))
    np.add.at(found, nearest, share[:, None] * weight)
    return found
