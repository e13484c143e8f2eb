"""Runs the project's commands in processes forked from one that has imported what they import.

Python, JAX, TensorFlow and the rest take seconds of CPU to import, which a hundred tests would each
pay again. `Process` and `run` stand for `subprocess.Popen` and `subprocess.run`:

    done = fork_server.run("-m", "byol_jax.train", "--workdir", folder, env=env)

The server starts with the first command and ends with this process. It never runs anything itself:
each command is executed from its first line, as `__main__`, by a child with its own pid, arguments,
folder, environment and files. A child differs from a new interpreter in that the modules it imports
are there already, and in sharing the server's seed of `hash`; so at least one test of each command
starts a real `python -m`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[1]
PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
# XLA compiles in less than half the time, to code that is hardly slower on small arrays, and in one
# piece, since tests run on as many cores as there are. Newer versions do not know the last option,
# libtpu knows the first alone, and they end the process.
EIGHT = "--xla_force_host_platform_device_count=8"
FOR_ALL = "--xla_backend_optimization_level=0"
COMPILER = f"{FOR_ALL} --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib") < "0.11":
    COMPILER += " --xla_cpu_use_fusion_emitters=false"
# A module that is executed as __main__ must not be imported before.
COMMANDS = {"byol_jax.train", "byol_jax.evaluate", "byol_jax.export"}
# New objects before a collection, and collections of each generation before one of the next.
GARBAGE = (100_000, 20, 20)
LIBRARIES = (
    *("tensorflow", "tensorflow_datasets", "clu.metric_writers", "clu.parameter_overview"),
    *("jax.experimental.multihost_utils", "ml_collections.config_flags", "sklearn.datasets"),
    *("sklearn.linear_model", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a command: without the eight devices of the tests."""
    return {**os.environ, "XLA_FLAGS": COMPILER, "PYTHONPATH": str(ROOT), **more}


