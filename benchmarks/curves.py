"""Draws runs side by side: loss, std and rank of the embeddings, kNN accuracy.

    for method in byol simclr moco; do
        python -m byol_jax.train --config configs/digits.py:$method --workdir FOLDER/$method \\
            --config.evaluate_every=5
    done
    python -m benchmarks.curves --out docs/healthy_runs.png FOLDER/*
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import app, flags
from matplotlib.figure import Figure

OUT = flags.DEFINE_string("out", None, "The picture, a PNG.", required=True)
PANELS = {
    "train/loss": "loss",
    "features/z_std": "std of z",
    "features/z_rank": "rank of z",
    "knn/test_top1": "kNN top-1, %",
}


def main(argv: list[str]) -> None:
    """The command line."""
    runs = [Path(a) for a in argv[1:]]
    if not runs:
        raise app.UsageError("name the folders of the runs, e.g. runs/*")
    figure = Figure(figsize=(11, 1.5 * len(runs) + 0.4), layout="constrained")
    axes = figure.subplots(len(runs), len(PANELS), squeeze=False, sharex=True)
    for line, run in zip(axes, runs, strict=True):
        rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
        for ax, (key, title) in zip(line, PANELS.items(), strict=True):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                ax.plot(*zip(*points, strict=True), marker=".", markersize=3, linewidth=1)
            ax.tick_params(labelsize=7)
            ax.grid(alpha=0.3)
            if key == "features/z_std":
                ax.set_ylim(0, 1.1)
            if run == runs[0]:
                ax.set_title(title, fontsize=9)
        line[0].set_ylabel(run.name, fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=8)
    figure.savefig(OUT.value, dpi=80)


if __name__ == "__main__":
    app.run(main)
