"""What a run is doing, how far it is and how healthy, from the files in its folder alone."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from byol_jax.events import Event, goodput, read_events
from byol_jax.manifest import MANIFEST_FILE
from byol_jax.untrusted import read_lines

SILENT = 3.0
"""A run is called silent after this many times its longest silence so far; at least 60 s."""


def status(workdir: Path) -> str:
    """A page about a run: state, progress, metrics, checkpoints, goodput, and what is wrong.

    Args:
      workdir: folder of the run; nothing in it is changed.

    Raises:
      ValueError: the folder is not a run.
    """
    events = read_events(workdir)
    starts = [e for e in events if e["event"] == "start"]
    if not starts:
        raise ValueError(
            f"{workdir} has no events.jsonl with a start in it; give the folder of a run that has "
            "begun to train."
        )
    start, row = starts[-1], _last_row(workdir)
    step = max((e.get("step") or 0 for e in events[events.index(start) :]), default=0)
    lines = [
        f"run        {workdir}",
        f"state      {state(events, start)}",
        f"progress   {_progress(start, step, row)}",
        f"machine    {start.get('devices')} x {start.get('kind')}, {start.get('processes')} "
        f"process(es); process 0 is {start.get('pid')} on {start.get('host')}",
        f"saved      {checkpoints(workdir)}",
        f"metrics    {_metrics(row)}",
        f"time       {_time(events, len(starts))}",
    ]
    worries = _worries(workdir, events[events.index(start) :], row)
    return "\n".join([*lines, *(f"WARNING    {w}" for w in worries)])


def _last_row(workdir: Path) -> dict[str, Any]:
    return next((r for r in reversed(read_lines(workdir / "metrics.jsonl")) if "step" in r), {})


def state(events: list[Event], start: Event) -> str:
    """What a run is doing, or how it ended; `start` is the last of its starts."""
    last = events[-1]
    kind, ago = last["event"], max(time.time() - last["time"], 0.0)  # clocks are set back
    said = f"last heard of {duration(ago)} ago"
    if kind == "end":
        return f"complete since {duration(ago)}"
    if kind == "stop":
        return f"stopped by a signal {duration(ago)} ago; the same command resumes"
    if kind == "error":
        return f"ended by an error {duration(ago)} ago: {last.get('what')}"
    here = start.get("host") == socket.gethostname()
    if here and not _lives(start.get("pid")):
        return f"DEAD: its process is gone, {said}; the same command resumes"
    times = [e["time"] for e in events[events.index(start) :]]
    usual = max((b - a for a, b in itertools.pairwise(times)), default=60.0)
    if ago > max(SILENT * usual, 60.0):
        return f"SILENT: {said}, but {duration(usual)} was the longest so far"
    return f"running, {said}" if len(times) > 1 else f"starting, {said}"


def _lives(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _progress(start: Event, step: int, row: dict[str, Any]) -> str:
    total = int(start.get("total_steps", 0))
    text = f"step {step:,} of {total:,} ({100 * step / max(total, 1):.1f}%)"
    per_step = row.get("time/step_ms")
    if per_step and step < total:
        text += f", {duration((total - step) * per_step / 1000)} left at the present speed"
    return text


def checkpoints(workdir: Path) -> str:
    """The whole checkpoints of a run folder, the newest with its age."""
    folders = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    whole = sorted((int(p.name) for p in folders if (p / MANIFEST_FILE).exists()), reverse=True)
    if not whole:
        return "no checkpoint yet"
    age = time.time() - (workdir / "checkpoints" / str(whole[0]) / MANIFEST_FILE).stat().st_mtime
    rest = f"; also {', '.join(map(str, whole[1:]))}" if whole[1:] else ""
    return f"step {whole[0]:,}, {duration(age)} ago{rest}"


def _metrics(row: dict[str, Any]) -> str:
    names = ("train/loss", "features/z_std", "probe/train_top1", "knn/test_top1")
    shown = [f"{k} {row[k]:.4g}" for k in names if isinstance(row.get(k), int | float)]
    shown += [f"{k} not finite" for k in names if k in row and row[k] is None]
    if row.get("time/images_per_s"):
        shown.append(f"{row['time/images_per_s']:,.0f} images/s")
    return f"step {row['step']:,}: {', '.join(shown)}" if shown else "no row yet"


def _time(events: list[Event], starts: int) -> str:
    found = goodput(events)
    total = max(found["total"], 1e-9)
    parts = ("step", "wait", "save", "evaluate", "compile", "start", "lost")
    shares = ", ".join(f"{k} {100 * found[k] / total:.1f}%" for k in parts if found[k] > 0)
    return f"{duration(found['total'])} in {starts} start(s): {shares}"


def _worries(workdir: Path, events: list[Event], row: dict[str, Any]) -> list[str]:
    worries = [str(e.get("what")) for e in events if e["event"] in ("damaged", "diverged")]
    row = {k: v for k, v in row.items() if isinstance(v, int | float)}
    if row.get("data/damaged"):
        worries.append(f"{row['data/damaged']:.0f} images could not be read")
    if row.get("time/wait_share", 0) > 0.1:
        worries.append(
            f"{100 * row['time/wait_share']:.0f}% of the time is spent waiting for input"
        )
    if row.get("features/z_std", 1.0) < 0.1:
        worries.append(f"features/z_std is {row['features/z_std']:.3f}: the features collapse")
    stacks = [p for p in workdir.glob("stacks-*.txt") if p.stat().st_mtime > events[0]["time"]]
    worries += [f"{p.name}: a process hung" for p in sorted(stacks)]
    aside = sorted(p.name for p in (workdir / "checkpoints").glob("damaged-*"))
    return worries + [f"checkpoints/{name} was set aside" for name in aside]


def duration(seconds: float) -> str:
    """Seconds as H:MM:SS, with days where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}" if days else f"{hours}:{minutes:02d}:{seconds:02d}"
