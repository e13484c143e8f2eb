"""Low-shot support vector machines against one binary scikit-learn SVM per class."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.fewshot import draw_labels
from byol_jax.evals.lowshot import LOGISTIC, SVM, lowshot


def clouds(n, seed, classes=3):
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes, n)
    centres = np.random.RandomState(99).randn(classes, 4)
    return (centres[labels] + 1.3 * random.randn(n, 4)).astype(np.float32), labels


def unit(h):
    return h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True)


def one_per_class(h, y, c, asked):
    """The answers of binary SVMs, each class's own examples at weight 2."""
    scores = []
    for k in np.unique(y):
        model = LinearSVC(C=c, class_weight={1: 2, -1: 1}, dual=False)
        model.fit(unit(h), np.where(y == k, 1, -1))
        scores.append(model.decision_function(unit(asked)))
    return np.unique(y)[np.argmax(scores, 0)]


def test_scores_equal_binary_machines_whose_c_was_chosen_on_a_validation_part():
    """Fails if C is chosen on the test images, what is held out is drawn, the weight of a class is
    that of all others too, or unlabelled rows count.
    """
    (train, train_y), (test, test_y) = clouds(120, 0), clouds(80, 1)
    train_y[:10], test_y[:5] = -1, -1
    cs = (0.01, 1.0, 100.0)
    options = {"shots": (2, 8), "draws": 3, "cs": cs, "logistic_c": 10.0, "validation": 0.3}
    found = lowshot(train, train_y, test, test_y, **options, seed=4)
    held = np.random.RandomState(4).permutation(np.arange(10, 120))[:33]
    pool = train_y.copy()
    pool[held] = -1
    assert set(found) == {SVM, LOGISTIC}
    for n in (2, 8):
        draws = [draw_labels(pool, n, i) for i in range(3)]
        assert not set(np.concatenate(draws)) & set(held)

        def accuracy(c, h, y, draws=draws):
            answers = [one_per_class(train[d], train_y[d], c, h) for d in draws]
            return [100 * np.mean(a == y) for a in answers]

        best = max(cs, key=lambda c: np.mean(accuracy(c, train[held], train_y[held])))
        scores = accuracy(best, test[5:], test_y[5:])
        assert found[SVM][f"{n}_c"] == best
        assert found[SVM][str(n)] == pytest.approx(np.mean(scores))
        assert found[SVM][f"{n}_std"] == pytest.approx(np.std(scores))
        scores = [
            100
            * LogisticRegression(C=10.0, max_iter=5000)
            .fit(unit(train[d]), train_y[d])
            .score(unit(test[5:]), test_y[5:])
            for d in draws
        ]
        assert found[LOGISTIC][str(n)] == pytest.approx(np.mean(scores))


def test_columns_that_cannot_be_judged_are_left_out():
    """Fails if more shots than there are images are drawn short, or nothing is an empty table."""
    (train, train_y), test = clouds(40, 0), clouds(30, 1)
    few = {"draws": 1, "cs": (1.0,)}
    assert set(lowshot(train, train_y, *test, shots=(2, 100), **few)[SVM]) == {"2", "2_std", "2_c"}
    with pytest.raises(NothingToJudge, match="100 or more per class"):
        lowshot(train, train_y, *test, shots=(100,), **few)
