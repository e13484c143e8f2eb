"""Run an encoder over a data set once.

Shape key: N examples, H W C image, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from byol_jax.core import Tree
from byol_jax.mesh import fetched, put_batch

Outputs = Callable[[Tree, Any], Mapping[str, jax.Array]]


class Extracted(NamedTuple):
    """Extracted features: outputs by name, each [N, ...] float32, and labels [N] int32.

    damaged: the indices of examples that could not be read and are left out, int32. rows: the
    indices of those that were read, int32 [N].
    """

    outputs: dict[str, np.ndarray]
    labels: np.ndarray
    damaged: np.ndarray
    rows: np.ndarray = np.zeros(0, np.int32)

    @property
    def judged(self) -> int:
        """How many were read and have a label."""
        return int((self.labels >= 0).sum())


class NothingToJudge(ValueError):
    """No image is left whose label is known, so that there is no accuracy to report."""


def extract(
    outputs: Outputs,
    weights: Tree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    poll: Callable[[], None] = lambda: None,
) -> Extracted:
    """Apply a function to every image in one pass over the data, in order.

    Args:
      outputs: jitted (weights, images [B, 1, H, W, C]) -> {name: [B, 1, ...]}.
      weights: any pytree, passed through.
      batches: this process's rows, with views, label, index and mask; rows of mask 0 are left out.
      mesh: the batches are sharded over its devices.
      poll: called before every batch.

    Returns:
      The result for all rows, the same on every process. With several processes the order is that
      of the mesh's devices; the outputs and label of a row stay together.
    """
    found: dict[str, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    damaged: list[np.ndarray] = []
    index: list[np.ndarray] = []
    for batch in batches:
        poll()
        placed = put_batch({k: np.asarray(v) for k, v in batch.items()}, mesh)
        out = outputs(weights, placed.pop("views"))
        rows = fetched({**placed, **out}, mesh)
        mask = rows["mask"] > 0
        for name in out:
            found.setdefault(name, []).append(rows[name].astype(np.float32)[mask, 0])
        labels.append(rows["label"][mask])
        index.append(rows["index"][mask])
        # Padding has index -1; any other masked row is an image that could not be read.
        damaged.append(rows["index"][~mask & (rows["index"] >= 0)])
    if not labels:
        raise ValueError("There are no images to extract features from.")
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    rest = (np.concatenate(parts) for parts in (labels, damaged, index))
    return Extracted(joined, *rest)


def topk_accuracy(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent; rows labelled -1 do not count.

    Raises:
      NothingToJudge: no row is labelled.
    """
    known = labels_N >= 0
    if not known.any():
        raise NothingToJudge("No image to be judged has a label that is known and can be read.")
    scores, labels = scores_NK[known], labels_N[known]
    # How many classes score no lower than the right one. Ties and NaN count as errors, so that a
    # constant or broken output is not perfect.
    right = np.take_along_axis(scores, labels[:, None], 1)
    rank = (~(scores < right)).sum(1) - 1
    accuracy = {"top1": 100 * float((rank < 1).mean())}
    if scores.shape[1] > 5:
        accuracy["top5"] = 100 * float((rank < 5).mean())
    return accuracy


def accuracies(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """`topk_accuracy`, and "per_class": the mean of top-1 over the classes that there are.

    Raises:
      NothingToJudge: no row is labelled.
    """
    found = topk_accuracy(scores_NK, labels_N)
    parts = [labels_N == c for c in np.unique(labels_N[labels_N >= 0])]
    each = [topk_accuracy(scores_NK[part], labels_N[part])["top1"] for part in parts]
    return found | {"per_class": float(np.mean(each))}


def pixels(batches: Iterable[Mapping[str, np.ndarray]]) -> Extracted:
    """The images themselves as features, flattened: a baseline for every encoder."""
    rows, labels, damaged, good = [], [], [], []
    for batch in batches:
        index, mask = np.asarray(batch["index"]), np.asarray(batch["mask"]) > 0
        rows.append(np.asarray(batch["views"])[mask].reshape(mask.sum(), -1))
        labels.append(np.asarray(batch["label"])[mask])
        damaged.append(index[~mask & (index >= 0)])
        good.append(index[mask])
    rest = (np.concatenate(parts) for parts in (labels, damaged, good))
    return Extracted({"h": np.concatenate(rows)}, *rest)
