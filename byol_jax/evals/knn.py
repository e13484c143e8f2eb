"""Weighted nearest neighbours on frozen features.

Shape key: N training examples, M test examples, D features, K classes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from byol_jax import pulse
from byol_jax.evals.features import NothingToJudge, topk_accuracy
from byol_jax.losses import normalize

CHUNK = 512  # test rows compared at once: 512 x 1.28 million cosines are 2.6 GB


def neighbours(k: int, train_examples: int) -> int:
    """The number of neighbours for a training set: `k`, at most 2% of it (20 of a small one).

    With a tenth of ten balanced classes, nearly a whole class would have to vote. Never more than a
    tenth, and at least 1.
    """
    return max(1, min(k, max(train_examples // 50, 20), train_examples // 10))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _votes(
    test_MD: Array, train_ND: Array, train_N: Array, k: int, classes: int, t: Array
) -> Array:
    similarity, nearest = jax.lax.top_k(test_MD @ train_ND.T, k)
    # Relative to the nearest: exp(1 / t) overflows below t = 0.012. NOTE: with similarity[:, :1],
    # which is the same, XLA sorts whole rows on a CPU: 5.3 s per chunk of 50,000 in place of 0.2.
    weight = jnp.exp((similarity - similarity.max(1, keepdims=True)) / t)
    one_hot = jax.nn.one_hot(train_N[nearest], classes)
    return jnp.einsum("mk,mkc->mc", weight, one_hot)


def votes(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    *,
    classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """The weighted votes [M, K] of the k nearest training features for each class; see `knn`.

    Raises:
      NothingToJudge: no training row is labelled.
    """
    known = train_y >= 0
    if not known.any():
        raise NothingToJudge("No training image has a label that is known and can be read.")
    train = normalize(jnp.asarray(train_h[known], jnp.float32))
    k = neighbours(k, len(train))
    labels = jnp.asarray(train_y[known])
    scores = []
    for start in range(0, len(test_h), CHUNK):
        pulse.beat()
        part = np.asarray(test_h[start : start + CHUNK], np.float32)
        short = CHUNK - len(part)
        padded = normalize(jnp.asarray(np.pad(part, ((0, short), (0, 0)))))
        found = _votes(padded, train, labels, k, classes, jnp.float32(temperature))
        scores.append(np.asarray(found)[: len(part)])
    return np.concatenate(scores)


def knn(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    classes: int,
    k: int = 200,
    temperature: float = 0.07,
) -> dict[str, float]:
    """Classify by the k nearest training features, each vote weighted by exp(cosine / t).

    Args:
      train_h, train_y: features [N, D] and labels [N]; rows labelled -1 are left out.
      test_h, test_y: features [M, D] and labels [M].
      classes: number of classes K.
      k: neighbours; see `neighbours` for small sets.
      temperature: t, above 0.

    Returns:
      {"top1", "top5", "k"}, accuracies in percent.

    Raises:
      NothingToJudge: no training or no test row is labelled.

    Reference: Wu et al. 2018; Caron et al. 2021 (facebookresearch/dino:eval_knn.py).
    """
    scores = votes(train_h, train_y, test_h, classes=classes, k=k, temperature=temperature)
    return topk_accuracy(scores, test_y) | {"k": neighbours(k, int((train_y >= 0).sum()))}
