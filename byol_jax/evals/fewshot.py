"""Logistic regression on frozen features with few labels per class, and with all.

Shape key: N training examples, M test examples, D features.
"""

from __future__ import annotations

import numpy as np

from byol_jax.log import say


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def draw_labels(labels: np.ndarray, shots: int, draw: int) -> np.ndarray:
    """Indices of `shots` examples per class, a function of (labels, shots, draw) alone.

    Raises:
      ValueError: a class has fewer examples.
    """
    random = np.random.RandomState(draw)
    picked = []
    for c in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == c)
        if len(members) < shots:
            raise ValueError(
                f"Class {c} has {len(members)} training images, fewer than the {shots} labels "
                "requested; use smaller eval.shots."
            )
        picked.append(random.permutation(members)[:shots])
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
      shots: labels per class.
      draws: random draws of the labelled images, averaged; draw i has seed i.
      c: inverse strength of the regularisation.

    Returns:
      {"1": percent, "5": percent, ..., "all": percent}, and "1_std" and so on over the draws.
    """
    from sklearn.linear_model import LogisticRegression  # 1.5 s that no other command needs

    train, test = _unit(train_h), _unit(test_h)
    known = test_y >= 0

    def score(rows: np.ndarray) -> float:
        model = LogisticRegression(C=c, max_iter=5000).fit(train[rows], train_y[rows])
        return 100 * float(model.score(test[known], test_y[known]))

    result: dict[str, float] = {}
    for n in shots:
        scores = [score(draw_labels(train_y, n, draw)) for draw in range(draws)]
        result[str(n)], result[f"{n}_std"] = float(np.mean(scores)), float(np.std(scores))
    say(f"few-shot: {len(train)} labels ...")
    result["all"] = score(np.flatnonzero(train_y >= 0))
    return result
