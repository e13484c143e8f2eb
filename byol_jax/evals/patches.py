"""What the positions of a map know: their principal components, and the patches that are alike.

Shape key: N images, P positions of a map, M = N P, Q positions that ask, D features.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax import pulse
from byol_jax.losses import normalize

AT_ONCE = 2**24  # cosines in memory: 64 MB
PERCENTILES = 2, 98  # of a component, which become 0 and 1 in a picture


class Seen(NamedTuple):
    """What there is to draw of an encoder's last map, [N, h, w, D].

    name: of the encoder. shown: [n], the images that are shown. components: [n, h, w, 3] in 0..1.
    attention: [n, A, h, w], from the class token; None where there is none. grid: (h, w). asking:
    [Q], positions from 0 to N h w - 1. nearest: [Q, k], one of each of the nearest other images.
    """

    name: str
    shown: np.ndarray
    components: np.ndarray
    attention: np.ndarray | None
    grid: tuple[int, int]
    asking: np.ndarray
    nearest: np.ndarray


def components(x_ND: np.ndarray, count: int = 3) -> tuple[np.ndarray, float]:
    """Project on the first principal components.

    Args:
      x_ND: features, finite.
      count: how many components.

    Returns:
      (scores [N, count] float64, the share of the variance that they hold, in percent). The largest
      score of a component is positive. Where there are fewer components, the rest is 0; features
      that are all alike have no variance, of which everything is held.
    """
    x = x_ND.astype(np.float64)
    x -= x.mean(0)
    wide = len(x) < x.shape[1]  # then the smaller matrix is that of the examples
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = np.maximum(values[::-1][:count], 0), vectors[:, ::-1][:, :count]
    scores = vectors * np.sqrt(values) if wide else x @ vectors
    total = np.square(x).sum()
    share = 100 * values.sum() / total if total > 0 else 100.0
    largest = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], 0)
    scores = scores * np.where(largest < 0, -1, 1)
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1]))), float(share)


def as_colours(scores_N3: np.ndarray) -> np.ndarray:
    """Components in 0..1, each from its 2nd to its 98th percentile; 0.5 where all are alike."""
    low, high = np.percentile(scores_N3, PERCENTILES, axis=0)
    wide = high > low
    scaled = (scores_N3 - low) / np.where(wide, high - low, 1)
    return np.where(wide, np.clip(scaled, 0, 1), 0.5)


@functools.partial(jax.jit, static_argnums=2)
def _nearest(x_NPD: Array, asking_Q: Array, count: int) -> Array:
    n, p, d = x_NPD.shape
    all_MD = x_NPD.reshape(n * p, d)
    cosines = jnp.matmul(all_MD[asking_Q], all_MD.T, precision="highest").reshape(-1, n, p)
    own = jnp.arange(n)[None] == (asking_Q // p)[:, None]
    images = jax.lax.top_k(jnp.where(own, -2.0, cosines.max(2)), count)[1]
    return images * p + jnp.take_along_axis(cosines.argmax(2), images, 1)


def nearest(x_NPD: np.ndarray, asking_Q: np.ndarray, count: int = 1) -> np.ndarray:
    """The nearest position of each of the other images, by the cosine of their features.

    Args:
      x_NPD: features, finite.
      asking_Q: positions that ask, 0 to M - 1, image by image.
      count: how many images to find; at most N - 1.

    Returns:
      [Q, count] int, positions from 0 to M - 1, one of an image, the nearest first.
    """
    unit = normalize(jnp.asarray(x_NPD, jnp.float32))
    size = min(max(1, AT_ONCE // (unit.shape[0] * unit.shape[1])), len(asking_Q))
    parts = []
    for start in range(0, len(asking_Q), size):
        pulse.beat()
        # The last part starts earlier, for one shape; what it repeats is cut off again.
        first = min(start, len(asking_Q) - size)
        asking = jnp.asarray(asking_Q[first : first + size], jnp.int32)
        parts.append(np.asarray(_nearest(unit, asking, count))[start - first :])
    return np.concatenate(parts)


def same_class(found_Q: np.ndarray, asking_Q: np.ndarray, labels_M: np.ndarray) -> float:
    """How many of the positions that were found are of an image of the asking one's class.

    Args:
      found_Q: the nearest to each position that asks.
      asking_Q: as for `nearest`.
      labels_M: of each position's image; -1 where unknown, and such pairs do not count.

    Returns:
      In percent; NaN if there is no pair.
    """
    ask, answer = labels_M[asking_Q], labels_M[found_Q]
    known = (ask >= 0) & (answer >= 0)
    return 100 * float((ask == answer)[known].mean()) if known.any() else float("nan")


def chance(labels_N: np.ndarray) -> float:
    """`same_class` if the nearest were any position of any other image, expected, in percent."""
    counts = np.bincount(labels_N[labels_N >= 0])
    total = counts.sum()
    return 100 * float((counts * (counts - 1)).sum() / (total * (total - 1)))
