"""One process at a time trains in a run folder.

The lock is the kernel's (`flock`): it ends with the process, whatever ends it, kill -9 too. NFS
passes it on to its server. Where a file system keeps it on each host by itself, or has none, the
second line is a number in the lock file that its holder counts up, and that another start watches.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from byol_jax.log import say
from byol_jax.processes import from_main, main_process
from byol_jax.untrusted import read_json
from byol_jax.writing import to_json

FILE = "run.lock"
BEAT_SECONDS = 5.0
WATCH_SECONDS = 2.5 * BEAT_SECONDS
LEASE_SECONDS = 100.0
"""How long an NFS server may keep the lock of a host that died without a word."""


class RunLock:
    """The right to train in a folder.

    Args:
      folder: of the run; made where it is missing, and taken away again where nothing was written.

    Raises:
      ValueError: another process has it (the message says which), or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / FILE
        self._made = not folder.exists()
        self._file, self._beats = -1, 0
        self._done, self._thread = threading.Event(), None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file, kernel = self._open()
        except OSError as e:
            raise ValueError(
                f"The run folder {folder} cannot be written ({e.strerror or e}); give another "
                "--workdir, or make it writable."
            ) from e
        try:
            self._exclude(kernel)
        except BaseException:
            os.close(self._file)
            raise
        self._since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _open(self) -> tuple[int, str]:
        """Open the file and try the kernel's lock: (descriptor, "ours", "taken" or "none")."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                state = _flock(file)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file), os.stat(self._path)):
                        return file, state
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # its holder took it away between the two: try again

    def _exclude(self, kernel: str) -> None:
        """Return when the lock is ours.

        Raises:
          ValueError: it is not.
        """
        holder = self._read()
        if not holder and kernel != "taken":
            return  # never used, or given back
        if holder.get("host") == socket.gethostname() and kernel != "none":
            if kernel == "ours":
                return  # the holder was killed: its kernel, which is ours, says so
            raise self._refusal(holder)
        say(f"{self._path} was last held by {_name(holder)}: looking whether it is alive ...")
        until = time.monotonic() + (WATCH_SECONDS if kernel != "taken" else LEASE_SECONDS)
        while time.monotonic() < until:
            time.sleep(min(BEAT_SECONDS / 4, 1.0))
            now = self._read()
            if now.get("beat") != holder.get("beat"):
                raise self._refusal(now or holder)
            if kernel == "taken" and _flock(self._file) == "ours":
                return
        if kernel == "taken":
            raise self._refusal(holder)
        if kernel == "none":
            say(f"WARNING: the file system of {self._folder} has no locks; start one run at a time")

    def _refusal(self, holder: dict[str, Any]) -> ValueError:
        return ValueError(
            f"{self._folder} is being trained by {_name(holder)}; stop that one first (it saves), "
            "or give another --workdir."
        )

    def _read(self) -> dict[str, Any]:
        # Opened anew: that is when NFS asks its server.
        with contextlib.suppress(OSError, ValueError):
            found = read_json(self._path)
            return found if isinstance(found, dict) else {}
        return {}

    def _write(self) -> None:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since}
        text = to_json(about | {"beat": self._beats}).encode()
        with contextlib.suppress(OSError):  # the disk is full: the kernel's lock is ours yet
            os.pwrite(self._file, text.ljust(512), 0)  # in place, never half
            os.fsync(self._file)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            self._beats += 1
            self._write()

    def release(self) -> None:
        """Give it back."""
        self._done.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._made and os.listdir(self._folder) == [FILE]:
                self._path.unlink()
                self._folder.rmdir()
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
        os.close(self._file)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; of several processes, process 0 does so for all.

    Raises:
      ValueError: on all processes, if another run holds it.
    """
    lock = refused = None
    if main_process():
        try:
            lock = RunLock(folder)
        except ValueError as e:
            refused = e
    if not from_main(int(refused is None)):
        raise refused or ValueError(f"Process 0 cannot train in {folder}; see what it says.")
    try:
        yield
    finally:
        if lock:
            lock.release()


def _flock(file: int) -> str:
    """Try the kernel's lock: "ours", "taken", or "none" where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return "taken"
        if e.errno in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EOPNOTSUPP):
            return "none"
        raise
    return "ours"


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
