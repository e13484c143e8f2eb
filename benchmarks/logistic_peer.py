"""The sweep of penalties that `transfer` does, beside scikit-learn's on the same features.

    python -m byol_jax.evaluate --workdir RUN --protocol transfer ...
    python -m benchmarks.logistic_peer RUN/eval/features/*.npz [--penalties 45] [--rounds 1]

Files are features that an evaluation has kept: of training and test parts, of the encoder and of
an untrained one. Both fit all rows, from strong to weak penalties, each from the last one's
optimum: ours as `transfer` does, scikit-learn's L-BFGS with warm_start, until no entry of the
gradient is larger than the norm of ours may be (--tol: than this), or for 2,000 steps. Ours and
theirs take turns in each round, after one sweep of ours that compiles. Printed: seconds, their
ratio, and how far the two objectives are apart (float64).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from sklearn.linear_model import LogisticRegression

from byol_jax.evals.logistic import FLOOR, TOLERANCE, penalties, regression

PENALTIES = flags.DEFINE_integer("penalties", 45, "How many, from 1e5 to 1e-6.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 1, "How often both are timed.", lower_bound=1)
TOL = flags.DEFINE_float("tol", None, "scikit-learn's tolerance, for all penalties; its own: 1e-4.")

Solution = tuple[np.ndarray, np.ndarray]


def objective(solution: Solution, h: np.ndarray, y: np.ndarray, p: float) -> float:
    """The mean cross-entropy plus p / 2N |kernel|^2, in float64."""
    kernel, bias = solution
    z = h.astype(np.float64) @ kernel.astype(np.float64) + bias
    z -= z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    squared = (kernel.astype(np.float64) ** 2).sum()
    return float((-log_p[np.arange(len(y)), y].sum() + p / 2 * squared) / len(y))


def ours(h: np.ndarray, y: np.ndarray, strengths: list[float]) -> Callable[[], list[Solution]]:
    """The sweep of byol_jax."""
    fit = regression(h, y, int(y.max()) + 1, np.ones(len(y), np.float32))

    def sweep() -> list[Solution]:
        found, last = [], None
        for p in strengths:
            last = fit(p, last.linear if last else None)
            found.append((last.linear.kernel, last.linear.bias))
        return found

    return sweep


def theirs(
    h: np.ndarray, y: np.ndarray, strengths: list[float], tols: list[float]
) -> Callable[[], list[Solution]]:
    """The sweep of scikit-learn."""

    def sweep() -> list[Solution]:
        model = LogisticRegression(max_iter=2000, warm_start=True)
        found = []
        for p, tol in zip(strengths, tols, strict=True):
            model.set_params(C=1 / p, tol=tol)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fits that do not converge; see the objectives
                model.fit(h, y)
            found.append((model.coef_.T.copy(), model.intercept_.copy()))
        return found

    return sweep


def main(argv: list[str]) -> None:
    """The command line."""
    if not argv[1:]:
        raise app.UsageError("name files of features, e.g. RUN/eval/features/*.npz")
    strengths = penalties(PENALTIES.value)
    columns = "file                  rows  numbers classes    ours s  sklearn s  sklearn / ours"
    print(f"{columns}   objectives: ours below by, above by")
    for path in map(Path, argv[1:]):
        with np.load(path) as file:
            h, y = file["h"], file["labels"]
        h, y = h[y >= 0], y[y >= 0]
        if len(np.unique(y)) < 3 or len(np.unique(y)) != y.max() + 1:
            print(f"{path.name[:16]:16} left out: fewer than three classes, or one without rows")
            continue
        own = ours(h, y, strengths)
        reached = [objective(s, h, y, p) for s, p in zip(own(), strengths, strict=True)]  # compiles
        tols = [TOL.value or TOLERANCE * max(value, FLOOR) for value in reached]
        sweeps = {"ours": own, "theirs": theirs(h, y, strengths, tols)}
        spent: dict[str, list[float]] = {name: [] for name in sweeps}
        found: dict[str, list[Solution]] = {}
        for _ in range(ROUNDS.value):
            for name, sweep in sweeps.items():
                began = time.perf_counter()
                found[name] = sweep()
                spent[name].append(time.perf_counter() - began)
        values = {
            name: np.array([objective(s, h, y, p) for s, p in zip(f, strengths, strict=True)])
            for name, f in found.items()
        }
        apart = (values["ours"] - values["theirs"]) / values["theirs"]
        a, b = (statistics.median(spent[name]) for name in ("ours", "theirs"))
        print(
            f"{path.name[:16]:16} {len(y):9,} {h.shape[1]:8} {y.max() + 1:7} {a:9.1f} {b:10.1f} "
            f"{b / a:15.2f}   {max(-apart.min(), 0):.1e}, {max(apart.max(), 0):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
