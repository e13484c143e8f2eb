"""Few-shot logistic regression: the draws, and the scores against scikit-learn itself."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from byol_jax.evals.fewshot import draw_labels, fewshot


def clouds(n, seed, classes=3):
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes, n)
    centres = np.random.RandomState(99).randn(classes, 4)
    return (centres[labels] + random.randn(n, 4)).astype(np.float32), labels


LABELS = np.array([2, 0, 1, -1, 0, 0, 1, 2, 2, -1, 1, 0, 2, 1, 1])


@pytest.mark.parametrize("shots", [1, 3, 4])
def test_draws_are_stratified(shots):
    """Fails if classes are drawn in proportion, an example twice, or an unlabelled one."""
    rows = draw_labels(LABELS, shots, 0)
    np.testing.assert_array_equal(np.bincount(LABELS[rows], minlength=3), [shots] * 3)
    assert len(set(rows.tolist())) == len(rows)
    assert (LABELS[rows] >= 0).all()


def test_draws_are_a_function_of_their_number():
    """Fails if a draw depends on what was drawn before, or all draws are the same."""
    draws = [draw_labels(LABELS, 2, i).tolist() for i in range(6)]
    draw_labels(LABELS, 1, 9)
    assert [draw_labels(LABELS, 2, i).tolist() for i in range(6)] == draws
    assert len({tuple(sorted(d)) for d in draws}) > 1


def test_fewer_shots_are_the_first_of_more():
    """Fails if draws of different sizes are unrelated: their accuracies would compare worse."""
    few, more = draw_labels(LABELS[LABELS == 2], 1, 0), draw_labels(LABELS[LABELS == 2], 3, 0)
    assert few.tolist() == more[:1].tolist()


def test_too_few_examples_are_refused():
    """Fails if a class is drawn short in silence."""
    with pytest.raises(ValueError, match=r"Class 0 has 4 training images, fewer than the 5.*shots"):
        draw_labels(LABELS, 5, 0)


def test_scores_equal_scikit_learn():
    """Fails if features are not l2-normalised, C is not passed on, or -1 is a class of its own."""
    train, test = clouds(80, 0), clouds(60, 1)
    train_y, test_y = train[1].copy(), test[1].copy()
    train_y[:10], test_y[:5] = -1, -1
    found = fewshot(train[0], train_y, test[0], test_y, shots=(2, 4), draws=3, c=10.0)

    def unit(h):
        return h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True)

    def score(rows):
        model = LogisticRegression(C=10.0, max_iter=5000)
        model.fit(unit(train[0])[rows], train_y[rows])
        predicted = model.predict(unit(test[0]))[5:]
        return 100 * (predicted == test_y[5:]).mean()

    assert set(found) == {"2", "2_std", "4", "4_std", "all"}
    for shots in (2, 4):
        scores = [score(draw_labels(train_y, shots, draw)) for draw in range(3)]
        assert found[str(shots)] == pytest.approx(np.mean(scores))
        assert found[f"{shots}_std"] == pytest.approx(np.std(scores))
    assert found["all"] == pytest.approx(score(np.arange(10, 80)))
    assert 40 < found["all"] < 100
