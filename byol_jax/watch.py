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

from byol_jax import log, pulse
from byol_jax.events import Clock
from byol_jax.guard import Guard, guarded
from byol_jax.processes import RESTART

PROFILE_FILE = "PROFILE"
PROFILE_STEPS = 10
STDERR = 2  # the file descriptor: faulthandler writes without Python
OF_LIBRARIES = ("start", "compile", "save")
"""Of `events.KINDS`: long calls of libraries, which give no sign of life themselves."""
BUSY_CPU, BUSY_BYTES = 0.02, 2**16
"""A process is at work if it uses this share of a core, or reads and writes so much per check."""


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that the loop can save and stop after the next step.

    While there is nothing to lose (data are being opened, a checkpoint is being read, the step is
    being compiled, in one call that Python cannot interrupt), a signal ends the process at once.

    Args:
      own_process: whether the process belongs to the run, as a command's does. In a notebook or
        another program the signal then raises KeyboardInterrupt or SystemExit instead.

    nothing_to_lose: whether that is so; the loop clears it after the first step.
    """

    def __init__(self, own_process: bool = True) -> None:
        self.signal = 0
        self.nothing_to_lose = False
        self._own_process = own_process

    @contextlib.contextmanager
    def listen(self) -> Iterator[Stop]:
        """Handle both signals; a second Ctrl-C interrupts at once.

        Python lets only the main thread handle signals; in another one nothing is changed.
        """
        self.nothing_to_lose = True
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def handle(number: int, _: Any) -> None:
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            if self.nothing_to_lose and not self._own_process:
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            first, self.signal = not self.signal, self.signal or number
            if first and not self.nothing_to_lose:
                log.say(f"{signal.Signals(number).name}: saving after this step", everywhere=True)

        before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
        if not self._own_process:
            try:
                yield self
            finally:
                _restore(before)
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Written by the C part of the handler: the Python part must wait for the main thread.
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._heed, args=(reader,), daemon=True).start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            _restore(before)
            os.close(writer)  # ends the thread

    def _heed(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT) and self.nothing_to_lose:
                name = signal.Signals(number[0]).name
                log.say(f"{name}: no step was done, nothing is lost", everywhere=True)
                os._exit(128 + number[0])
        os.close(reader)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Watchdog:
    """Ends a process that has been silent for too long, with the stacks of all its threads.

    Signs of life are calls of `alive` (every step, every batch of an evaluation) and `pulse.beat`
    (in loops that open, decode and compare). While a library works that gives none (tfds prepares
    a data set, Orbax reads or saves, XLA compiles), the activity of the process counts: 2% of a
    core, or 64 kB read or written per check. So a call that waits forever for storage, the network
    or a lock is noticed; one that computes forever is not, in these phases.

    Args:
      limit: seconds from one sign of life to the next; 0 never ends it.
      folder: where `stacks-PROCESS.txt` is written.
      process: number of this process.
      ends: whether it may end the process; else it only shows the stacks, once.
    """

    def __init__(self, limit: float, folder: Path, process: int = 0, *, ends: bool = True) -> None:
        self.limit, self._path = limit, folder / f"stacks-{process}.txt"
        self._ends, self._signs, self._what, self._in_library = ends, 0, "starting", False
        self._activity = (0.0, 0)

    def alive(self, what: str, *, in_library: bool = False) -> None:
        """Report a sign of life: `what` begins now.

        Args:
          what: for the message.
          in_library: whether it gives no sign of life itself, so that activity counts.
        """
        self._signs, self._what, self._in_library = self._signs + 1, what, in_library

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch this process for the duration of the context."""
        if not self.limit:
            yield
            return
        done = threading.Event()
        self.alive("starting", in_library=True)
        every = min(self.limit / 4, 10.0)
        # If a library holds Python's lock, the thread that looks is stuck too. No timer of this
        # process can then tell a hang from the time in which it was stopped: another process does.
        guard = guarded(self.limit + 2 * every, every) if self._ends else contextlib.nullcontext()
        if self._ends and not faulthandler.is_enabled():
            faulthandler.enable(file=STDERR)
        with guard as beats:
            thread = threading.Thread(target=self._look, args=(done, every, beats), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()

    def _look(self, done: threading.Event, every: float, guard: Guard | None) -> None:
        silent, seen, before = 0.0, (-1, -1), time.monotonic()
        while not done.wait(every):
            if guard:
                guard.beat()
            now = time.monotonic()
            # While the machine slept, or the process was stopped, it was not silent.
            silent, before = silent + min(now - before, 2 * every), now
            signs, active = (self._signs, pulse.beats()), self._active(every)
            if signs != seen or (active and self._in_library):
                silent, seen = 0.0, signs
            if silent > self.limit:
                self._show(silent)
                if self._ends:
                    os._exit(RESTART)
                return

    def _active(self, seconds: float) -> bool:
        """Whether the process was at work since the last look, this many seconds ago."""
        cpu, moved = _activity()
        (cpu_before, moved_before), self._activity = self._activity, (cpu, moved)
        return cpu - cpu_before > BUSY_CPU * seconds or moved - moved_before > BUSY_BYTES

    def _show(self, silent: float) -> None:
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        with contextlib.suppress(OSError):
            faulthandler.dump_traceback(STDERR, all_threads=True)
        log.say(
            f"error: no sign of life for {silent:.0f} s (hang_seconds is {self.limit:.0f}) "
            f"while {self._what}; the stacks of all threads are above and in {self._path}. "
            + ("The same command resumes." if self._ends else "It is left as it is."),
            everywhere=True,
        )


def _activity() -> tuple[float, int]:
    """(seconds of CPU, bytes read and written) of this process so far; no bytes where unknown."""
    used = os.times()
    moved = 0
    with contextlib.suppress(OSError, ValueError):  # Linux only
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, value = line.partition(":")
            moved += int(value) if name in ("rchar", "wchar") else 0
    return used.user + used.system, moved


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

    def alive(self, what: str, *, in_library: bool = False) -> None:
        """Report a sign of life; see `Watchdog.alive`."""
        if self._watchdog:
            self._watchdog.alive(what, in_library=in_library)

    @contextlib.contextmanager
    def doing(self, kind: str, what: str = "") -> Iterator[None]:
        """Spend time on another activity, one of `events.KINDS`, and report a sign of life."""
        self.alive(what or kind, in_library=kind in OF_LIBRARIES)
        with self.clock.spend(kind):
            yield
        # Between the parts of a start there are imports, which take long on slow storage.
        self.alive("training" if kind != "start" else "starting", in_library=kind == "start")
