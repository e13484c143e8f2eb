"""Linear support vector machines on frozen features with few labels per class.

Shape key: N training examples, M test examples, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from byol_jax import pulse
from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.fewshot import draw_labels, rare_classes, unit

SVM, LOGISTIC = "SVM", "logistic regression"
POSITIVES = 2.0  # weight of a class's own examples beside all others


def lowshot(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96),
    draws: int = 5,
    cs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0),
    logistic_c: float = 100.0,
    validation: float = 0.1,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Test accuracy of scikit-learn's linear SVM and logistic regression, l2-normalised features.

    One SVM per class against all others, squared hinge loss, the class's own examples at double
    weight; the class with the largest score is the answer. C is chosen for each number of shots, by
    the mean accuracy of all draws on a validation part of which nothing is drawn, never on test
    images.

    Args:
      train_h, train_y: features [N, D] and labels [N]; rows labelled -1 are left out.
      test_h, test_y: features [M, D] and labels [M].
      shots: labels per class. Classes with fewer are left out of that column, of training and
        test alike; with fewer than two classes left there is no such column.
      draws: random draws of the labelled images; draw i has seed i.
      cs: inverse strengths of the SVM's regularisation, swept.
      logistic_c: that of the logistic regression.
      validation: share of the labelled training rows, above 0 and below 1.
      seed: for choosing them.

    Returns:
      {"SVM": {"1": percent, "1_std": its standard deviation over the draws, "1_c": the chosen C,
      ...}, "logistic regression": {"1": ..., "1_std": ...}}.

    Raises:
      NothingToJudge: no column can be judged.

    Reference: Goyal et al. 2019.
    """
    from sklearn.linear_model import LogisticRegression  # 1.5 s that no other command needs
    from sklearn.svm import LinearSVC

    def svm(c: float, labels: np.ndarray) -> Any:
        # liblinear gives a class's weight to its own examples alone, and 1 to the others.
        weights = dict.fromkeys(np.unique(labels).tolist(), POSITIVES)
        return LinearSVC(C=c, class_weight=weights, dual=False)

    def logistic(c: float, labels: np.ndarray) -> Any:
        del labels
        return LogisticRegression(C=c, max_iter=5000)

    train, test = unit(train_h), unit(test_h)
    known = np.flatnonzero(train_y >= 0)
    held = np.random.RandomState(seed).permutation(known)[: round(validation * len(known))]
    pool_y = train_y.copy()
    pool_y[held] = -1
    result: dict[str, dict[str, float]] = {SVM: {}, LOGISTIC: {}}
    for n in shots:
        rare = [*rare_classes(pool_y, n), *(set(train_y[held]) - set(pool_y))]
        judged, asked = (
            rows[~np.isin(y[rows], rare)]
            for rows, y in ((np.flatnonzero(test_y >= 0), test_y), (held, train_y))
        )
        picked = [draw_labels(pool_y, n, draw) for draw in range(draws)]
        if len(np.unique(pool_y[picked[0]])) < 2 or not len(judged) or not len(asked):
            continue

        def fitted(make: Callable[[float, np.ndarray], Any], c: float, of: Any = picked) -> Any:
            pulse.beat()
            return [make(c, train_y[rows]).fit(train[rows], train_y[rows]) for rows in of]

        models = {c: fitted(svm, c) for c in cs}
        accuracy = [np.mean([m.score(train[asked], train_y[asked]) for m in models[c]]) for c in cs]
        best = cs[int(np.argmax(accuracy))]
        result[SVM][f"{n}_c"] = best
        for name, made in ((SVM, models[best]), (LOGISTIC, fitted(logistic, logistic_c))):
            scores = [100 * m.score(test[judged], test_y[judged]) for m in made]
            result[name] |= {str(n): float(np.mean(scores)), f"{n}_std": float(np.std(scores))}
    if not result[SVM]:
        raise NothingToJudge(
            f"No column can be judged: {len(known)} training and {(test_y >= 0).sum()} test images "
            f"have a label that is known and can be read, and {shots[0]} or more per class of two "
            "classes are needed beside those held out (eval.lowshot_shots, eval.validation)."
        )
    return result
