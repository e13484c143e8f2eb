"""Few-shot logistic regression: the draws, and the scores against scikit-learn itself."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.fewshot import draw_labels, fewshot, rare_classes


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


def test_a_rare_class_is_left_out_of_the_columns_it_is_too_small_for():
    """Fails if one rare class makes the whole protocol fail, is drawn short, or its test images
    count as errors in a column whose classifier does not know it.
    """
    train, test = clouds(90, 0), clouds(60, 1)
    train_y = train[1].copy()
    train_y[np.flatnonzero(train_y == 2)[3:]] = -1  # class 2 has three
    assert rare_classes(train_y, 3) == []
    assert rare_classes(train_y, 4) == [2]
    found = fewshot(train[0], train_y, test[0], test[1], shots=(3, 4), draws=2)

    def unit(h):
        return h.astype(np.float64) / np.linalg.norm(h, axis=1, keepdims=True)

    two = test[1] < 2
    expected = []
    for draw in range(2):
        rows = draw_labels(np.where(train_y == 2, -1, train_y), 4, draw)
        model = LogisticRegression(C=100.0, max_iter=5000).fit(unit(train[0])[rows], train_y[rows])
        expected.append(100 * np.mean(model.predict(unit(test[0])[two]) == test[1][two]))
    assert found["4"] == pytest.approx(np.mean(expected))
    assert set(found) == {"3", "3_std", "4", "4_std", "all"}
    few = fewshot(train[0], train_y, test[0], test[1], shots=(3, 1000), draws=1)
    assert set(few) == {"3", "3_std", "all"}


def test_one_class_or_no_label_is_refused():
    """Fails if scikit-learn's own error, or a mean over nothing, is what the user sees."""
    h = np.eye(4, dtype=np.float32)
    with pytest.raises(NothingToJudge, match="labels of 1 class;"):
        fewshot(h, np.array([0, 0, 0, -1]), h, np.zeros(4, int), shots=(1,))
    with pytest.raises(NothingToJudge, match="No test image"):
        fewshot(h, np.array([0, 1, 0, 1]), h, np.full(4, -1), shots=(1,))


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
