"""Logistic regression on frozen features with few labels per class, and with all.

Shape key: N training examples, M test examples, D features.
"""

from __future__ import annotations

import numpy as np

from byol_jax.data.source import counted
from byol_jax.evals.features import NothingToJudge
from byol_jax.log import say


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def rare_classes(labels: np.ndarray, shots: int) -> list[int]:
    """The classes with fewer than `shots` examples, but at least one."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    return [int(c) for c in classes[counts < shots]]


def draw_labels(labels: np.ndarray, shots: int, draw: int) -> np.ndarray:
    """Indices of `shots` examples per class, a function of (labels, shots, draw) alone.

    Classes that have fewer are left out.
    """
    random = np.random.RandomState(draw)
    rare = rare_classes(labels, shots)
    picked = [np.zeros(0, np.int64)]
    for c in np.unique(labels[labels >= 0]):
        if c not in rare:
            picked.append(random.permutation(np.flatnonzero(labels == c))[:shots])
    return np.concatenate(picked)


def fewshot(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    shots: tuple[int, ...] = (1, 5, 10),
    draws: int = 10,
    c: float = 100.0,
) -> dict[str, float]:
    """Test accuracy of scikit-learn's logistic regression on l2-normalised features.

    Args:
      train_h, train_y: features [N, D] and labels [N]; rows labelled -1 are left out.
      test_h, test_y: features [M, D] and labels [M].
      shots: labels per class. Classes with fewer are left out of that column, of training and
        test alike; with fewer than two classes left there is no such column.
      draws: random draws of the labelled images, averaged; draw i has seed i.
      c: inverse strength of the regularisation.

    Returns:
      {"1": percent, "5": percent, ..., "all": percent}, and "1_std" and so on over the draws.

    Raises:
      NothingToJudge: no test row is labelled, or the training rows are of fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression  # 1.5 s that no other command needs

    train, test = unit(train_h), unit(test_h)
    classes = np.unique(train_y[train_y >= 0])
    if len(classes) < 2:
        raise NothingToJudge(
            "The training images that can be read have labels of "
            f"{counted(len(classes), 'class', 'classes')}; few-shot needs two or more."
        )
    if not (test_y >= 0).any():
        raise NothingToJudge("No test image has a label that is known and can be read.")

    def score(rows: np.ndarray, judged: np.ndarray) -> float:
        model = LogisticRegression(C=c, max_iter=5000).fit(train[rows], train_y[rows])
        return 100 * float(model.score(test[judged], test_y[judged]))

    result: dict[str, float] = {}
    for n in shots:
        rare = rare_classes(train_y, n)
        judged = (test_y >= 0) & ~np.isin(test_y, rare)
        if len(classes) - len(rare) < 2 or not judged.any():
            continue
        scores = [score(draw_labels(train_y, n, draw), judged) for draw in range(draws)]
        result[str(n)], result[f"{n}_std"] = float(np.mean(scores)), float(np.std(scores))
    labelled = np.flatnonzero(train_y >= 0)
    say(f"few-shot: {counted(len(labelled), 'label')} ...")
    result["all"] = score(labelled, test_y >= 0)
    return result
