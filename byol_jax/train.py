"""Pre-train an encoder. Running the same command again resumes.

python -m byol_jax.train --config configs/NAME.py --workdir DIR [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

import byol_jax
from byol_jax import cli, log, mesh, processes
from byol_jax.checkpoint import Checkpoints, any_saved
from byol_jax.config import difference, flatten, resolve
from byol_jax.config_file import load_config, save_config
from byol_jax.core import TrainState
from byol_jax.data.source import counted
from byol_jax.events import EventLog
from byol_jax.experiment.build import (
    Experiment,
    batch_shapes,
    build,
    build_damage,
    build_options,
)
from byol_jax.experiment.evaluation import build_evaluation
from byol_jax.experiment.feed import build_feed, build_step, view_renderer
from byol_jax.experiment.pictures import build_pictures
from byol_jax.experiment.questions import with_questions
from byol_jax.faults import Damage, Diverged, TrainingError
from byol_jax.loop import Hooks, Program, fit
from byol_jax.report.status import status
from byol_jax.report.views import EXAMPLES, draw_views, with_pictures
from byol_jax.run_folder import check_data, encoder_location, keep_compiled, same_precision
from byol_jax.run_lock import only_one
from byol_jax.train_step import start_of
from byol_jax.untrusted import read_lines
from byol_jax.watch import Profile, RunMonitor, Stop, Watchdog
from byol_jax.writing import check_writable


def check_resume(config: ConfigDict, workdir: Path) -> None:
    """Refuse to continue a run with another config.

    Raises:
      ValueError: names the keys that differ, with the run's value and the requested one.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    before = flatten(resolve(load_config(path)))
    lines = difference(before, json.loads(json.dumps(flatten(config))))
    if lines:
        changed = "; ".join(line.strip() for line in lines)
        raise ValueError(
            f"{workdir} was started with another config ({changed}). Use the old values to "
            "resume it, or another --workdir for a new run."
        )


def _lacks_huge_pages() -> bool:
    """Whether glibc could give this process pages of 2 MB, and was not told to."""
    libc, version = platform.libc_ver()
    allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return (
        libc == "glibc"
        and [int(n) for n in version.split(".") if n.isdecimal()] >= [2, 35]
        and "hugetlb" not in os.environ.get("GLIBC_TUNABLES", "")
        and allowed.is_file()
        and "[never]" not in allowed.read_text()
    )


def describe(e: Experiment, state: TrainState, workdir: Path | None) -> None:
    """Log what will be trained, and write an overview of its parameters into a folder."""
    from clu import parameter_overview

    count = sum(x.size for x in jax.tree.leaves(state.params))
    weights, _ = e.method.encoder(state.params, state.extra)
    encoder = sum(x.size for x in jax.tree.leaves(weights))
    devices, fsdp = e.mesh.devices, e.mesh.shape["fsdp"]
    log.say(
        f"{e.info.method} of {e.encoder.config['name']} ({encoder:,} parameters, {count:,} "
        f"trained) on {counted(e.source.num_examples, 'image')} of {e.info.source}, batch "
        f"{e.config.batch_size}, {counted(e.facts.steps, 'step')}, "
        f"{devices.size} x {devices.flat[0].device_kind}"
        + (f" in {jax.process_count()} processes" if jax.process_count() > 1 else "")
        + (f", {fsdp} share a copy of the state" if fsdp > 1 else "")
    )
    if devices.flat[0].platform == "cpu" and e.config.encoder.dtype == "bfloat16":
        log.say("on a CPU bfloat16 is no faster than --config.encoder.dtype=float32")
    if devices.flat[0].platform == "cpu" and _lacks_huge_pages():
        log.say(
            "hint: GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command can save 15 to 30% of "
            "the CPU time (docs/benchmarks.md)"
        )
    warmup, epochs = e.config.optimizer.warmup_epochs, e.config.epochs
    if warmup >= epochs:
        log.say(
            f"WARNING: optimizer.warmup_epochs is {warmup:g} and epochs is {epochs}: the learning "
            "rate rises to the end, and never falls; shorten the warm-up or train longer"
        )
    if workdir is None:
        return
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(overview + "\n")


