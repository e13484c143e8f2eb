"""Logistic regression by L-BFGS on the device, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from byol_jax.evals import logistic
from byol_jax.evals.features import Extracted, NothingToJudge
from byol_jax.evals.logistic import choose, judge, penalties, regression

CLASSES = 3


def clouds(n, seed, dim=5):
    """Features of overlapping classes, of unequal scale and off the origin, and their labels."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, CLASSES, n).astype(np.int32)
    centres = np.random.RandomState(99).randn(CLASSES, dim)
    h = centres[labels] + 1.2 * random.randn(n, dim)
    return (h * np.geomspace(0.3, 3, dim) + 2).astype(np.float32), labels


def objective(kernel, bias, h, y, penalty):
    """The sum of cross-entropies and penalty / 2 |kernel|^2, per example, in float64."""
    z = h.astype(np.float64) @ kernel + bias
    z -= z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return (-log_p[np.arange(len(y)), y].sum() + penalty / 2 * (kernel**2).sum()) / len(y)


def scikit(h, y, penalty):
    """(kernel, bias) of scikit-learn's optimum."""
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20000)
    model.fit(h.astype(np.float64), y)
    return model.coef_.T, model.intercept_


def test_the_optimum_is_scikit_learns():
    """Fails if the bias is penalised, the penalty is one of the mean, a row of weight 0 counts, or
    the fit stops early: from strong to weak, and of classes that nothing separates.
    """
    h, y = clouds(80, 0)
    weight = np.ones(80, np.float32)
    weight[60:] = 0
    fit, last = regression(h, y, CLASSES, weight), None
    for penalty in (1e4, 10.0, 0.1, 1e-3, 1e-6):
        last = fit(penalty, last.linear if last else None)
        kernel, bias = scikit(h[:60], y[:60], penalty)
        best = objective(kernel, bias, h[:60], y[:60], penalty)
        ours = objective(*map(np.float64, last.linear), h[:60], y[:60], penalty)
        assert last.converged
        np.testing.assert_allclose(ours, best, rtol=1e-5)
        np.testing.assert_allclose(last.value, best, rtol=1e-5)
        np.testing.assert_allclose(
            last.linear.kernel - last.linear.kernel.mean(1, keepdims=True),
            kernel - kernel.mean(1, keepdims=True),
            atol=0.02,
        )


def test_features_of_unequal_variance_take_few_steps():
    """Fails if L-BFGS begins from the identity (2,345 steps, and the last fit does not end),
    forgets the mean, or is turned away from the optimum.
    """
    random = np.random.RandomState(0)
    y = np.arange(120) % CLASSES
    h = np.eye(CLASSES, 24)[y] + random.randn(120, 24)
    turn = np.linalg.qr(random.randn(24, 24))[0]
    h = ((h * np.geomspace(1e-2, 10, 24)) @ turn + 5).astype(np.float32)
    fit, last, steps = regression(h, y, CLASSES, np.ones(120, np.float32)), None, 0
    for penalty in (1e3, 1.0, 1e-3):
        last = fit(penalty, last.linear if last else None)
        steps += last.steps
        assert last.converged
        best = objective(*scikit(h - 5, y, penalty), h - 5, y, penalty)
        np.testing.assert_allclose(last.value, best, rtol=1e-5)
    assert steps < 60


@pytest.mark.parametrize("seed", [0, 1])
def test_the_penalty_is_chosen_on_a_part_and_all_are_fitted_with_it(seed, monkeypatch):
    """Fails if it is chosen on rows that were trained on, the weakest of equals is taken, the final
    fit leaves rows out, or unlabelled rows are trained on.
    """
    monkeypatch.setattr(logistic, "STRONGEST", 1e3)
    monkeypatch.setattr(logistic, "WEAKEST", 1e-2)
    h, y = clouds(80, 1)
    y[70:] = -1
    chosen = choose(h, y, classes=CLASSES, count=6, validation=0.3, seed=seed)
    held = np.random.RandomState(seed).permutation(70)[:21]
    rest = np.setdiff1d(np.arange(70), held)
    accuracy = []
    for penalty in penalties(6):
        kernel, bias = scikit(h[rest], y[rest], penalty)
        accuracy.append(100 * np.mean((h[held] @ kernel + bias).argmax(1) == y[held]))
    best = penalties(6)[int(np.argmax(accuracy))]
    assert chosen.fit.penalty == best
    assert chosen.accuracy == pytest.approx(max(accuracy))
    assert chosen.unconverged == 0
    kernel, bias = scikit(h[:70], y[:70], best)
    test = clouds(60, 2)[0]
    ours = chosen.fit.linear.scores(test)
    theirs = test @ kernel + bias
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=0.05
    )


def test_the_accuracies_by_hand():
    """Fails if classes count by their size, or unlabelled rows count."""
    linear = logistic.Linear(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    h = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 0, 2]]
    labels = np.array([0, 0, 0, 1, 1, -1])
    found = judge(linear, Extracted({"h": h}, labels, np.zeros(0, int)))
    assert found == {"top1": 80.0, "per_class": 75.0}


def test_too_few_labels_are_refused():
    """Fails if a penalty is chosen on nothing."""
    h, y = clouds(80, 0)
    y[1:] = -1
    with pytest.raises(NothingToJudge, match=r"1 training images have a label.*eval.validation"):
        choose(h, y, classes=CLASSES)


def test_a_fit_that_did_not_converge_is_told(monkeypatch, capsys):
    """Fails if a limit to the steps is passed over in silence."""
    monkeypatch.setattr(logistic, "MOST_STEPS", 2)
    h, y = clouds(50, 0, dim=4)  # another shape: compiled anew
    assert choose(h, y, classes=CLASSES, count=4).unconverged > 0
    assert "of 5 fits stopped after 2 steps" in capsys.readouterr().err


def test_penalties_go_from_strong_to_weak():
    """Fails if the papers' 45 values are others."""
    found = penalties(45)
    assert len(found) == 45
    np.testing.assert_allclose(found, np.logspace(5, -6, 45), rtol=1e-12)
