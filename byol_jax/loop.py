"""The loop around the train step. Evaluation, saving and writing are handed in as callables."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from byol_jax import log
from byol_jax.core import Step, TrainState
from byol_jax.mesh import put_batch, put_steps

Metrics = dict[str, float]


class TrainingError(RuntimeError):
    """The run cannot go on: it is not finite, collapsed, or its data are too damaged."""


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that the loop can save and leave at the next step."""

    def __init__(self) -> None:
        self.signal = 0

    @contextlib.contextmanager
    def listen(self) -> Iterator[Stop]:
        """Take over both signals; a second Ctrl-C interrupts at once."""

        def handle(number: int, _: Any) -> None:
            if self.signal:
                raise KeyboardInterrupt
            self.signal = number
            log.say(f"{signal.Signals(number).name}: saving after this step")

        before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Damage:
    """The distinct examples that could not be read, with their names in the log.

    Args:
      limit: how many may be damaged before the run stops.
      explain: index -> name and reason.
      seen: indices known from before a resume.
    """

    def __init__(self, limit: float, explain: Callable[[int], str], seen: Any = ()) -> None:
        self.limit, self.explain, self.seen = limit, explain, set(seen)

    def add(self, indices: np.ndarray) -> None:
        """Count substituted examples.

        Raises:
          TrainingError: more are damaged than the limit.
        """
        for index in indices.tolist():
            if index in self.seen:
                continue
            self.seen.add(index)
            log.say(f"damaged image {len(self.seen)}: {self.explain(index)} (substituted)")
        if len(self.seen) > self.limit:
            raise TrainingError(
                f"{len(self.seen)} images cannot be read, more than data.max_damaged allows "
                f"({self.limit:.0f}); their names are above. Repair or remove them, or raise "
                "data.max_damaged."
            )


