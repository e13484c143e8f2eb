"""Retrieval: every test image asks for the others of its class.

Shape key: M images, Q of them that ask at once, D features.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax import pulse
from byol_jax.evals.features import NothingToJudge
from byol_jax.losses import normalize

CHUNK = 256  # images that ask at once: 256 x 50,000 cosines are 51 MB, and are sorted
RECALLS = (1, 5, 10)


@functools.partial(jax.jit, static_argnums=3)
def _ranked(all_MD: Array, labels_M: Array, asking_Q: Array, shown: int) -> dict[str, Array]:
    m = len(all_MD)
    cosines = jnp.matmul(all_MD[asking_Q], all_MD.T, precision="highest")
    # Broken features come last, and after them the image itself, which is left out.
    cosines = jnp.where(jnp.isnan(cosines), -2.0, cosines)
    cosines = cosines.at[jnp.arange(len(asking_Q)), asking_Q].set(-3.0)
    order = jnp.argsort(-cosines, axis=1)[:, :-1]
    right = labels_M[order] == labels_M[asking_Q][:, None]
    precision = jnp.cumsum(right, 1) / jnp.arange(1, m)[None]
    found = {f"recall_{k}": right[:, :k].any(1).astype(jnp.float32) for k in RECALLS}
    found["map"] = (precision * right).sum(1) / jnp.maximum(right.sum(1), 1)
    return found | {"nearest": order[:, :shown]}


def retrieval(h: np.ndarray, y: np.ndarray, shown: int = 8) -> tuple[dict[str, float], np.ndarray]:
    """Recall and mean average precision of ranking images by the cosine of their features.

    Args:
      h, y: features [M, D] and labels [M]; rows labelled -1 neither ask nor are found.
      shown: how many nearest images to return.

    Returns:
      ({"recall_1", "recall_5", "recall_10", "map"}, nearest). In percent, the mean over all images
      that share their class with another one. recall_k: whether one of the k nearest is of the same
      class. map: mean of the precisions at the rank of each image of the class, over the whole
      ranking. nearest: [M, shown], indices of the nearest labelled images, the nearest first; -1
      where there are no more, and in rows without a label.

    Raises:
      NothingToJudge: no two rows have the same label.
    """
    known = np.flatnonzero(y >= 0)
    labels = y[known]
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    asks = counts[of] > 1 if len(known) else np.zeros(0, bool)
    if not asks.any():
        raise NothingToJudge(
            "No two test images that can be read have the same label: there is nothing to retrieve."
        )
    unit = normalize(jnp.asarray(h[known], jnp.float32))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(known), CHUNK):
        pulse.beat()
        # The last chunk starts earlier, for one shape; what it repeats is cut off again.
        first = max(0, min(start, len(known) - CHUNK))
        asking = jnp.arange(first, min(first + CHUNK, len(known)))
        found = _ranked(unit, jnp.asarray(labels), asking, shown)
        parts.append({k: np.asarray(v)[start - first :] for k, v in found.items()})
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    nearest = np.full((len(y), shown), -1)
    order = joined.pop("nearest")
    nearest[known, : order.shape[1]] = known[order]
    names = [*(f"recall_{k}" for k in RECALLS), "map"]  # jit sorts them
    return {k: 100 * float(joined[k][asks].mean()) for k in names}, nearest
