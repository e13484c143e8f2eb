"""The loop around the train step. Evaluation, saving and writing are passed in as callables."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from byol_jax import log
from byol_jax.core import Step, TrainState
from byol_jax.faults import Damage, Diverged, Interrupted
from byol_jax.mesh import all_max, put_batch, put_steps
from byol_jax.processes import gather
from byol_jax.watch import RunMonitor

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """When the loop does what. Steps count from 1; 0 means never.

    collapse_threshold: warn if the features' std is below this share of 1/sqrt(d).
    steps_per_dispatch: at most, for a step made by `jit_steps`; 0: a step made by `jit_step`.
    what: name of the step in messages. quiet: no progress lines.
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
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls; each is optional.

    evaluate: (state, poll) -> metrics, at `evaluate_every`; it calls `poll` often, which raises an
    exception if the run must stop. save: (step, state, row); the row is stored with the checkpoint,
    in case the run is killed before it is written. write: (step, row). last_saved: the newest step
    on disk, for messages. damage: takes the indices of substituted examples.
    """

    evaluate: Callable[[TrainState, Callable[[], None]], Metrics] | None = None
    save: Callable[[int, TrainState, Metrics], None] | None = None
    write: Callable[[int, Metrics], None] | None = None
    last_saved: Callable[[], int | None] = lambda: None
    damage: Damage | None = None


class Program(NamedTuple):
    """What runs in the loop.

    step: compiled by `jit_step`, or by `jit_steps` (see `Options.steps_per_dispatch`).
    batches: this process's rows of the global batches, from `state.position` on.
    root_key: of the run; each step folds in its number.
    mesh: where batches are placed.
    """

    step: Step
    batches: Iterator[Mapping[str, np.ndarray]]
    root_key: Array
    mesh: Mesh


class _Pending(NamedTuple):
    """A dispatch of `steps` steps, the last of them `step`, whose results were not yet fetched."""

    step: int
    steps: int
    metrics: dict[str, Array]
    damaged: np.ndarray  # indices of this process's substituted examples
    of_all: Any  # (signal, number of damaged examples), the largest of any process


# The protocol. A dispatch takes one or several steps, and never crosses a boundary: a step that is
# saved or evaluated.
#
#     dispatch 1 | dispatch 2, check 1 | dispatch 3, check 2 | ... | dispatch n, check n-1 |
#         at a boundary:  check n, save n, evaluate n, write row n  |  dispatch n+1 | ...
#
# "Check" fetches the metrics of a dispatch while the devices are busy with the next one: they never
# wait for the host, except at a boundary, since only a step known to be finite is saved. With each
# dispatch the processes exchange, on the devices, what only one of them may know: a signal to stop,
# a damaged image. It is read with the metrics, one dispatch late, so that all processes act on it
# at the same step.
def fit(
    state: TrainState,
    program: Program,
    options: Options,
    hooks: Hooks | None = None,
    monitor: RunMonitor | None = None,
    owed: Metrics | None = None,
) -> TrainState:
    """Train from `state.step` to `options.total_steps`.

    Args:
      state: where to start; donated.
      program, options, hooks: what runs, when, and what is called.
      monitor: when its `stop` is set in any process, the loop saves and returns after that
        dispatch or, with several processes, the next one; the loop reports its activity to it.
      owed: the row of `state.step`, if it was saved but not written; it is written first.

    Returns:
      The last state.

    Raises:
      TrainingError: too many damaged images.
      Diverged: loss or gradient norm is not finite, or collapse is set to stop the run.
        Nothing is saved of that step; the error has the position in the data after it.
    """
    hooks, monitor = hooks or Hooks(), monitor or RunMonitor()
    first, position = int(state.step), int(state.position)
    book = _Book(options, hooks, monitor, program.mesh, first)
    if owed is not None and not book.write_owed(first, state, owed):
        return state
    feed = _feed(program, _dispatches(first, options, hooks), options.steps_per_dispatch)
    pending, step = None, first
    try:
        while step < options.total_steps:
            with monitor.doing("wait", "waiting for input"):
                batch, damaged, count = next(feed)
            begins, step = step == first, step + count
            monitor.profile.before(step - count + 1, count, state.step)
            with book.compiling() if begins else contextlib.nullcontext():
                state, metrics = program.step(state, batch, program.root_key)
                of_all = book.all_max([monitor.stop.signal, len(damaged)])
                if begins:
                    jax.block_until_ready(metrics)
            if begins:
                book.begin(step)
            if pending is not None:
                book.settle(pending)
            pending = _Pending(step, count, metrics, damaged, of_all)
            if book.at_boundary(step):
                if not book.finish(pending, state):
                    return state
                pending = None
        if pending is not None:
            book.settle(pending)
    except Diverged as error:
        error.position = position + (error.step - first) * options.batch_size
        raise
    finally:
        book.progress.close()
        monitor.profile.stop()
    return state


class _Book:
    """The bookkeeping of a run: checks the result of each dispatch, saves, evaluates, writes rows.

    stopping: whether a process was asked to stop, and all of them know.
    """

    def __init__(
        self, options: Options, hooks: Hooks, monitor: RunMonitor, mesh: Mesh, first: int
    ) -> None:
        self.options, self.hooks, self.monitor = options, hooks, monitor
        self.all_max = all_max(mesh)
        self.progress = log.Progress(
            options.total_steps, first, options.batch_size, plain=not options.quiet
        )
        self.spent, self.since_step = monitor.clock.read(), 0
        self.warned, self._stopping = False, False

    @property
    def stopping(self) -> bool:
        alone = jax.process_count() == 1
        return self._stopping or (alone and bool(self.monitor.stop.signal))

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """The first dispatch: its time is counted as compiling."""
        what = f"compiling {self.options.what}"
        with log.busy(what), self.monitor.doing("compile", what):
            yield
        self.monitor.clock.turn_to("step")

    def begin(self, step: int) -> None:
        """The first dispatch is done: from here on a signal must save before the run ends."""
        self.spent, self.since_step = self.monitor.clock.read(), step
        self.progress.start(step)
        self.monitor.stop.nothing_to_lose = False

    def at_boundary(self, step: int) -> bool:
        """Whether the loop must check this step before it continues."""
        return self._saving(step) or self._evaluating(step)

    def _saving(self, step: int) -> bool:
        last = step == self.options.total_steps
        return last or self.stopping or _due(step, self.options.checkpoint_every)

    def _evaluating(self, step: int) -> bool:
        last = step == self.options.total_steps
        due = last or _due(step, self.options.evaluate_every)
        return self.hooks.evaluate is not None and due

    def finish(self, pending: _Pending, state: TrainState) -> bool:
        """Check a step, save it, evaluate it and write its row; False if the run must stop."""
        step, saving = pending.step, self._saving(pending.step)
        values = self.check(pending)
        stopping = self.stopping  # read once: a signal may come at any moment
        if saving or stopping:
            self._save(step, state, values)
        if stopping:
            return False
        try:
            found = self._evaluate(step, state)
        except Interrupted:
            if not saving:
                self._save(step, state, values)
            return False
        self.write(step, values | found)
        return True

    def write_owed(self, step: int, state: TrainState, row: Metrics) -> bool:
        """Evaluate and write the row of a step saved by an earlier start; False: stop."""
        # The evaluation takes time that may be lost; `_asked` ends it in all processes at once.
        self.monitor.stop.nothing_to_lose = False
        try:
            found = self._evaluate(step, state)
        except Interrupted:
            return False
        self.write(step, row | found)
        return True

    def _asked(self) -> None:
        """Called often by an evaluation; ends it if any process was asked to stop."""
        stop = self.monitor.stop
        self.monitor.alive("evaluating")
        if number := int(np.asarray(self.all_max([stop.signal, 0]))[0]):
            stop.signal = stop.signal or number
            raise Interrupted

    def _evaluate(self, step: int, state: TrainState) -> Metrics:
        """The metrics of the evaluation due at a step; {} if none is due."""
        if self.hooks.evaluate is None or not self._evaluating(step):
            return {}
        with self.monitor.doing("evaluate", "evaluating"):
            return self.hooks.evaluate(state, self._asked)

    def _save(self, step: int, state: TrainState, row: Metrics) -> None:
        if self.hooks.save is not None:
            with self.monitor.doing("save", "saving"):
                self.hooks.save(step, state, row)

    def settle(self, pending: _Pending) -> None:
        """Check the steps of a dispatch, and write the row of the last of them if it is due."""
        self.write(pending.step, self.check(pending))

    def check(self, pending: _Pending) -> Metrics:
        """Fetch and check the metrics of the steps of a dispatch; returns the last step's."""
        found, (signal, damaged) = jax.device_get((pending.metrics, pending.of_all))
        found = {k: np.atleast_1d(v)[: pending.steps] for k, v in found.items()}
        if signal:
            self._stopping = True
            self.monitor.stop.signal = self.monitor.stop.signal or int(signal)
        self.monitor.alive("training")
        for i in range(pending.steps):
            values = {k: float(v[i]) for k, v in found.items()}
            self._check_finite(pending.step - pending.steps + 1 + i, values)
            self._check_collapse(pending.step - pending.steps + 1 + i, values)
        self.progress.update(pending.step, values["train/loss"])
        damage = self.hooks.damage
        if damage is not None:
            damage.add(gather(pending.damaged, damaged) if damaged else pending.damaged)
            values["data/damaged"] = len(damage.seen)
        return values

    def write(self, step: int, values: Metrics) -> None:
        """Write a row if it is due, or was evaluated."""
        due = _due(step, self.options.log_every) or step == self.options.total_steps
        evaluated = self.hooks.evaluate and _due(step, self.options.evaluate_every)
        if due or evaluated:
            if self.hooks.write is not None:
                self.hooks.write(step, values | self._timing(step))
            self.spent, self.since_step = self.monitor.clock.read(), step

    def _timing(self, step: int) -> Metrics:
        steps, most = step - self.since_step, max(self.options.steps_per_dispatch, 1)
        if steps <= 0 or not self.since_step:  # the first step of this start was spent compiling
            return {"time/steps_per_dispatch": most}
        now = self.monitor.clock.read()
        spent = {k: now[k] - self.spent[k] for k in ("step", "wait", "save")}
        seconds = max(sum(spent.values()), 1e-9)
        return {
            "time/images_per_s": steps * self.options.batch_size / seconds,
            "time/step_ms": 1000 * seconds / steps,
            "time/wait_share": spent["wait"] / seconds,
            "time/steps_per_dispatch": most,
        }

    def _check_finite(self, step: int, values: Metrics) -> None:
        bad = [k for k in ("train/loss", "train/grad_norm") if not math.isfinite(values[k])]
        if bad:
            saved = self.hooks.last_saved()
            good = f"the last good checkpoint is step {saved}" if saved else "nothing was saved yet"
            raise Diverged(
                f"Step {step}: {bad[0]} is {values[bad[0]]}; {good}. Lower optimizer.lr, lengthen "
                "optimizer.warmup_epochs, or look at the images of this step.",
                step,
            )

    def _check_collapse(self, step: int, values: Metrics) -> None:
        # The projections if there are any: the features of an untrained network are all positive
        # and close together without being collapsed.
        std = values.get("features/z_std", values.get("features/h_std", 1.0))
        if std >= self.options.collapse_threshold:
            self.warned = False
            return
        text = (
            f"COLLAPSE at step {step}: the features of different images differ by {std:.3f} of "
            f"1/sqrt(d), less than {self.options.collapse_threshold}. All images look alike to the "
            "encoder; check predictor, target and learning rate."
        )
        if self.options.collapse_stop:
            raise Diverged(text, step)
        if not self.warned:
            log.say(f"WARNING: {text}")
        self.warned = True


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _dispatches(first: int, options: Options, hooks: Hooks) -> Iterator[int]:
    """How many steps each dispatch takes, so that none goes past a row, a save or the end."""
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
    program: Program, counts: Iterator[int], most: int
) -> Iterator[tuple[dict[str, Array], np.ndarray, int]]:
    """Batches on the devices, one dispatch ahead, with the indices of substituted examples."""
    ahead = None
    for count in counts:
        some = list(itertools.islice(program.batches, count))
        damaged = [np.asarray(b["index"])[np.asarray(b["mask"]) == 0] for b in some]
        mesh = program.mesh
        placed = put_steps(some, most, mesh) if most else put_batch(some[0], mesh)
        now = (placed, np.concatenate(damaged), count)
        if ahead is not None:
            yield ahead
        ahead = now
    if ahead is not None:
        yield ahead
