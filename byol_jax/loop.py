"""The loop around the train step. Evaluation, saving and writing are handed in as callables."""

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
from byol_jax.mesh import agreement, put_batch, put_steps
from byol_jax.processes import gather, main_process
from byol_jax.watch import Upkeep

Metrics = dict[str, float]

NAMED = 200
"""Damaged images that are named in the log of a run."""


class TrainingError(RuntimeError):
    """The run cannot go on: it is not finite, collapsed, or its data are too damaged."""


class Diverged(TrainingError):
    """Loss or gradient norm is not finite, or the features collapsed, at `step`.

    position: of the data order after that step.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step, self.position = step, 0


class Interrupted(Exception):
    """An evaluation was left, since the run shall stop."""


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
        """Count substituted examples, those of all processes.

        Raises:
          TrainingError: more are damaged than the limit.
        """
        for index in indices.tolist():
            if index in self.seen:
                continue
            self.seen.add(index)
            if main_process() and len(self.seen) <= NAMED:
                log.say(f"damaged image {len(self.seen)}: {self.explain(index)} (substituted)")
            elif len(self.seen) == NAMED + 1:
                log.say("more damaged images are counted in data/damaged, and not named")
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

    evaluate: (state, poll) -> metrics, at `evaluate_every`; it calls `poll` often, which ends it by
    an exception where the run shall stop. save: (step, state, row): the row belongs to the
    checkpoint, for a run that is killed before it has written it. write: (step, row).
    last_saved: the newest step on disk, for messages.
    """

    evaluate: Callable[[TrainState, Callable[[], None]], Metrics] | None = None
    save: Callable[[int, TrainState, Metrics], None] | None = None
    write: Callable[[int, Metrics], None] | None = None
    last_saved: Callable[[], int | None] = lambda: None


class _Pending(NamedTuple):
    """A dispatch whose results have not been fetched: its `steps` steps end with `step`."""

    step: int
    steps: int
    metrics: dict[str, Array]
    damaged: np.ndarray  # indices of this process's substituted examples
    agreed: Any  # (signal, damaged), the largest of any process


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
    upkeep: Upkeep | None = None,
    owed: Metrics | None = None,
    quiet: bool = False,
) -> TrainState:
    """Train from `state.step` to `options.total_steps`.

    The metrics of step N are fetched after step N + 1 was dispatched, so that the devices never
    wait for the host. At a save or an evaluation they are fetched first: a step is saved only when
    its own loss and gradient norm are known to be finite. Its row goes with it, and is written
    after the evaluation that belongs to it.

    Args:
      state: where to start; donated.
      step_fn: the compiled step, or steps (see `Options.steps_per_dispatch`).
      batches: this process's rows of the global batches, from `state.position` on.
      options, hooks: when to do what, and what.
      root_key: of the run; the step folds its number in.
      mesh: where batches go.
      damage: takes the indices of substituted examples.
      upkeep: when its `stop` is set, in any process, the loop saves and returns after that dispatch
        or, with several processes, the next; it is told what the loop is doing.
      owed: the row of `state.step`, where it was saved but not written; it is written first.
      quiet: no progress lines.

    Returns:
      The last state.

    Raises:
      TrainingError: too many damaged images.
      Diverged: loss or gradient norm is not finite; collapse, where that shall stop. Nothing is
        saved of that step; the error knows the place in the data after it.
    """
    hooks, upkeep = hooks or Hooks(), upkeep or Upkeep()
    first, position, total = int(state.step), int(state.position), options.total_steps
    step, stop, agree = first, upkeep.stop, agreement(mesh)
    progress = log.Progress(total, first, options.batch_size, plain=not quiet)
    row = _Row(options, hooks, progress, upkeep, damage)

    def asked() -> None:
        upkeep.alive("evaluating")
        if number := int(np.asarray(agree([stop.signal, 0]))[0]):
            stop.signal = stop.signal or number
            raise Interrupted

    if owed is not None:
        stop.nothing_to_lose = False  # the time that the evaluation takes; all heed `asked` alike
        try:
            found = _evaluation(hooks, options, state, step, asked, upkeep)
        except Interrupted:
            return state
        row.write(step, owed | found)
    feed = _feed(batches, mesh, _dispatches(first, options, hooks), options.steps_per_dispatch)
    pending: _Pending | None = None
    try:
        while step < total:
            with upkeep.doing("wait", "waiting for input"):
                batch, damaged, count = next(feed)
            begins, step = step == first, step + count
            upkeep.profile.before(step - count + 1, count, state.step)
            with _compiling(options.what, upkeep) if begins else contextlib.nullcontext():
                state, metrics = step_fn(state, batch, root_key)
                agreed = agree([stop.signal, len(damaged)])
                if begins:
                    jax.block_until_ready(metrics)
            if begins:
                row.begin(step)
                stop.nothing_to_lose = False
            if pending is not None:
                row.settle(pending)
            pending = _Pending(step, count, metrics, damaged, agreed)
            last = step == total
            evaluating = hooks.evaluate is not None and (last or _due(step, options.evaluate_every))
            saving = last or row.stopping or _due(step, options.checkpoint_every)
            if saving or evaluating:
                values = row.check(pending)
                pending = None
                stopping = row.stopping  # once: a signal may come at any moment
                if saving or stopping:
                    _save(hooks, step, state, values, upkeep)
                if stopping:
                    break
                try:
                    found = _evaluation(hooks, options, state, step, asked, upkeep)
                except Interrupted:
                    if not saving:
                        _save(hooks, step, state, values, upkeep)
                    break
                row.write(step, values | found)
        if pending is not None:
            row.settle(pending)
    except Diverged as error:
        error.position = position + (error.step - first) * options.batch_size
        raise
    finally:
        progress.close()
        upkeep.profile.stop()
    return state


