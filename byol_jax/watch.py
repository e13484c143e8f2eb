"""What monitors a run from outside its loop: signals, a watchdog and a profiler."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from byol_jax import log
from byol_jax.events import Clock
from byol_jax.processes import RESTART

PROFILE_FILE = "PROFILE"
PROFILE_STEPS = 10
STDERR = 2  # the file descriptor: faulthandler writes without Python


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that the loop can save and stop after the next step.

    While there is nothing to lose (data are being opened, a checkpoint is being read, the step is
    being compiled, in one call that Python cannot interrupt), a signal ends the process at once.

    nothing_to_lose: whether that is so; the loop clears it after the first step.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.nothing_to_lose = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[Stop]:
        """Handle both signals; a second Ctrl-C interrupts at once."""
        self.nothing_to_lose = True

        def handle(number: int, _: Any) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            first, self.signal = not self.signal, self.signal or number
            if first and not self.nothing_to_lose:
                log.say(f"{signal.Signals(number).name}: saving after this step", everywhere=True)

        before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Written by the C part of the handler: the Python part must wait for the main thread.
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._heed, args=(reader,), daemon=True).start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(writer)  # ends the thread

    def _heed(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT) and self.nothing_to_lose:
                name = signal.Signals(number[0]).name
                log.say(f"{name}: no step was done, nothing is lost", everywhere=True)
                os._exit(128 + number[0])
        os.close(reader)


class Watchdog:
    """Ends a process that has been silent for too long, with the stacks of all its threads.

    Args:
      limit: seconds from one sign of life to the next; 0 never ends it.
      folder: where `stacks-PROCESS.txt` is written.
      process: number of this process.
    """

    def __init__(self, limit: float, folder: Path, process: int = 0) -> None:
        self.limit, self._path = limit, folder / f"stacks-{process}.txt"
        self._last, self._what = time.monotonic(), "starting"

    def alive(self, what: str) -> None:
        """Report a sign of life: `what` begins now."""
        self._last, self._what = time.monotonic(), what

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch this process for the duration of the context."""
        if not self.limit:
            yield
            return
        done = threading.Event()
        self.alive("starting")
        thread = threading.Thread(target=self._look, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _look(self, done: threading.Event) -> None:
        every = min(self.limit / 4, 10.0)
        while not done.wait(every):
            # If a library holds the interpreter lock, this thread is stuck too; then faulthandler's
            # timer, which needs no lock, ends the process with code 1.
            late = self.limit + 2 * every
            faulthandler.dump_traceback_later(late, exit=True, file=STDERR)
            silent = time.monotonic() - self._last
            if silent > self.limit:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                faulthandler.dump_traceback(STDERR, all_threads=True)
                log.say(
                    f"error: no sign of life for {silent:.0f} s (hang_seconds is {self.limit:.0f}) "
                    f"while {self._what}; the stacks of all threads are above and in {self._path}. "
                    "The same command resumes.",
                    everywhere=True,
                )
                os._exit(RESTART)


class Profile:
    """Traces a window of steps for TensorBoard or Perfetto, in `profile/` of the run folder.

    The window is given as "FIRST:LAST", or at any time by a file PROFILE in the run folder,
    which may contain a number of steps (10 if it is empty).

    Args:
      folder: of the run; None traces nothing.
      window: "FIRST:LAST" steps, both included, counted from 1; "": none.

    Raises:
      ValueError: the window is not such a pair.
    """

    def __init__(self, folder: Path | None, window: str = "", look_every: float = 2.0) -> None:
        self._folder, self._every = folder, look_every
        self._first, self._last = _window(window)
        self._running_until, self._looked = 0, -look_every

    def before(self, step: int, count: int, last: Any) -> None:
        """Call this before a dispatch.

        Args:
          step: its first step, counted from 1.
          count: its number of steps.
          last: an array of the previous step, awaited before a trace ends.
        """
        if self._folder is None:
            return
        if self._running_until and step > self._running_until:
            self.stop(last)
        if self._running_until:
            return
        last_step = self._last if self._first < step + count and step <= self._last else 0
        if steps := self._asked():
            last_step = step + steps - 1
        if last_step:
            folder = self._folder / "profile" / f"step_{step}"
            log.say(f"profiling steps {step} to {last_step}: {folder}")
            jax.profiler.start_trace(str(folder))
            self._running_until = last_step

    def stop(self, last: Any = None) -> None:
        """End a running trace once `last` has been computed."""
        if self._running_until:
            jax.block_until_ready(last)
            jax.profiler.stop_trace()
            log.say("profiling: done")
            self._running_until, self._first, self._last = 0, 0, -1

    def _asked(self) -> int:
        """Steps requested by the file, which is then removed; 0: none."""
        assert self._folder is not None
        if time.monotonic() - self._looked < self._every:
            return 0
        self._looked = time.monotonic()
        path = self._folder / PROFILE_FILE
        try:
            text = path.read_text().strip()
            path.unlink()
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if text.isdigit() and int(text) else PROFILE_STEPS


def _window(text: str) -> tuple[int, int]:
    if not text:
        return 0, -1
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise ValueError(f"--profile is {text!r}; expected FIRST:LAST, two steps, e.g. 100:110.")
    return int(first), int(last)


class RunMonitor:
    """Signals, clock, watchdog and profiler of a run, passed to the loop as one object.

    Args:
      stop: whether a signal came; clock: where time goes; watchdog, profile: see above, or None.
    """

    def __init__(
        self,
        stop: Stop | None = None,
        clock: Clock | None = None,
        watchdog: Watchdog | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.stop, self.clock = stop or Stop(), clock or Clock()
        self.profile = profile or Profile(None)
        self._watchdog = watchdog

    def alive(self, what: str) -> None:
        """Report a sign of life to the watchdog."""
        if self._watchdog:
            self._watchdog.alive(what)

    @contextlib.contextmanager
    def doing(self, kind: str, what: str = "") -> Iterator[None]:
        """Spend time on another activity, one of `events.KINDS`, and report a sign of life."""
        self.alive(what or kind)
        with self.clock.spend(kind):
            yield
        self.alive("training")
