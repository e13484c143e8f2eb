"""What the fault injections share: small runs of the train command, and how two compare."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from byol_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
STEPS = 120
SMALL = (
    *("--config", "configs/digits.py", "--config.epochs=12", "--config.encoder.width=0.25"),
    *("--config.log_every=5", "--config.checkpoint_every=10", "--config.evaluate_every=4"),
    *("--config.data.steps_per_dispatch=1", "--config.keep=3"),
)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(
    workdir: Path, *flags: str, devices: int = 1, program: Sequence[str] = ("-m", "byol_jax.train")
) -> subprocess.Popen[str]:
    """One process of a small run; what it says goes into WORKDIR.said."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    env |= {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with said_file(workdir).open("a") as said:
        return subprocess.Popen(
            [sys.executable, *program, *SMALL, "--workdir", str(workdir), *flags],
            cwd=ROOT,
            env=env,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        )


def start_two(workdir: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """The two processes of a run, of two CPU devices each."""
    group = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    group = (*group, "--heartbeat_seconds=10", *flags)
    return [start(workdir, *group, f"--process_id={i}", devices=2) for i in (0, 1)]


def said_file(workdir: Path) -> Path:
    """Where the processes of a run write what they say."""
    return workdir.with_name(workdir.name + ".said")


def said(workdir: Path) -> str:
    """All that the processes of a run have said."""
    path = said_file(workdir)
    return path.read_text(errors="replace") if path.exists() else ""


def wait_until(
    condition: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], limit: float = 300.0
) -> bool:
    """Wait for a condition; False where a process ended before."""
    end = time.monotonic() + limit
    while not condition():
        if any(p.poll() is not None for p in processes):
            return False
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.002)
    return True


def finish(processes: Sequence[subprocess.Popen[str]], limit: float = 300.0) -> list[int]:
    """The exit codes, when all have ended."""
    return [p.wait(limit) for p in processes]


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints there are."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def rows(workdir: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def difference(workdir: Path, other: Path, step: int = STEPS) -> str:
    """What differs between two complete runs, bit for bit; "" where nothing does."""
    found = []
    for folder in (workdir, other):
        saved = Checkpoints(folder)
        if saved.latest() != step:
            return f"{folder} ends at step {saved.latest()}"
        found.append(saved.arrays(step, ""))
        saved.close()
    ours, theirs = found
    if ours.keys() != theirs.keys():
        return "the arrays have other names"
    different = [k for k in ours if not np.array_equal(ours[k], theirs[k])]
    if different:
        return f"{len(different)} arrays differ, first {different[0]}"
    return "" if rows(workdir) == rows(other) else "the metrics differ"


def clear(workdir: Path) -> None:
    """Remove a run."""
    shutil.rmtree(workdir, ignore_errors=True)
    said_file(workdir).unlink(missing_ok=True)


def table(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table in markdown."""
    head = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return "\n".join(head + ["| " + " | ".join(map(str, line)) + " |" for line in lines])
