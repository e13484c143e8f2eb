"""Ends a process in which a library holds Python's lock for too long; run as a process beside it.

    python guard.py PID LIMIT EVERY

The process, its parent, writes a byte to this one's standard input at least every EVERY seconds.
After LIMIT seconds without one it is sent SIGABRT, so that faulthandler shows its stacks, and then
SIGKILL. Time in which either process was stopped, or the machine slept, does not count: a wait
counts as EVERY seconds however long it took, and not at all if the parent is stopped at its end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TO_SHOW_STACKS = 10.0  # seconds


class Guard:
    """The guard of this process; without one (no room for a process), nothing is guarded.

    Args:
      limit: seconds without a beat. every: at most so many from one beat to the next.
    """

    def __init__(self, limit: float, every: float) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # -I -S: nothing is imported but what is needed. A group of its own: Ctrl-C and Ctrl-Z are
        # not for it.
        script = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(limit), str(every)]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                script, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0, process_group=0
            )

    def beat(self) -> None:
        """Say that Python code can run."""
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):  # it was ended by someone
                self._process.stdin.write(b".")

    def close(self) -> None:
        """End it."""
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.kill()  # a child of this process may hold the pipe open
            self._process.wait()


@contextlib.contextmanager
def guarded(limit: float, every: float) -> Iterator[Guard]:
    """A guard for the duration of the context."""
    guard = Guard(limit, every)
    try:
        yield guard
    finally:
        guard.close()


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, or by a debugger."""
    state = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        stat = Path(f"/proc/{pid}/stat")
        if stat.parent.exists():
            state = stat.read_text(errors="replace").rpartition(")")[2].strip()
        else:  # macOS
            ps = ["ps", "-o", "state=", "-p", str(pid)]
            state = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
    return state[:1] in ("T", "t")


def watch(pid: int, limit: float, every: float) -> None:
    """Watch the parent until it ends, closes standard input, or is silent for `limit` seconds."""
    silent = 0.0
    while silent <= limit:
        if select.select([0], [], [], every)[0]:
            if not os.read(0, 4096):
                return
            silent = 0.0
        elif os.getppid() != pid:
            return
        else:
            silent = 0.0 if stopped(pid) else silent + every
    said = f"error: a library has held Python's lock for {silent:.0f} s; its stacks follow\n"
    with contextlib.suppress(OSError):
        sys.stderr.write(said)
        sys.stderr.flush()
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + TO_SHOW_STACKS
        while os.getppid() == pid and time.monotonic() < until:
            time.sleep(0.05)


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
