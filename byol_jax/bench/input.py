"""Input rates of this machine: decoding, cropping, and full augmentation, by number of cores."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax.bench.measure import Rate, cores, rates, table
from byol_jax.data.pipeline import cuts, eval_batches, train_batches
from byol_jax.data.source import Source
from byol_jax.experiment.build import Experiment

ROWS = 32
"""Images per batch: enough to hide the cost of a call, few enough to alternate often."""


@contextlib.contextmanager
def only(count: int) -> Iterator[None]:
    """Pin this thread, and those it starts, to `count` cores (on Linux; no effect elsewhere)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(e: Experiment, rounds: int, seconds: float) -> tuple[str, dict[str, Any]]:
    """Measure the input pipelines for a run's data, on one core and on all.

    Returns:
      (tables as text, {"by_cores": {"1": {name: Rate}, ...}, "memory_mib", "memory_before_mib"}).
      Rates are images per second; a training image counts once for all its views.
    """
    most = cores()
    text, found = [], {}
    before = _memory()
    for n in sorted({1, most}):
        with only(n):
            candidates = _candidates(e, n)
            found[str(n)] = rates(candidates, rounds, seconds, settle=6)
        groups = [f"{len(views)} views of {views[0].size} px" for views in e.recipe.values()]
        what = f"{e.source.name}, {' and '.join(groups)}, {n} of {most} cores"
        text.append(table(what, "images/s", found[str(n)]))
    memory = {"memory_before_mib": before / 2**20, "memory_mib": _memory() / 2**20}
    text.append(
        f"memory of this process: {memory['memory_mib']:.0f} MiB with all these pipelines, "
        f"{memory['memory_before_mib']:.0f} MiB before"
    )
    return "\n\n".join(text), {"by_cores": found, **memory}


def advice(found: dict[str, Any], target_rate: float, have: int) -> str:
    """Advice: which placement can feed a step of `target_rate` images/s, with how many cores.

    Args:
      found: result of `run`.
      target_rate: images per second that the step needs.
      have: cores of this machine.
    """
    one: dict[str, Rate] = found["by_cores"]["1"]
    lines = [f"the step needs {target_rate:,.0f} images/s; this machine has {have} cores"]
    for name in ("views.placement=host", "views.placement=device"):
        if name in one:
            need = target_rate / one[name].median
            verdict = "enough" if need <= have else "NOT enough: the step will wait"
            lines.append(f"{name}: needs {need:.1f} cores of this kind, {verdict}")
    lines.append("data.placement=resident needs none, if the images fit on the device")
    return "\n".join(lines)


def _candidates(e: Experiment, threads: int) -> dict[str, Callable[[], int]]:
    run: dict[str, Any] = {"batch_size": min(ROWS, e.source.num_examples), "seed": 0}
    run["threads"] = threads
    feeds: dict[str, Iterator[Any]] = {}
    if cuts(e.source):
        feeds["raw decode"] = raw_decode(e.source, threads)
    host = train_batches(e.source, e.recipe, **run)
    feeds["views.placement=device"] = train_batches(e.source, e.recipe, on_device=True, **run)
    feeds["views.placement=host"] = host
    found = {name: pull(feed) for name, feed in feeds.items()}
    found["evaluation"] = pull(_passes(e))
    return found


def pull(feed: Iterator[Any]) -> Callable[[], int]:
    """Returns a function that reads a batch and returns its number of images."""

    def work() -> int:
        batch = next(feed)
        return len(batch["index"])

    return work


def _passes(e: Experiment) -> Iterator[Any]:
    source = e.source
    if not source.is_stream:  # few images many times, as one pass, because starting a pass is slow
        source = source.take(np.arange(max(source.num_examples, 20_000)) % source.num_examples)
    while True:
        yield from eval_batches(source, e.eval_spec, batch_size=ROWS)


def raw_decode(source: Source, threads: int) -> Iterator[Any]:
    """Decode whole images and nothing else: the upper limit of any pipeline."""
    from byol_jax.data import stream  # imports TensorFlow

    data = stream.decoded_only(source, min(source.num_examples, 1024), threads)
    return stream.finish(data, ROWS, threads).as_numpy_iterator()


def _memory() -> int:
    """Resident memory of this process, bytes."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