def _save(hooks: Hooks, step: int, state: TrainState, row: Metrics, upkeep: Upkeep) -> None:
    if hooks.save is not None:
        with upkeep.doing("save", "saving"):
            hooks.save(step, state, row)


def _evaluation(
    hooks: Hooks,
    options: Options,
    state: TrainState,
    step: int,
    poll: Callable[[], None],
    upkeep: Upkeep,
) -> Metrics:
    """The metrics of the evaluation that is due at a step; {} where none is."""
    due = step == options.total_steps or _due(step, options.evaluate_every)
    if hooks.evaluate is None or not due:
        return {}
    with upkeep.doing("evaluate", "evaluating"):
        return hooks.evaluate(state, poll)


@contextlib.contextmanager
def _compiling(what: str, upkeep: Upkeep) -> Iterator[None]:
    with log.busy(f"compiling {what}"), upkeep.doing("compile", f"compiling {what}"):
        yield
    upkeep.clock.turn_to("step")


class _Row:
    """Turns the metrics of a step into a row, and checks them.

    stopping: whether a process was asked to stop, as far as all of them know.
    """

    def __init__(
        self,
        options: Options,
        hooks: Hooks,
        progress: log.Progress,
        upkeep: Upkeep,
        damage: Damage | None,
    ) -> None:
        self.options, self.hooks, self.progress = options, hooks, progress
        self.upkeep, self.damage = upkeep, damage
        self.spent, self.since_step = upkeep.clock.read(), 0
        self.warned, self._stopping = False, False

    @property
    def stopping(self) -> bool:
        alone = jax.process_count() == 1
        return self._stopping or (alone and bool(self.upkeep.stop.signal))

    def begin(self, step: int) -> None:
        """Start the clocks anew: what came before was compiling."""
        self.spent, self.since_step = self.upkeep.clock.read(), step
        self.progress.start(step)

    def settle(self, pending: _Pending) -> None:
        """Check the steps of a dispatch, and write the row of the last of them if it is due."""
        self.write(pending.step, self.check(pending))

    def check(self, pending: _Pending) -> Metrics:
        """Fetch the metrics of the steps of a dispatch and check them; gives the last step's."""
        found, agreed = jax.device_get((pending.metrics, pending.agreed))
        found = {k: np.atleast_1d(v)[: pending.steps] for k, v in found.items()}
        if agreed[0]:
            self._stopping = True
            self.upkeep.stop.signal = self.upkeep.stop.signal or int(agreed[0])
        self.upkeep.alive("training")
        for i in range(pending.steps):
            values = {k: float(v[i]) for k, v in found.items()}
            self._check_finite(pending.step - pending.steps + 1 + i, values)
            self._check_collapse(pending.step - pending.steps + 1 + i, values)
        self.progress.update(pending.step, values["train/loss"])
        if self.damage is not None:
            self.damage.add(gather(pending.damaged, agreed[1]) if agreed[1] else pending.damaged)
            values["data/damaged"] = len(self.damage.seen)
        return values

    def write(self, step: int, values: Metrics) -> None:
        """Write a row if it is due, or was evaluated."""
        due = _due(step, self.options.log_every) or step == self.options.total_steps
        evaluated = self.hooks.evaluate and _due(step, self.options.evaluate_every)
        if due or evaluated:
            if self.hooks.write is not None:
                self.hooks.write(step, values | self._timing(step))
            self.spent, self.since_step = self.upkeep.clock.read(), step

    def _timing(self, step: int) -> Metrics:
        steps, most = step - self.since_step, max(self.options.steps_per_dispatch, 1)
        if steps <= 0 or not self.since_step:  # the first step of this start was the compiler's
            return {"time/steps_per_dispatch": most}
        now = self.upkeep.clock.read()
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
            raise Diverged(text, step)
        if not self.warned:
            log.say(f"WARNING: {text}")
        self.warned = True


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
