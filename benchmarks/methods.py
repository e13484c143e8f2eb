"""Every method, and the comparisons that papers made, on the digits or CIFAR-10: docs/results.md.

    python -m benchmarks.methods --out FOLDER [--table methods|losses|heads|noise|byol|batch]
        [--config configs/digits.py] [--only byol,moco] [--seeds 0,1,2] [--jobs 2]
        [--options=--config.data.dir=/path/to/tensorflow_datasets,...]

Each run is `CONFIG:METHOD` with the options of its row, in FOLDER/ROW-SEED; what is there already
is not run again. The figures are test top-1 in percent: weighted kNN, the online linear probe, and
logistic regression on frozen features with 1, 5 and 10 labels per class and with all; mean over the
seeds, and the range of each. Features' std (of the normalised embedding times the root of its
width: 1 is healthy, 0 collapsed) is that of the last step.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import queue
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

OUT = flags.DEFINE_string("out", None, "Folder of the runs.", required=True)
TABLE = flags.DEFINE_string("table", "methods", "Which comparison.")
CONFIG = flags.DEFINE_string("config", "configs/digits.py", "A config whose argument is a method.")
ONLY = flags.DEFINE_list("only", None, "Rows; by default all of the table.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at once; the cores are shared out among them.")
OPTIONS = flags.DEFINE_list("options", [], "Options of the training and the evaluation.")
LAST = {"kNN": "knn/test_top1", "probe": "probe/test_top1", "std": "features/z_std"}
SHOTS = ("1", "5", "10", "all")

# Row -> method and options, for configs/digits.py.
TABLES: dict[str, dict[str, tuple[str, list[str]]]] = {
    # Chen et al. 2020, table 4, and Sohn 2016.
    "losses": {
        "nt_xent": ("simclr", []),
        **{
            f"{loss} {key} {value}": ("simclr", [f"simclr.loss={loss}", f"simclr.{key}={value}"])
            for loss, key, values in (
                ("nt_logistic", "temperature", (0.2, 1.0)),
                ("nt_logistic_semi_hard", "temperature", (0.2, 1.0)),
                ("triplet", "margin", (0.4, 0.8)),
                ("triplet_semi_hard", "margin", (0.4, 0.8)),
                ("n_pair", "l2", (0.002,)),
            )
            for value in values
        },
    },
    # Chen et al. 2020, figure 8: the projector.
    "heads": {
        "none": ("simclr", ["simclr.layers=0"]),
        "linear": ("simclr", ["simclr.layers=1"]),
        "MLP, 2 layers": ("simclr", []),
        "MLP, 3 layers": ("simclr", ["simclr.layers=3"]),
    },
    # Wu et al. 2018, table 1: the negatives K of noise-contrastive estimation, whose gradients are
    # hundreds of times those of the softmax as long as all embeddings are alike.
    "noise": {
        f"K {k}" if k else "softmax": (
            "npid",
            [f"npid.negatives={k}", "optimizer.clip_norm=1.0"],
        )
        for k in (1, 10, 512, 4096, 0)
    },
    # Grill et al. 2020, table 5.
    "byol": {
        "BYOL": ("byol", []),
        **{
            f"constant tau {tau}": ("byol", [f"byol.tau={tau}", "byol.tau_schedule=constant"])
            for tau in (1.0, 0.99, 0.9, 0.0)
        },
        "no predictor": ("byol", ["byol.predictor=False"]),
        "no predictor, negatives": ("byol", ["byol.predictor=False", "byol.beta=1.0"]),
        "negatives": ("byol", ["byol.beta=1.0"]),
        "no target": ("siamese", []),
        "no target, gradient to both": ("siamese", ["siamese.stop_gradient=False"]),
        "no target, no predictor": ("siamese", ["siamese.predictor=False"]),
    },
    # Grill et al. 2020, figure 3a: at the same number of images.
    "batch": {
        f"{method} {size}": (method, [f"batch_size={size}"])
        for method in ("byol", "simclr")
        for size in (256, 64, 16)
    },
}


def rows() -> dict[str, tuple[str, list[str]]]:
    """The rows of the table that was asked for."""
    found: dict[str, tuple[str, list[str]]]
    if TABLE.value == "methods":
        found = {method: (method, []) for method in runpy.run_path(CONFIG.value)["METHODS"]}
    elif TABLE.value in TABLES:
        found = TABLES[TABLE.value]
    else:
        raise app.UsageError(f"--table is methods or one of {', '.join(TABLES)}")
    unknown = set(ONLY.value or ()) - found.keys()
    if unknown:
        raise app.UsageError(f"no row {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    return {row: found[row] for row in ONLY.value or found}


def judged(row: str, method: str, options: list[str], seed: str, cores: set[int]) -> dict[str, Any]:
    """The figures of a run, which is made if it is not there; and of its untrained encoder."""
    folder = Path(OUT.value) / f"{row.replace(', ', '_').replace(' ', '_')}-{seed}"
    result = folder / "eval" / "fewshot.json"
    if not result.exists():
        Path(OUT.value).mkdir(parents=True, exist_ok=True)
        own = [*(f"--config.{o}" for o in options), f"--config.seed={seed}", *OPTIONS.value]
        config, where = f"{CONFIG.value}:{method}", ["--workdir", str(folder)]
        train = ["byol_jax.train", "--config", config, *where, "--config.evaluate_every=0", *own]
        evaluate = ["byol_jax.evaluate", *where, "--protocol", "fewshot"]
        with open(f"{folder}.log", "w") as log:
            for command in (train, evaluate):
                subprocess.run(
                    [sys.executable, "-m", *command],
                    check=True,
                    stdout=log,
                    stderr=log,
                    preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
                )
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(result.read_text())["rows"]
    own = {name: last[key] for name, key in LAST.items()} | found[method]
    return {"own": own, "untrained": found["untrained encoder"]}


def cells(values: list[dict[str, float]]) -> str:
    """Mean (range) over the seeds of each figure."""
    texts = []
    for name in (*LAST, *SHOTS):
        found = [v[name] for v in values if name in v]
        digits = 2 if name == "std" else 1
        text = f"{sum(found) / len(found):.{digits}f}" if found else "-"
        if len(found) > 1:
            text += f" ({min(found):.{digits}f}-{max(found):.{digits}f})"
        texts.append(text)
    return " | ".join(texts)


def main(argv: list[str]) -> None:
    """The command line."""
    del argv
    asked = rows()
    # Where the system does not let a process choose its cores, all runs share all of them.
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.Queue[set[int]] = queue.Queue()
    for i in range(JOBS.value):
        shares.put(set(cores[i :: JOBS.value]) or set(cores))

    def one(row: str, seed: str) -> dict[str, Any]:
        share = shares.get()
        try:
            return judged(row, *asked[row], seed, share)
        finally:
            shares.put(share)

    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        # Seed by seed, so that a table of one seed is there first.
        runs = {(row, seed): pool.submit(one, row, seed) for seed in SEEDS.value for row in asked}
        found = {row: [runs[row, seed].result() for seed in SEEDS.value] for row in asked}
    names = (*LAST, *SHOTS)
    print(f"| {TABLE.value} | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    print(f"| untrained | {cells([r['untrained'] for r in next(iter(found.values()))])} |")
    for row, values in found.items():
        print(f"| {row} | {cells([v['own'] for v in values])} |")


if __name__ == "__main__":
    app.run(main)
