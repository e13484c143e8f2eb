"""Measure by ratio: candidates take turns, so that each round compares like with like."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Rate:
    """Work done per second, over all rounds.

    median, low, high: per second of wall time. cpu: median per second of CPU time (all threads).
    ratio: median over the rounds of this rate divided by the first candidate's in the same round.
    """

    median: float
    low: float
    high: float
    cpu: float
    ratio: float


def rates(
    candidates: Mapping[str, Callable[[], int]], rounds: int, seconds: float, settle: int = 1
) -> dict[str, Rate]:
    """Run the candidates in turn.

    Args:
      candidates: name -> function that does a piece of work and returns how much.
      rounds: at least 5 for a figure that is quoted.
      seconds: length of each candidate's turn.
      settle: pieces of work before the clock of a turn starts, to use up what a pipeline prefetched
        during other turns, and to let the others' buffers fill again.
    """
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, work in candidates.items():
            for _ in range(settle):
                work()
            done, start, cpu_start = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - start < seconds:
                done += work()
            wall[name].append(done / (time.perf_counter() - start))
            cpu[name].append(done / max(time.process_time() - cpu_start, 1e-9))
    first = next(iter(candidates))
    return {
        name: Rate(
            statistics.median(wall[name]),
            min(wall[name]),
            max(wall[name]),
            statistics.median(cpu[name]),
            statistics.median(a / b for a, b in zip(wall[name], wall[first], strict=True)),
        )
        for name in candidates
    }


def table(title: str, unit: str, found: Mapping[str, Rate]) -> str:
    """The rates as text, one line per candidate."""
    width = max(len(name) for name in found)
    lines = [
        title,
        f"{'':{width}}  {unit:>12}  {'low':>9}  {'high':>9}  {'per CPU-s':>9}  {'ratio':>6}",
    ]
    for name, r in found.items():
        lines.append(
            f"{name:{width}}  {r.median:12,.1f}  {r.low:9,.1f}  {r.high:9,.1f}  {r.cpu:9,.1f}"
            f"  {r.ratio:6.3f}"
        )
    return "\n".join(lines)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were measured with."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip()


def plain(value: Any) -> Any:
    """A result as a JSON-serialisable value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write results atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(plain(results), indent=2) + "\n")
    temporary.replace(path)