class Process:
    """A command in a child of the fork server; what it shares with `subprocess.Popen` is alike.

    Args:
      args: what follows `python`: -m MODULE, -c CODE or a file, and arguments.
      cwd: the folder it runs in. env: its whole environment; None: `environment()`.
      stdout: None (inherited), PIPE, DEVNULL, or a file. stderr: or STDOUT. What goes to PIPE is
        kept in a file, which `communicate` reads.
    """

    def __init__(
        self,
        *args: str | Path,
        cwd: str | Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ) -> None:
        self.args = [str(a) for a in args]
        self.returncode: int | None = None
        with contextlib.ExitStack() as stack:
            self._kept = [_kept() if to == PIPE else None for to in (stdout, stderr)]
            out = self._kept[0] or stdout
            err = self._kept[1] or (out if stderr == STDOUT else stderr)
            nothing = stack.enter_context(open(os.devnull, "r+b"))
            files = [_descriptor(f, nothing, i) for i, f in ((0, DEVNULL), (1, out), (2, err))]
            self._report, theirs = socket.socketpair()
            stack.enter_context(theirs)
            request = {"args": self.args, "cwd": str(cwd), "env": dict(env or environment())}
            text = json.dumps(request).encode()
            server = _server()
            head = len(text).to_bytes(4, "big")
            socket.send_fds(server, [head], [*files, theirs.fileno()])
            server.sendall(text)
        self.pid = int(self._read())

    def _read(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            more = self._report.recv(1)
            if not more:
                raise RuntimeError(f"the fork server has ended; it was asked for {self.args}")
            line += more
        return line.decode()

    def poll(self) -> int | None:
        """The exit code, negative where a signal ended it; None while it runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.returncode = int(self._read())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when there is one.

        Raises:
          subprocess.TimeoutExpired: there is none yet.
        """
        if self.returncode is None and not select.select([self._report], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Wait for its end; what it wrote to each PIPE, as text."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        out, err = self._text(0), self._text(1)
        self.close()
        return out, err

    def close(self) -> None:
        """Close the files that only this object has."""
        for file in (self._report, *self._kept):
            if file is not None:
                file.close()

    __del__ = close

    def said(self) -> str:
        """What it has written to a stdout of PIPE by now."""
        return self._text(0) or ""

    def _text(self, i: int) -> str | None:
        file = self._kept[i]
        if file is None:
            return None
        file.seek(0)
        return file.read().decode(errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal, where it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(
    *args: str | Path, timeout: float = 300, **more: Any
) -> subprocess.CompletedProcess[str | None]:
    """Run a command to its end, with its output captured; see `Process`."""
    process = Process(*args, **{"stdout": PIPE, "stderr": PIPE} | more)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.returncode or 0, out, err)


def _kept() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _descriptor(file: Any, nothing: Any, inherited: int) -> int:
    if file is None:
        return inherited
    if file == DEVNULL:
        file = nothing
    return file if isinstance(file, int) else file.fileno()


@functools.cache
def _server() -> socket.socket:
    """The connection to this process's server, which is started now."""
    ours, theirs = socket.socketpair()
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") and k != "XLA_FLAGS"}
    # One thread, so that forking is safe; and no TPU is looked for.
    env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, env=env, cwd=ROOT, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _load() -> None:
    """Import what commands import; no thread is left running and no backend started."""
    importlib.import_module("byol_jax.cli")  # first: it chooses what TensorFlow says
    for name in LIBRARIES:
        importlib.import_module(name)
    import byol_jax

    for found in pkgutil.walk_packages(byol_jax.__path__, "byol_jax."):
        last = found.name.rpartition(".")[2]
        if last != "__main__" and found.name not in COMMANDS:
            with contextlib.suppress(ImportError):
                importlib.import_module(found.name)
    for name in COMMANDS:  # imported by others
        sys.modules.pop(name, None)
    gc.collect()
    gc.freeze()  # else the first collection of each child would copy all of this memory
    gc.set_threshold(*GARBAGE)


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork a child per request; returns in the child, with what it is to do."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            _reap(running)
        if control not in ready:
            continue
        head, files, *_ = socket.recv_fds(control, 4, 4)
        if not head:
            os._exit(0)
        text = b""
        while len(text) < int.from_bytes(head, "big"):
            text += control.recv(1 << 20)
        report = socket.socket(fileno=files[3])
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for other in (control, woken, wake, report, *running.values()):
                other.close()
            for number, file in enumerate(files[:3]):
                os.dup2(file, number)
                os.close(file)
            return json.loads(text)
        report.sendall(b"%d\n" % pid)
        running[pid] = report
        for file in files[:3]:
            os.close(file)


def _reap(running: dict[int, socket.socket]) -> None:
    """Report the children that have ended."""
    for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            report = running.pop(pid)
            with contextlib.suppress(OSError):  # nobody may be waiting any more
                report.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            report.close()


def _become(env: Mapping[str, str], cwd: str) -> None:
    """Take the environment that the command is given, and what JAX reads of it."""
    import jax
    import numpy as np

    kept = {k: v for k, v in os.environ.items() if k.startswith(("TF_CPP_", "TF_ENABLE_"))}
    os.environ.clear()
    os.environ.update(kept | dict(env))
    os.chdir(cwd)
    jax.config.update("jax_platforms", None)
    for name, value in [*jax.config.values.items()]:
        given = os.environ.get(name.upper())
        if given is not None:
            jax.config.update(name, _as(type(value), given))
    np.random.seed()  # noqa: NPY002 (the state that was forked)


def _as(kind: type, text: str) -> Any:
    if kind is bool:
        return text.lower() in ("y", "yes", "t", "true", "on", "1")
    return kind(text) if kind in (int, float) else text


def _execute(args: Sequence[str]) -> None:
    """What an interpreter does with its arguments."""
    first, *rest = args
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = [args[1], *rest[1:]]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(first).parent)
        sys.argv = list(args)
        runpy.run_path(first, run_name="__main__")


def _end(args: Sequence[str]) -> NoReturn:
    """Execute a command and end as it would in an interpreter, whose modules are not torn down.

    To take TensorFlow's apart is 2 s of CPU; threads are joined, and what is registered is called.
    """
    code, interrupted = 0, False
    try:
        _execute(args)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException as e:
        traceback.print_exc()
        code, interrupted = 1, isinstance(e, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 255)


if __name__ == "__main__":
    _load()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(asked["env"], asked["cwd"])
    _end(asked["args"])