class Run:
    """One start of a run: what is in its folder, and everything built for it.

    Args:
      config: resolved.
      workdir: folder of the run, visible to all processes.
      monitor: of this process.
    """

    def __init__(self, config: ConfigDict, workdir: Path, monitor: RunMonitor) -> None:
        self.monitor, self.workdir = monitor, workdir
        self.main = processes.main_process()
        fixed = {k: v for k, v in flatten(config).items() if k not in ("data.dir", "data.threads")}
        processes.check_same("The config", fixed)
        with log.busy("opening the data"), monitor.doing("start", "opening the data"):
            self.e = build(config, resumed=any_saved(workdir))
            self.evaluate = with_pictures(
                with_questions(self.e, build_evaluation(self.e)),
                build_pictures(self.e),
                self.e.eval_spec,
                workdir / "pictures" if self.main else None,
            )
        self.data = self.e.source.fingerprint()
        shown = self.data | {"classes": self.e.source.classes}
        processes.check_same("The data", self.data, shown)
        if self.main:
            save_config(config, workdir / "config.json")
        self.init_key, self.step_key = jax.random.split(jax.random.key(config.seed))
        self.saved = Checkpoints(workdir, config.keep, config.keep_every, clear=True)
        self.events = EventLog(workdir if self.main else None)
        self.feed = build_feed(self.e)
        with monitor.doing("start", "putting the data on the devices"):
            self.constants = self.feed.load()
        self.step = build_step(self.e, self.feed, self.constants)
        self.complete, self.rollbacks = False, 0

    def go_on(self, skip_to: int = 0) -> None:
        """Train from the newest good checkpoint, or from scratch, to the end or a stop.

        Args:
          skip_to: position in the data order to continue from after a rollback; 0: that of the
            checkpoint.

        Raises:
          ValueError: no checkpoint is good, or they are of another config.
          Diverged: see `fit`.
        """
        e, saved = self.e, self.saved
        start = (e.method, e.optimizer, self.init_key, batch_shapes(e), e.mesh)
        with self.monitor.doing("start", "reading checkpoints"):
            last = self._newest()
            like, make = start_of(*start)
            saved.check_room(like)
            meta = {} if last is None else saved.meta(last)
            if last is not None:
                check_data(self.workdir, meta | {"step": last}, self.data, e.facts.steps)
                state = saved.restore(last, like, jax.tree.map(lambda x: x.sharding, like))
                log.say(f"resumed from step {last}")
        if last is None:
            with log.busy("initialising"), self.monitor.doing("start", "initialising"):
                state = make()
        self.rollbacks = max(self.rollbacks, meta.get("rollbacks", 0))
        if skip_to:
            state = self._moved(state, skip_to)
            self.events.add("rollback", step=int(state.step), position=int(state.position))
        else:
            describe(e, state, self.workdir if self.main else None)
            self._say_start(state)
        batches: Iterator[Mapping[str, np.ndarray]] = self.feed.batches(int(state.position))
        if last is None and not skip_to and self.main:
            render = view_renderer(self.feed, self.constants, self.step_key, EXAMPLES)
            picture = self.workdir / "views.png"
            batches = draw_views(batches, render, e.source, e.eval_spec, picture)
        damage = build_damage(e, meta.get("damaged", []))
        writer = log.MetricsWriter(self.workdir if self.main else None, last or 0)
        owed = meta.get("row") if processes.from_main(writer.last) != (last or 0) else None
        try:
            root_key = mesh.place(self.step_key, mesh.replicated(e.mesh))
            fit(
                state,
                Program(self.step, batches, root_key, e.mesh),
                build_options(e, self.feed.steps_per_dispatch),
                self._hooks(state, writer, damage),
                self.monitor,
                owed,
            )
        finally:
            writer.close()
        self.complete = processes.from_main(writer.last) == e.facts.steps
        saved.wait()

    def _newest(self) -> int | None:
        last, wrong = self.saved.newest_good(set_aside=True)
        for problem in wrong:
            log.say(f"WARNING: {problem}" + ("; set aside as damaged-STEP" if last else ""))
            self.events.add("damaged", what=problem)
        if wrong and last is None:
            raise ValueError(
                f"No checkpoint in {self.workdir} is good: {wrong[0]}. Restore the files of one, "
                "or start a new run in another folder."
            )
        return last

    def _moved(self, state: TrainState, position: int) -> TrainState:
        """The state moved to another position in the data order."""
        left = (self.e.facts.steps - int(state.step)) * self.e.config.batch_size
        if position + left >= 2**31:
            raise TrainingError("So much data was skipped that the run would pass 2**31 examples.")
        moved = mesh.place(np.int32(position), state.position.sharding)
        return dataclasses.replace(state, position=moved)

    def _say_start(self, state: TrainState) -> None:
        self.events.add(
            "start",
            step=int(state.step),
            total_steps=self.e.facts.steps,
            batch_size=self.e.config.batch_size,
            devices=self.e.mesh.devices.size,
            kind=self.e.mesh.devices.flat[0].device_kind,
            processes=jax.process_count(),
            host=socket.gethostname(),
            pid=os.getpid(),
            rollbacks=self.rollbacks,
            versions={"python": platform.python_version(), "jax": jax.__version__}
            | {"byol_jax": byol_jax.__version__},
            began=round(self.monitor.clock.began, 3),
        )

    def mark(self, step: int) -> None:
        """Record where the time went up to a step."""
        self.events.add("progress", step=step, spent=self.monitor.clock.read())

    def _hooks(self, state: TrainState, writer: log.MetricsWriter, damage: Damage) -> Hooks:
        location = encoder_location(self.e.method, state.params, state.extra)

        def save(step: int, state: TrainState, row: dict[str, float]) -> None:
            self.mark(step)
            info = dataclasses.asdict(dataclasses.replace(self.e.info, step=step))
            seen = sorted(damage.seen)
            meta: dict[str, Any] = {"encoder": info, "location": location}
            meta |= {"damaged": seen, "row": row}
            meta |= {"data": self.data, "total_steps": self.e.facts.steps}
            self.saved.save(step, state, meta | {"rollbacks": self.rollbacks})
            self.events.add("save", step=step)

        def write(step: int, row: dict[str, float]) -> None:
            self.mark(step)
            found = {k: round(v, 3) for k, v in self.events.goodput.read().items()}
            share = {"time/goodput": found.pop("goodput")}
            writer.write(step, row | share | {f"time/{k}_s": v for k, v in found.items()})

        return Hooks(self.evaluate, save, write, self.saved.latest, damage)

    def close(self) -> None:
        """Wait for pending saves."""
        try:
            self.saved.close()
        finally:
            self.events.close()


