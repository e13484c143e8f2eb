"""Signals while there is nothing to lose, the limit to silence, and traces of a window of steps."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fork_server
import pytest

from byol_jax.processes import RESTART
from byol_jax.watch import Profile, Stop, Watchdog

ROOT = Path(__file__).parents[1]


def deaf(**values):
    """A process that runs `DEAF`, when it is ready."""
    process = fork_server.Process(
        *("-c", DEAF.format(**values)), stdout=fork_server.PIPE, stderr=fork_server.PIPE
    )
    while process.said() != "ready\n":
        assert process.poll() is None
        time.sleep(0.01)
    return process


# One call of C that no Python can interrupt, as a compilation is: a wait that begins again when a
# signal ends it.
DEAF = """
import ctypes, sys
from byol_jax.watch import Stop
with Stop().listen() as stop:
    stop.nothing_to_lose = {free}
    print("ready", flush=True)
    libc = ctypes.PyDLL(None) if {locked} else ctypes.CDLL(None)
    for _ in range({seconds}):
        libc.sleep(1) if {locked} else libc.usleep(999999)
    print("heard", stop.signal, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_at_once(number):
    """Fails if the handler waits for the main thread, which is in a long call of a library."""
    process = deaf(free=True, locked=False, seconds=100)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)  # the calls take 100 s
    assert process.returncode == 128 + number
    assert "nothing is lost" in err


def test_a_signal_in_training_only_asks():
    """Fails if a step that could be saved is thrown away."""
    process = deaf(free=False, locked=False, seconds=3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == f"ready\nheard {int(signal.SIGTERM)}\n"
    assert "saving after this step" in err


def test_sigterm_twice_is_sigterm():
    """Fails if an impatient scheduler turns a clean stop into an interrupt."""
    with Stop().listen() as stop:
        stop.nothing_to_lose = False
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


HANG = """
import sys, time, threading, pathlib
from byol_jax.watch import Watchdog
dog = Watchdog({limit}, pathlib.Path(sys.argv[1]), 3)
def stuck_here():
    {stuck}
with dog.watch():
    for _ in range({beats}):
        time.sleep({limit} / 3)
        dog.alive("waiting for input")
    print("alive", flush=True)
    stuck_here()
"""


def run_hang(folder, **values):
    code = HANG.format(**values)
    return fork_server.run("-c", code, folder, timeout=60)


def test_a_hung_process_ends_itself_and_shows_where(tmp_path):
    """Fails if the limit is never looked at, or comes although there are signs of life."""
    done = run_hang(tmp_path / "run", limit=1.0, beats=6, stuck="time.sleep(1000)")
    assert done.stdout == "alive\n"
    assert done.returncode == RESTART
    assert "no sign of life" in done.stderr
    assert "waiting for input" in done.stderr
    assert "stuck_here" in (tmp_path / "run" / "stacks-3.txt").read_text()


def test_a_library_that_holds_the_lock_is_ended_too(tmp_path):
    """Fails if only a Python thread watches: it cannot run then."""
    stuck = "import ctypes; ctypes.PyDLL(None).sleep(1000)"
    done = run_hang(tmp_path, limit=1.0, beats=3, stuck=stuck)
    assert done.returncode not in (0, 2)
    assert "stuck_here" in done.stderr


def test_time_in_which_a_process_is_stopped_is_no_silence(tmp_path):
    """Fails if Ctrl-Z, or a laptop that sleeps, ends a run that was healthy when it went on."""
    code = HANG.format(limit=0.8, beats=8, stuck="pass")
    process = fork_server.Process(
        *("-c", "print('ready', flush=True)" + code, tmp_path),
        stdout=fork_server.PIPE,
        stderr=fork_server.PIPE,
    )
    while process.said() != "ready\n":
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.6)  # it watches
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)  # limit and two looks are 1.2 s
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "ready\nalive\n", "")


def test_no_limit_never_ends(tmp_path):
    """Fails if 0 is taken for no time at all."""
    before = threading.active_count()
    with Watchdog(0.0, tmp_path).watch():
        assert threading.active_count() == before, "nobody looks"


# In a process of its own: TensorFlow, PyTorch and libtpu in one process, as in these tests, each
# bring a profiler, and the second one to start crashes.
TRACE = """
import json, pathlib, sys
import jax.numpy as jnp
from byol_jax.watch import Profile

folder, window, count, ask_at = pathlib.Path(sys.argv[1]), *json.loads(sys.argv[2])
profile = Profile(folder, window, look_every=0.0)
x, traced = jnp.zeros(3), []
for step in range(1, 121, count):
    if step == ask_at:
        (folder / "PROFILE").write_text("2")
    profile.before(step, count, x)
    traced += [step] * bool(profile._running_until)
    x = x + 1
profile.stop(x)
folders = list((folder / "profile").iterdir())
assert all(list(p.rglob("*.xplane.pb")) for p in folders)
print(json.dumps([traced, [p.name for p in folders]]))
"""


def trace(folder, window, count=1, ask_at=0):
    """The dispatches, by their first steps, that a trace saw, and the folders of traces."""
    words = json.dumps([window, count, ask_at])
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(folder), words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_window_of_steps_is_traced(tmp_path):
    """Fails if the window is closed late, begins late, or is traced twice."""
    assert trace(tmp_path, "3:4") == [[3, 4], ["step_3"]]


def test_a_window_inside_of_a_dispatch_is_traced(tmp_path):
    """Fails if only the first step of a dispatch of many is looked at."""
    assert trace(tmp_path, "60:70", count=50) == [[51], ["step_51"]]


def test_a_file_asks_for_a_trace(tmp_path):
    """Fails if the file is not looked for, or is left and asks again."""
    assert trace(tmp_path, "", ask_at=5) == [[5, 6], ["step_5"]]
    assert not (tmp_path / "PROFILE").exists()


@pytest.mark.parametrize("text", ["5", "9:3", "a:b", "0:2", ":"])
def test_a_window_that_is_none_is_refused(tmp_path, text):
    """Fails if a typing error traces nothing in silence."""
    with pytest.raises(ValueError, match=r"--profile is .*FIRST:LAST"):
        Profile(tmp_path, text)
