"""Logistic regression of images with several labels each: one class against all others.

Each class has a classifier of its own with scikit-learn's objective, C = 1 / penalty: the sum of
the examples' cross-entropies plus penalty / 2 times the squared norm of the weights; the bias is
free. All are fitted at once, with one penalty. An example that is neither positive nor negative for
a class (mark -1: only difficult objects) counts for the others.

Shape key: N examples, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import pulse
from byol_jax.evals.features import NothingToJudge
from byol_jax.evals.logistic import (
    MOST_STEPS,
    Chosen,
    Fit,
    Linear,
    minimize,
    penalties,
    principal,
)
from byol_jax.log import say

RECALLS = 10  # the recalls of the 11 points are 0 / 10 to 10 / 10

# A classifier of two classes whose weights are both penalised is one of their difference with half
# of the penalty: at the optimum they are opposite.
_each = jax.jit(jax.vmap(minimize, in_axes=(0, None, 1, 1, None, None, None)))

# Smaller than of one classifier of all classes: where a class is rare its objective is small, and
# features of few images are far from independent.
TOLERANCE = 1e-5


def eleven_points(hits: np.ndarray, precision: np.ndarray, positives: int) -> float:
    """The mean of the best precisions at a recall of at least 0, 0.1, ... 1; 0 to 1.

    Args:
      hits: how many positives are found down to each rank, [R], rising.
      precision: there, [R].
      positives: how many there are, above 0.
    """
    # In whole numbers. Of floats, 3 / 10 is less than 3 * 0.1 and would lose a term.
    reached = [RECALLS * hits >= r * positives for r in range(RECALLS + 1)]
    return float(np.mean([precision[r].max(initial=0) for r in reached]))


def ap11(scores: np.ndarray, marks: np.ndarray) -> float:
    """11-point average precision in percent, as VOC2007 defines it.

    The mean over the recalls 0, 0.1, ... 1 of the best precision at that recall or a larger one.

    Args:
      scores: [N]. Equal ones are found together, so that their order does not matter; NaN last.
      marks: [N]: 1 positive, 0 negative, -1 left out.

    Returns:
      0 to 100; NaN where nothing is positive.

    Reference: VOCdevkit:VOCcode/VOCevalcls.m.
    """
    counts = marks >= 0
    values = np.where(np.isnan(scores), -np.inf, scores)[counts]
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], marks[counts][order] > 0
    if not positive.any():
        return float("nan")
    last = np.append(values[1:] != values[:-1], True)  # of those with the same score
    right, found = np.cumsum(positive)[last], np.flatnonzero(last) + 1
    return 100 * eleven_points(right, right / found, int(positive.sum()))


def judged_classes(*parts: np.ndarray) -> np.ndarray:
    """Which classes have a positive and a negative example in every part, bool [K].

    Args:
      parts: marks [N, K] of each.
    """
    return np.all([(m > 0).any(0) & (m == 0).any(0) for m in parts], axis=0)


def one_vs_rest(h: np.ndarray, marks: np.ndarray) -> Callable[[float, Linear | None], Fit]:
    """Fits of one set of examples, as `logistic.regression`.

    Args:
      h, marks: features [N, D] and marks [N, K].

    Returns:
      (penalty, where to start) -> the fit of all classes; its value is their mean, its steps are
      those of the class that took most.
    """
    x, classes = jnp.asarray(h, jnp.float32), marks.shape[1]
    y, weight = jnp.asarray(marks > 0, jnp.int32), jnp.asarray(marks >= 0, jnp.float32)
    components = principal(x)

    def fit(penalty: float, start: Linear | None = None) -> Fit:
        theta = np.zeros((classes, x.shape[1] + 1, 2), np.float32)
        if start is not None:
            whole = np.concatenate([start.kernel, start.bias[None]]).T / 2
            theta = np.stack([-whole, whole], -1)
        limits = np.float32(2 * penalty), np.float32(TOLERANCE)
        found, value, far, steps = _each(theta, x, y, weight, *limits, components)
        theta = np.asarray(found)
        both = (theta[..., 1] - theta[..., 0]).T
        pulse.beat()
        near = not np.asarray(far).any()
        return Fit(
            Linear(both[:-1], both[-1]), penalty, float(value.mean()), int(steps.max()), near
        )

    return fit


def judge_each(linear: Linear, h: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The 11-point average precision of each class in percent, [K]."""
    scores = linear.scores(h)
    return np.array([ap11(s, m) for s, m in zip(scores.T, marks.T, strict=True)])


def choose_each(
    h: np.ndarray,
    marks: np.ndarray,
    *,
    held: np.ndarray,
    count: int = 45,
) -> Chosen:
    """Choose the penalty by mAP on a validation part, and fit all examples with it.

    As `logistic.choose`: one penalty for all classes, from strong to weak, the strongest of equals.

    Args:
      h, marks: features [N, D] and marks [N, K].
      held: bool [N], the validation part.
      count: penalties, from 1e5 to 1e-6.

    Returns:
      The classifiers of all classes; `accuracy` is the mAP on the validation part, the mean over
      the classes that it can judge.

    Raises:
      NothingToJudge: no class has a positive and a negative example in both parts.
    """
    classes = judged_classes(marks[held], marks[~held])
    if not classes.any():
        raise NothingToJudge(
            f"{held.sum()} of {len(held)} training images are held out to choose the penalty, and "
            "no class is there and missing in both parts (eval.validation, or val.txt)."
        )
    x = np.asarray(h, np.float32)
    fit, last, best, highest, unconverged = one_vs_rest(x[~held], marks[~held]), None, None, 0.0, 0
    for penalty in penalties(count):
        last = fit(penalty, last.linear if last else None)
        unconverged += not last.converged
        found = float(judge_each(last.linear, x[held], marks[held])[classes].mean())
        if best is None or found > highest:
            best, highest = last, found
    assert best is not None
    final = one_vs_rest(x, marks)(best.penalty, best.linear)
    unconverged += not final.converged
    say(f"penalty {best.penalty:.3g}: mAP {highest:.2f} on {held.sum():,} validation images")
    if unconverged:
        say(f"WARNING: {unconverged} of {count + 1} fits stopped after {MOST_STEPS} steps")
    return Chosen(final, highest, unconverged)