class Trained(NamedTuple):
    """How a start of a run ended.

    code: 0: the run is complete; 128 + the signal's number: it was stopped by SIGTERM or Ctrl-C and
    saved, and the same call resumes it. step: the newest saved. metrics: the newest row.
    """

    code: int
    step: int
    metrics: dict[str, Any]


def train(
    config: ConfigDict, workdir: str | Path, profile: str = "", *, own_process: bool = False
) -> Trained:
    """Train a config in a run folder, or resume the run there.

    It can be called from a notebook, from a thread, and several times in one process.

    Args:
      config: complete.
      workdir: folder of the run; with several processes, visible to all of them.
      profile: "FIRST:LAST" steps to trace.
      own_process: whether the process belongs to the run, as the command's does. A signal before
        the first step, or a silence of `hang_seconds`, then ends it. Otherwise the signal is raised
        as an exception, and the silence only logged, with the stacks of all threads.

    Raises:
      ValueError, TrainingError, OSError: see `build`, `fit`, `RunLock` and `Checkpoints`.
    """
    config, workdir = resolve(config), Path(workdir).expanduser()
    check_resume(config, workdir)
    keep_compiled(workdir)
    processes.check_devices()
    main = processes.main_process()
    watchdog = Watchdog(config.hang_seconds, workdir, jax.process_index(), ends=own_process)
    window = Profile(workdir if main else None, profile)
    stop = Stop(own_process)
    with only_one(workdir), same_precision(), stop.listen(), watchdog.watch():
        if main:
            check_writable(workdir / "config.json", "--workdir")
        run = Run(config, workdir, RunMonitor(stop, None, watchdog, window))
        try:
            _train(run)
        except BaseException as error:
            _failed(run, error, own_process)
            raise
        last = run.saved.latest()
        run.events.add("end" if run.complete else "stop", step=last)
        run.close()
        code = _farewell(run, stop)
    rows = read_lines(workdir / "metrics.jsonl") if main else []
    return Trained(code, last or 0, rows[-1] if rows else {})


