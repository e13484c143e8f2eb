"""Multinomial logistic regression on frozen features by L-BFGS, on the device.

The objective is scikit-learn's with C = 1 / penalty: the sum of the examples' cross-entropies plus
penalty / 2 times the squared norm of the kernel; the bias is free. It is divided by the number of
examples, which moves no optimum. Features are taken as they are, neither scaled nor normalised; but
L-BFGS begins from the curvature that their principal components suggest, since their variances
differ by many orders of magnitude (a preconditioner; Nocedal and Wright 2006, section 7.2).

Shape key: N examples, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from byol_jax import pulse
from byol_jax.evals.features import Extracted, NothingToJudge, accuracies, topk_accuracy
from byol_jax.log import say

STRONGEST, WEAKEST = 1e5, 1e-6  # penalties that are swept
TOLERANCE = 1e-4  # of the gradient's norm, as a share of the objective per example
FLOOR = 1e-3  # the objective, where it is smaller: float32 tells no smaller gradient from 0
MOST_STEPS = 2000  # per penalty; to reach them is reported
MEMORY = 20  # changes from which L-BFGS knows the curvature
LINE_STEPS = 6  # of Newton's method along a direction
RIDGE = 1e-6  # of the largest variance: smaller ones are within the error of float32
LEAST_SPREAD = 1e-6  # of p (1 - p), which is 0 where every answer is certain


class Linear(NamedTuple):
    """A linear classifier: kernel [D, K] and bias [K], NumPy float32."""

    kernel: np.ndarray
    bias: np.ndarray

    def scores(self, h_ND: np.ndarray) -> np.ndarray:
        """Logits [N, K] of features."""
        return np.asarray(h_ND, np.float32) @ self.kernel + self.bias


class Fit(NamedTuple):
    """Where a fit ended.

    penalty: see the module. value: of the objective per example. steps: of L-BFGS. converged:
    whether the gradient's norm is as small as asked for.
    """

    linear: Linear
    penalty: float
    value: float
    steps: int
    converged: bool


class Chosen(NamedTuple):
    """A classifier of all training examples, with the penalty that was best on a part of them.

    fit: of all examples. accuracy: in percent, on the validation part, of the fit without it.
    unconverged: how many of the fits, this one included, ended before the gradient was small.
    """

    fit: Fit
    accuracy: float
    unconverged: int


def penalties(count: int) -> list[float]:
    """`count` values of the penalty, spaced evenly in their logarithm, from strong to weak."""
    return [float(p) for p in np.geomspace(STRONGEST, WEAKEST, count)]


def regression(
    h: np.ndarray,
    y: np.ndarray,
    classes: int,
    weight: np.ndarray,
    components: Components | None = None,
) -> Callable[[float, Linear | None], Fit]:
    """Fits of one set of examples, all by one compiled program.

    Args:
      h, y: features [N, D] and labels [N], 0 to classes - 1.
      classes: number of classes K.
      weight: of each example [N], float32; the objective is divided by their sum.
      components: of the features; None: computed here.

    Returns:
      (penalty, where to start) -> its fit; None starts from zeros.
    """
    x = jnp.asarray(h, jnp.float32)
    arrays = x, jnp.asarray(y, jnp.int32), jnp.asarray(weight, jnp.float32)
    components = principal(x) if components is None else components

    def fit(penalty: float, start: Linear | None = None) -> Fit:
        theta = np.zeros((x.shape[1] + 1, classes), np.float32)
        if start is not None:
            theta = np.concatenate([start.kernel, start.bias[None]])
        limits = np.float32(penalty), np.float32(TOLERANCE)
        found, value, far, steps = minimize(theta, *arrays, *limits, components)
        theta = np.asarray(found)
        pulse.beat()
        return Fit(Linear(theta[:-1], theta[-1]), penalty, float(value), int(steps), not far)

    return fit


def held_out(rows: int, share: float, seed: int) -> np.ndarray:
    """A random share of the rows, bool [rows]: the validation part."""
    held = np.zeros(rows, bool)
    held[np.random.RandomState(seed).permutation(rows)[: round(share * rows)]] = True
    return held


def choose(
    h: np.ndarray,
    y: np.ndarray,
    *,
    classes: int,
    count: int = 45,
    validation: float = 0.2,
    seed: int = 0,
) -> Chosen:
    """Choose the penalty on a validation part, and fit all examples with it.

    The penalties go from strong to weak, each fit starting from the last; of equally good ones the
    strongest is taken. No test example is needed.

    Args:
      h, y: features [N, D] and labels [N]; rows labelled -1 are left out.
      classes: number of classes K.
      count: penalties, from 1e5 to 1e-6.
      validation: share of the labelled rows that is held out, above 0 and below 1.
      seed: for choosing them.

    Raises:
      NothingToJudge: the labelled rows are too few to hold some out.

    Reference: Kornblith et al. 2019; Grill et al. 2020.
    """
    known = np.flatnonzero(y >= 0)
    held = held_out(len(known), validation, seed)
    if not 0 < held.sum() < len(known):
        raise NothingToJudge(
            f"{len(known)} training images have a label that is known and can be read, too few to "
            f"choose the penalty on {validation} of them (eval.validation)."
        )
    x, y = np.asarray(h[known], np.float32), y[known]
    components = principal(x)  # once for both fits: they change no optimum
    fit = regression(x, y, classes, ~held, components)
    last, best, accuracy, unconverged = None, None, -1.0, 0
    for penalty in penalties(count):
        last = fit(penalty, last.linear if last else None)
        unconverged += not last.converged
        found = topk_accuracy(last.linear.scores(x[held]), y[held])["top1"]
        if best is None or found > accuracy:
            best, accuracy = last, found
    assert best is not None
    final = regression(x, y, classes, np.ones(len(x)), components)(best.penalty, best.linear)
    unconverged += not final.converged
    say(f"penalty {best.penalty:.3g}: {accuracy:.2f} on {held.sum():,} validation images")
    if unconverged:
        say(f"WARNING: {unconverged} of {count + 1} fits stopped after {MOST_STEPS} steps")
    return Chosen(final, accuracy, unconverged)


def judge(linear: Linear, test: Extracted, output: str = "h") -> dict[str, float]:
    """Accuracy of a classifier on test features.

    Returns:
      {"top1", "per_class"} and, of more than five classes, "top5", in percent. per_class: the mean
      over the classes of the test images.

    Raises:
      NothingToJudge: no row is labelled.
    """
    return accuracies(linear.scores(test.outputs[output]), test.labels)


class _Carry(NamedTuple):
    theta: Array
    value: Array
    gradient: Array
    moves: Array
    turns: Array
    steps: Array


def _along(z_NK: Array, dz_NK: Array, y_NK: Array, w_N1: Array, slope: Array, bend: Array) -> Array:
    """The step t >= 0 to the minimum of the objective along a direction.

    By Newton's method on the derivative, inside an interval that holds the minimum: values differ
    too little to compare in float32 near the optimum, and derivatives do not.

    Args:
      z_NK, dz_NK: logits, and their change per unit of t. y_NK: one-hot labels. w_N1: weights.
      slope, bend: the penalty's derivative is slope + bend * t.
    """

    def newton(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, low, high = carry
        p = jax.nn.softmax(z_NK + t * dz_NK)
        mean = (p * dz_NK).sum(1, keepdims=True)
        first = (w_N1 * (p - y_NK) * dz_NK).sum() + slope + bend * t
        second = (w_N1 * p * (dz_NK - mean) ** 2).sum() + bend
        low, high = jnp.where(first < 0, t, low), jnp.where(first < 0, high, t)
        guess = t - first / second
        inside = (guess > low) & (guess < high)
        between = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        return jnp.where(inside, guess, between), low, high

    start = (jnp.float32(1), jnp.float32(0), jnp.float32(jnp.inf))
    return jax.lax.fori_loop(0, LINE_STEPS, newton, start)[0]


class Components(NamedTuple):
    """Of features: their mean [D], principal components in columns [D, D], and variances [D]."""

    mean: Array
    axes: Array
    variance: Array


@jax.jit
def principal(x_ND: ArrayLike) -> Components:
    """The principal components of features [N, D]."""
    x_ND = jnp.asarray(x_ND, jnp.float32)
    mean = x_ND.mean(0)
    apart = x_ND - mean[None]
    covariance = jnp.matmul(apart.T, apart, precision="highest") / len(x_ND)
    variance, axes = jnp.linalg.eigh(covariance)
    return Components(mean, axes, jnp.maximum(variance, 0))


def _preconditioned(q: Array, c: Components, spread: Array, shrink: Array) -> Array:
    """The inverse of an approximate Hessian times q, both kernel and bias [D + 1, K].

    It has the same block for every class and none between them: `spread`, the mean of p (1 - p),
    times the second moments of the features and a constant 1, plus `shrink` for the kernel. That is
    diagonal in the principal components once the bias is that of centred features.
    """
    kernel, bias = q[:-1], q[-1:]
    inner = jnp.matmul(c.axes.T, kernel - c.mean[:, None] * bias, precision="highest")
    curvature = spread * (c.variance + RIDGE * c.variance.max()) + shrink
    kernel = jnp.matmul(c.axes, inner / curvature[:, None], precision="highest")
    shift = jnp.matmul(c.mean[None], kernel, precision="highest")
    return jnp.concatenate([kernel, bias / spread - shift])


def _direction(
    gradient: Array,
    moves: Array,
    turns: Array,
    steps: Array,
    preconditioned: Callable[[Array], Array],
) -> Array:
    """L-BFGS's two loops: minus the inverse Hessian, as far as it is known, times the gradient.

    moves, turns: the last changes of the parameters and of the gradient [MEMORY, D + 1, K], that
    of step i in row i % MEMORY; rows not yet written are 0. preconditioned: the inverse Hessian
    as far as it is known before the first step, up to a factor.
    """
    order = (steps - 1 - jnp.arange(MEMORY)) % MEMORY  # from the newest
    curvature = (moves * turns).sum((1, 2))
    rho = jnp.where(curvature > 0, 1 / curvature, 0)

    def back(q: Array, i: Array) -> tuple[Array, Array]:
        alpha = rho[i] * (moves[i] * q).sum()
        return q - alpha * turns[i], alpha

    def forth(q: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        i, alpha = pair
        return q + moves[i] * (alpha - rho[i] * (turns[i] * q).sum()), None

    q, alphas = jax.lax.scan(back, gradient, order)
    newest = order[0]
    scale = curvature[newest] / (turns[newest] * preconditioned(turns[newest])).sum()
    q = preconditioned(q) * jnp.where(curvature[newest] > 0, scale, 1)
    return -jax.lax.scan(forth, q, (order[::-1], alphas[::-1]))[0]


@jax.jit
def minimize(
    start: Array,
    x_ND: Array,
    y_N: Array,
    weight_N: Array,
    penalty: Array,
    tolerance: Array,
    components: Components,
) -> tuple[Array, Array, Array, Array]:
    """The optimum from a start, all in the shape of kernel and, as its last row, bias [D + 1, K].

    Args:
      start: where to begin.
      x_ND, y_N, weight_N: features, labels and weights of the examples.
      penalty: see the module.
      tolerance: of the gradient's norm, as a share of the objective per example.
      components: of the features; they change how fast the optimum is found, not where it is.

    Returns:
      (optimum, the objective's value there, whether the gradient is still too large, steps).
    """
    examples = weight_N.sum()
    w_N1 = (weight_N / examples)[:, None]
    y_NK = jax.nn.one_hot(y_N, start.shape[1])
    shrink = jnp.ones_like(start).at[-1].set(0) * penalty / examples

    def logits(theta: Array) -> Array:
        return jnp.matmul(x_ND, theta[:-1], precision="highest") + theta[-1:]

    def value_and_gradient(theta: Array) -> tuple[Array, Array]:
        z = logits(theta)
        value = -(w_N1 * y_NK * jax.nn.log_softmax(z)).sum() + (shrink * theta**2).sum() / 2
        residual = w_N1 * (jax.nn.softmax(z) - y_NK)
        kernel = jnp.matmul(x_ND.T, residual, precision="highest")
        return value, jnp.concatenate([kernel, residual.sum(0, keepdims=True)]) + shrink * theta

    p = jax.nn.softmax(logits(start))
    spread = jnp.maximum((w_N1 * p * (1 - p)).sum() / start.shape[1], LEAST_SPREAD)

    def preconditioned(q: Array) -> Array:
        return _preconditioned(q, components, spread, penalty / examples)

    def step(carry: _Carry) -> _Carry:
        d = _direction(carry.gradient, carry.moves, carry.turns, carry.steps, preconditioned)
        slope, bend = (shrink * carry.theta * d).sum(), (shrink * d**2).sum()
        t = _along(logits(carry.theta), logits(d), y_NK, w_N1, slope, bend)
        theta = carry.theta + t * d
        value, gradient = value_and_gradient(theta)
        row = carry.steps % MEMORY
        moves = carry.moves.at[row].set(t * d)
        turns = carry.turns.at[row].set(gradient - carry.gradient)
        return _Carry(theta, value, gradient, moves, turns, carry.steps + 1)

    def far(carry: _Carry) -> Array:
        near = jnp.linalg.norm(carry.gradient) <= tolerance * jnp.maximum(carry.value, FLOOR)
        return ~near

    def going(carry: _Carry) -> Array:
        return far(carry) & (carry.steps < MOST_STEPS) & jnp.isfinite(carry.value)

    none = jnp.zeros((MEMORY, *start.shape))
    first = _Carry(start, *value_and_gradient(start), none, none, jnp.int32(0))
    last = jax.lax.while_loop(going, step, first)
    return last.theta, last.value, far(last), last.steps