@dataclasses.dataclass(frozen=True)
class Options:
    """When the loop does what. Steps count from 1; 0 is never.

    collapse_threshold: warn when features spread less than this share of 1/sqrt(d).
    steps_per_dispatch: at most, of a step function made by `jit_steps`; 0: one made by `jit_step`.
    """

    total_steps: int
    batch_size: int
    log_every: int = 50
    checkpoint_every: int = 0
    evaluate_every: int = 0
    collapse_threshold: float = 0.0
    collapse_stop: bool = False
    steps_per_dispatch: int = 0
    what: str = "the train step"


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls. Each may be left out.

    evaluate: state -> metrics, at `evaluate_every`. save: (step, state). write: (step, metrics).
    last_saved: the newest step on disk, for messages.
    """

    evaluate: Callable[[TrainState], Metrics] | None = None
    save: Callable[[int, TrainState], None] | None = None
    write: Callable[[int, Metrics], None] | None = None
    last_saved: Callable[[], int | None] = lambda: None


def fit(
    state: TrainState,
    step_fn: Step,
    batches: Iterator[Mapping[str, np.ndarray]],
    options: Options,
    *,
    root_key: Array,
    mesh: Mesh,
    hooks: Hooks | None = None,
    damage: Damage | None = None,
    stop: Stop | None = None,
    quiet: bool = False,
) -> TrainState:
    """Train from `state.step` to `options.total_steps`.

    The metrics of step N are fetched after step N + 1 was dispatched, so that the devices never
    wait for the host. At a save or an evaluation they are fetched first: a step is saved only when
    its own loss and gradient norm are known to be finite, and its row is on disk.

    Args:
      state: where to start; donated.
      step_fn: the compiled step, or steps (see `Options.steps_per_dispatch`).
      batches: this process's rows of the global batches, from `state.position` on.
      options, hooks: when to do what, and what.
      root_key: of the run; the step folds its number in.
      mesh: where batches go.
      damage: takes the indices of substituted examples.
      stop: when set, the loop saves and returns at the next step.
      quiet: no progress lines.

    Returns:
      The last state.

    Raises:
      TrainingError: loss or gradient norm is not finite; collapse, where that shall stop; too many
        damaged images. Nothing is saved of that step.
    """
    hooks = hooks or Hooks()
    first, total = int(state.step), options.total_steps
    if first >= total:
        return state
    progress = log.Progress(total, first, options.batch_size, plain=not quiet)
    row = _Row(options, hooks, progress)
    feed = _feed(batches, mesh, _dispatches(first, options, hooks), options.steps_per_dispatch)
    pending: tuple[int, int, dict[str, Array], Metrics] | None = None
    step = first
    try:
        while step < total:
            waiting = time.monotonic()
            batch, damaged, count = next(feed)
            begins, step = step == first, step + count
            row.waited += time.monotonic() - waiting
            if damage is not None:
                damage.add(damaged)
            with log.busy(f"compiling {options.what}") if begins else _silence():
                state, metrics = step_fn(state, batch, root_key)
                if begins:
                    jax.block_until_ready(metrics)
                    row.begin(step)
            if pending is not None:
                row.settle(*pending)
            # Counted now: when this row is written, the next batch has been read already.
            known: Metrics = {"data/damaged": len(damage.seen)} if damage else {}
            pending = (step, count, metrics, known)
            last = step == total
            stopping = stop is not None and stop.signal
            evaluating = hooks.evaluate is not None and (last or _due(step, options.evaluate_every))
            saving = last or stopping or _due(step, options.checkpoint_every)
            if saving or (evaluating and not stopping):
                # An evaluation asked for at this step belongs to it even when we are stopping.
                row.settle(*pending, evaluate=hooks.evaluate if evaluating else None, state=state)
                pending = None
            if saving and hooks.save is not None:
                hooks.save(step, state)
            if stopping:
                break
    finally:
        progress.close()
    return state


class _Row:
    """Turns the metrics of a step into a row, and checks them."""

    def __init__(self, options: Options, hooks: Hooks, progress: log.Progress) -> None:
        self.options, self.hooks, self.progress = options, hooks, progress
        self.waited, self.since, self.since_step = 0.0, time.monotonic(), 0
        self.warned = False

    def begin(self, step: int) -> None:
        """Start the clocks anew: what came before was compiling."""
        self.waited, self.since, self.since_step = 0.0, time.monotonic(), step
        self.progress.start(step)

    def settle(
        self,
        step: int,
        count: int,
        metrics: dict[str, Array],
        known: Metrics,
        evaluate: Callable[[TrainState], Metrics] | None = None,
        state: TrainState | None = None,
    ) -> None:
        """Fetch the metrics of the `count` steps up to `step`, check them, evaluate if asked, and
        write the row of `step` if due."""
        found = {k: np.atleast_1d(v)[:count] for k, v in jax.device_get(metrics).items()}
        for i in range(count):
            values = {k: float(v[i]) for k, v in found.items()}
            self._check_finite(step - count + 1 + i, values)
            self._check_collapse(step - count + 1 + i, values)
        self.progress.update(step, values["train/loss"])
        timing = self._timing(step)
        if evaluate is not None and state is not None:
            start = time.monotonic()
            values |= evaluate(state)
            self.since += time.monotonic() - start
        due = _due(step, self.options.log_every) or step == self.options.total_steps
        if due or evaluate is not None:
            if self.hooks.write is not None:
                self.hooks.write(step, values | known | timing)
            self.waited, self.since, self.since_step = 0.0, time.monotonic(), step

    def _timing(self, step: int) -> Metrics:
        steps, most = step - self.since_step, max(self.options.steps_per_dispatch, 1)
        if steps <= 0:  # the first step of this start was the compiler's
            return {"time/steps_per_dispatch": most}
        seconds = max(time.monotonic() - self.since, 1e-9)
        return {
            "time/images_per_s": steps * self.options.batch_size / seconds,
            "time/step_ms": 1000 * seconds / steps,
            "time/wait_share": self.waited / seconds,
            "time/steps_per_dispatch": most,
        }

    def _check_finite(self, step: int, values: Metrics) -> None:
        bad = [k for k in ("train/loss", "train/grad_norm") if not math.isfinite(values[k])]
        if bad:
            saved = self.hooks.last_saved()
            good = f"the last good checkpoint is step {saved}" if saved else "nothing was saved yet"
            raise TrainingError(
                f"Step {step}: {bad[0]} is {values[bad[0]]}; {good}. Lower optimizer.lr, lengthen "
                "optimizer.warmup_epochs, or look at the images of this step."
            )

    def _check_collapse(self, step: int, values: Metrics) -> None:
        # The projections where there are any: features of a network that has just begun are all
        # positive and lie close together without being collapsed.
        spread = values.get("features/z_std", values.get("features/h_std", 1.0))
        if spread >= self.options.collapse_threshold:
            self.warned = False
            return
        text = (
            f"COLLAPSE at step {step}: the features of different images differ by {spread:.3f} of "
            f"1/sqrt(d), less than {self.options.collapse_threshold}. All images look alike to the "
            "encoder; check predictor, target and learning rate."
        )
        if self.options.collapse_stop:
            raise TrainingError(text)
        if not self.warned:
            log.say(f"WARNING: {text}")
        self.warned = True


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    yield


def _dispatches(first: int, options: Options, hooks: Hooks) -> Iterator[int]:
    """How many steps each dispatch takes, so that none goes on past a row, a save or an end."""
    every = [options.log_every, options.checkpoint_every]
    if hooks.evaluate is not None:
        every.append(options.evaluate_every)
    step = first
    while step < options.total_steps:
        ends = [step - step % n + n for n in every if n > 0]
        end = min(*ends, options.total_steps, step + max(options.steps_per_dispatch, 1))
        yield end - step
        step = end


def _feed(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh, counts: Iterator[int], most: int
) -> Iterator[tuple[dict[str, Array], np.ndarray, int]]:
    """Batches on the devices, one dispatch ahead, with the indices of substituted examples."""
    ahead = None
    for count in counts:
        some = list(itertools.islice(batches, count))
        damaged = [np.asarray(b["index"])[np.asarray(b["mask"]) == 0] for b in some]
        placed = put_steps(some, most, mesh) if most else put_batch(some[0], mesh)
        now = (placed, np.concatenate(damaged), count)
        if ahead is not None:
            yield ahead
        ahead = now
    if ahead is not None:
        yield ahead
