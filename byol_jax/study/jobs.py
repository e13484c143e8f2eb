"""Training and judging the jobs of a study: one here, or all in turn, each in its own process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from byol_jax import cli, log
from byol_jax.config import resolve
from byol_jax.evaluate import evaluate
from byol_jax.experiment.protocols import settings
from byol_jax.run_folder import keep_compiled
from byol_jax.study.plan import Job, Plan, read_config
from byol_jax.study.record import (
    Record,
    digest,
    is_judged,
    is_trained,
    read_record,
    write_record,
)
from byol_jax.train import train

# What the process imports that the others are forked from: it has begun nothing, no device and no
# thread, and a job then starts in no time.
_IMPORTED = ("byol_jax.study.jobs", "orbax.checkpoint", "clu.metric_writers")


def is_done(job: Job) -> bool:
    """Whether nothing is left to do of a job."""
    return is_trained(job.folder) and not _unjudged(job)


def _unjudged(job: Job) -> list[str]:
    """The protocols whose result is missing, or is not the one that was recorded."""
    found = []
    for protocol, options in job.protocols.items():
        wanted = settings(protocol, resolve(read_config((*job.config, *options))))
        if not is_judged(job.folder, protocol, wanted):
            found.append(protocol)
    return found


def run_job(job: Job, workdir: Path) -> int:
    """Train and judge a run in this process, or go on with it.

    Args:
      job: of a plan.
      workdir: of the study; what is compiled is cached there, for all its runs.

    Returns:
      0, or 128 + the number of the signal that stopped the training, which saved.

    Raises:
      ValueError, TrainingError, OSError: see `train` and `evaluate`. It is recorded.
    """
    keep_compiled(workdir / "any")
    try:
        if read_record(job.folder).error:
            _say_error(job, "")
        if not is_trained(job.folder):
            log.say(f"python -m byol_jax.train {shlex.join(job.config)} --workdir {job.folder}")
            code = train(read_config(job.config), job.folder, own_process=True).code
            if code:
                return code
        for protocol in _unjudged(job):
            config = read_config((*job.config, *job.protocols[protocol]))
            evaluate(job.folder, protocol, config)
            wanted, found = settings(protocol, resolve(config)), digest(job.folder, protocol)
            done = {"settings": wanted, "sha256": found}
            judged = read_record(job.folder).judged | {protocol: done}
            write_record(job.folder, Record(judged, ""))
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        _say_error(job, reason or type(error).__name__)
        raise
    return 0


def _say_error(job: Job, text: str) -> None:
    with contextlib.suppress(OSError):  # the disk may be full
        write_record(job.folder, Record(read_record(job.folder).judged, text))


def _in_child(job: Job, workdir: Path) -> None:
    """A job as a process of its own, whose output goes to seedN.log; it ends with its parent."""
    os.setsid()  # Ctrl-C is the parent's, which passes it on
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with job.folder.with_name(f"{job.folder.name}.log").open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        sys.exit(run_job(job, workdir))
    except cli.USER_ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # training saves first


Start = Callable[[Job, Path], int]
"""(job, workdir of the study) -> exit code, negative where a signal ended the process."""


@contextlib.contextmanager
def processes() -> Iterator[Start]:
    """A function that runs jobs, each in its own process, so that none can end the others.

    SIGTERM and Ctrl-C are passed on to the one that runs, which saves; `Stopped` is then raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    running: list[Any] = []
    asked: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        asked.append(number)
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    def start(job: Job, workdir: Path) -> int:
        child = context.Process(target=_in_child, args=(job, workdir))
        child.start()
        running.append(child)
        child.join()
        running.clear()
        if asked:
            raise Stopped(asked[0])
        return int(child.exitcode or 0)

    main = threading.current_thread() is threading.main_thread()  # the one that gets signals
    numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = {n: signal.signal(n, pass_on) for n in numbers}
    try:
        yield start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopped(Exception):
    """A signal asked the study to stop."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number


def run_plan(plan: Plan, start: Start, after: Callable[[], object]) -> list[Job]:
    """Run what is left to do of a plan, in order; one that fails does not keep the others back.

    Args:
      plan: checked.
      start: runs a job.
      after: called after each.

    Returns:
      The jobs that failed.

    Raises:
      Stopped: see `processes`.
    """
    failed = []
    for job in plan.jobs:
        if is_done(job):
            continue
        name = f"{job.row}, seed {job.seed} ({job.number + 1} of {len(plan.jobs)})"
        began = time.monotonic()
        log.say(f"{name} ...")
        code = start(job, plan.workdir)
        if code == 0 and is_done(job):
            log.say(f"{name}: done in {time.monotonic() - began:.0f} s")
        else:
            failed.append(job)
            error = read_record(job.folder).error or _ended(code)
            _say_error(job, error)
            log.say(f"WARNING: {name} failed: {error} (all it said: {job.folder}.log)")
        after()
    return failed


def _ended(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in {s.value for s in signal.Signals}:
        more = ": is the memory full?" if number == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(number).name}{more}"
    return f"its process ended with code {code}"
