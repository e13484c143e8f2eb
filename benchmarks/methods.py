"""Every method on the digits, few-shot: trains, judges, and prints the table of docs/results.md.

    python -m benchmarks.methods --out FOLDER [--methods byol,moco,...] [--seeds 0,1,2]

Each run is `configs/digits.py:METHOD` in FOLDER/METHOD-SEED; runs that are there already are not
repeated. The figures are test top-1 in percent of logistic regression on frozen features, with 1,
5 and 10 labels per class and with all; mean over the seeds, and the range of each.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

CONFIG = "configs/digits.py"
OUT = flags.DEFINE_string("out", None, "Folder of the runs.", required=True)
METHODS = flags.DEFINE_list("methods", None, "Methods; by default all that the config has.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
SHOTS = ("1", "5", "10", "all")


def known() -> list[str]:
    """The methods that the config has a recipe for."""
    return list(runpy.run_path(CONFIG)["METHODS"])


def judged(method: str, seed: str) -> dict[str, Any]:
    """The few-shot result of a run, which is made if it is not there."""
    folder = Path(OUT.value) / f"{method}-{seed}"
    result = folder / "eval" / "fewshot.json"
    if not result.exists():
        python = [sys.executable, "-m"]
        options = ["--config.evaluate_every=0", f"--config.seed={seed}"]
        where = ["--workdir", str(folder)]
        train = [*python, "byol_jax.train", "--config", f"{CONFIG}:{method}", *where, *options]
        subprocess.run(train, check=True)
        evaluate = [*python, "byol_jax.evaluate", *where, "--protocol", "fewshot"]
        subprocess.run(evaluate, check=True)
    return json.loads(result.read_text())


def cells(values: list[dict[str, float]]) -> str:
    """Mean (range) over the seeds for each number of labels."""
    texts = []
    for shots in SHOTS:
        found = [v[shots] for v in values]
        low, high = min(found), max(found)
        texts.append(f"{sum(found) / len(found):.1f} ({low:.1f}-{high:.1f})")
    return " | ".join(texts)


def main(argv: list[str]) -> None:
    """The command line."""
    del argv
    lines = ["| method | 1 | 5 | 10 | all |", "| --- | --- | --- | --- | --- |"]
    untrained: list[dict[str, float]] = []
    for method in METHODS.value or known():
        rows = [judged(method, seed)["rows"] for seed in SEEDS.value]
        untrained = untrained or [r["untrained encoder"] for r in rows]
        lines.append(f"| {method} | {cells([r[method] for r in rows])} |")
    lines.insert(2, f"| untrained | {cells(untrained)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
