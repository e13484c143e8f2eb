"""Every method killed with -9 and resumed, and on two processes, by the command line.

    python tests/faults/methods.py --folder DIR [--methods moco,npid] [--seed 0]

For each method of configs/digits.py: a run of 60 steps that is killed at a random step and started
again must end bitwise equal to one that was not; and 20 steps in float64 on two processes of two
devices each must be those of one process of four. Prints a table and ends with 1 where one is not.
"""

from __future__ import annotations

import argparse
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import few_digits
import fork_server
import small_runs as runs

from byol_jax.checkpoint import Checkpoints

FLOAT64 = ("--config.encoder.dtype=float64", "--config.epochs=2", "--config.log_every=1")


def start(method: str, workdir: Path, *flags: str, devices: int = 1) -> fork_server.Process:
    """One process of a run; what it says goes into WORKDIR.said."""
    few = (*few_digits.flags(), "--config.data.steps_per_dispatch=1")
    if method != "mae":  # whose transformer is small
        few = (*few, "--config.encoder.width=0.25")
    often = ("--config.epochs=6", "--config.log_every=1", "--config.checkpoint_every=7")
    command = ("-m", "byol_jax.train", "--config", f"configs/digits.py:{method}", *few, *often)
    env = fork_server.environment(JAX_NUM_CPU_DEVICES=str(devices), JAX_PLATFORMS="cpu")
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with runs.said_file(workdir).open("a") as said:
        return fork_server.Process(
            *(*command, "--workdir", str(workdir), *flags),
            env=env,
            stdout=said,
            stderr=fork_server.STDOUT,
        )


def finish(*processes: fork_server.Process) -> None:
    """Wait for all.

    Raises:
      RuntimeError: one did not end well.
    """
    for p in processes:
        if p.wait(600):
            raise RuntimeError(f"exit code {p.returncode}: {' '.join(p.args)}")


def killed(method: str, folder: Path, step: int) -> str:
    """What differs after a kill at a step; "" where nothing does."""
    whole, cut = folder / f"{method}-whole", folder / f"{method}-killed"
    finish(start(method, whole))
    process, metrics = start(method, cut), cut / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        if process.poll() is not None:
            return "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(start(method, cut))
    if "resumed from step" not in runs.said(cut):
        return "it began anew"
    return runs.difference(cut, whole, 60)


def processes(method: str, folder: Path) -> float:
    """The largest relative difference between two processes and one."""
    one, two = folder / f"{method}-one", folder / f"{method}-two"
    finish(start(method, one, *FLOAT64, devices=4))
    group = (f"--coordinator=127.0.0.1:{runs.free_port()}", "--num_processes=2", *FLOAT64)
    finish(*(start(method, two, *group, f"--process_id={i}", devices=2) for i in (0, 1)))
    found = []
    for workdir in (one, two):
        saved = Checkpoints(workdir)
        found.append(saved.arrays(20, ""))
        saved.close()
    if found[0].keys() != found[1].keys():
        return float("inf")
    return max(
        float(np.abs(a - found[1][k]).max() / max(1, np.abs(a).max()))
        for k, a in found[0].items()
        if a.dtype.kind == "f" and a.size
    )


def main() -> int:
    """The command line."""
    known = list(runpy.run_path(str(runs.ROOT / "configs" / "digits.py"))["METHODS"])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(known))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    lines, bad = [], 0
    for method in args.methods.split(","):
        step = draw.randint(20, 50)  # the first save may take until then
        wrong, off = killed(method, args.folder, step), processes(method, args.folder)
        bad += bool(wrong) + (off > 1e-9)
        lines.append((method, step, wrong or "bitwise equal", f"{off:.1e}"))
        print(
            runs.table(("", "killed at step", "resumed", "two processes"), lines[-1:]), flush=True
        )
    print(runs.table(("method", "killed at step", "resumed", "two processes, relative"), lines))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