def _failed(run: Run, error: BaseException, own_process: bool) -> None:
    """Note what ended a run, and end its threads where that does not keep others waiting."""
    if own_process and not isinstance(error, Exception):
        return  # interrupted a second time: leave at once
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    with contextlib.suppress(OSError):  # the disk may be full
        run.events.add("error", what=reason)
    # All processes raise a TrainingError together; with any other error, do not wait.
    if jax.process_count() == 1 or isinstance(error, TrainingError):
        run.close()


def _train(run: Run) -> None:
    """Continue a run; if it diverges, roll back and skip the data that caused it."""
    skip_to, most = 0, run.e.config.rollbacks
    while True:
        try:
            return run.go_on(skip_to)
        except Diverged as error:
            run.mark(error.step)
            run.monitor.clock.turn_to("start")
            run.saved.wait()
            if run.rollbacks >= most:
                if run.rollbacks:
                    text = f"{error} It was rolled back {run.rollbacks} times."
                    raise TrainingError(text) from error
                raise
            run.rollbacks, skip_to = run.rollbacks + 1, error.position
            run.events.add("diverged", step=error.step, what=str(error))
            log.say(f"WARNING: {error}")
            log.say(
                f"rolling back ({run.rollbacks} of at most {most}): the data up to step "
                f"{error.step} is skipped"
            )


def _farewell(run: Run, stop: Stop) -> int:
    step = run.saved.latest()
    if not run.complete:
        log.say(f"stopped; saved step {step} of {run.e.facts.steps}: the same command resumes it")
        return 128 + (stop.signal or signal.SIGTERM)
    log.say(f"trained {step} steps; the run is in {run.workdir}")
    return 0


def main() -> int:
    """The command line."""
    f = flags.FLAGS
    if f.status:
        print(status(Path(f.status)))
        return 0
    if not f.workdir:
        raise ValueError("--workdir is missing; give the folder of the run.")
    if f.config is None:
        raise ValueError("--config is missing; give a config file, e.g. configs/digits.py.")
    group = processes.join(
        f.coordinator,
        f.num_processes,
        f.process_id,
        port=f.coordinator_port,
        wait_seconds=f.wait_for_processes,
        heartbeat_seconds=f.heartbeat_seconds,
    )
    if group:
        log.speak_as(jax.process_index())
        log.say(f"{group}, {jax.local_device_count()} devices each")
    return train(f.config, f.workdir, f.profile, own_process=True).code


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "config file[:argument]")
    flags.DEFINE_string("workdir", "", "folder of the run, on storage shared by all processes")
    flags.DEFINE_string("status", "", "folder of a run: print its status from its files, and exit")
    flags.DEFINE_string("profile", "", "FIRST:LAST steps to trace; later: touch WORKDIR/PROFILE")
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if no cluster is detected")
    flags.DEFINE_integer("num_processes", 0, "number of processes, if no cluster is detected")
    flags.DEFINE_integer("process_id", -1, "number of this process, if no cluster is detected")
    flags.DEFINE_integer("coordinator_port", 0, "port of process 0, if its host is detected")
    flags.DEFINE_float("wait_for_processes", 60.0, "seconds to wait for the others at the start")
    flags.DEFINE_integer("heartbeat_seconds", 30, "of silence before a process counts as lost")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main)
