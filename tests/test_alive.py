"""What counts as a sign of life, beside the loop's own."""

import fork_server
import pytest

from byol_jax.processes import RESTART

WORK = """
import pathlib, sys, time
from byol_jax import pulse
from byol_jax.watch import RunMonitor, Watchdog
dog = Watchdog(0.6, pathlib.Path(sys.argv[1]), ends={ends})
until = time.monotonic() + 2.0
def compute():
    while time.monotonic() < until:
        sum(range(1000))
def beat():
    while time.monotonic() < until:
        time.sleep(0.05)
        pulse.beat()
def wait():
    time.sleep(2.0)
with dog.watch():
    with RunMonitor(watchdog=dog).doing({kind!r}, "at it"):
        {work}()
    {then}
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "work", "lives"),
    [
        ("start", "compute", True),  # tfds prepares, XLA compiles
        ("start", "beat", True),  # slow storage: a loop that hardly computes
        ("wait", "beat", True),
        ("start", "wait", False),  # a hang while opening
        ("wait", "compute", False),  # other threads compute while no batch comes
    ],
)
def test_work_is_life_and_waiting_is_not(tmp_path, kind, work, lives):
    """Fails if a long opening is ended at every restart, or a real hang in it is not noticed."""
    code = WORK.format(ends=True, kind=kind, work=work, then="")
    done = fork_server.run("-c", code, tmp_path, timeout=60)
    assert done.returncode == (0 if lives else RESTART), done.stderr
    assert ("no sign of life" in done.stderr) == (not lives)


def test_work_between_the_parts_of_a_start_is_life(tmp_path):
    """Fails if imports between two parts count as a hang in training."""
    code = WORK.format(ends=True, kind="start", work="str", then="compute()")
    done = fork_server.run("-c", code, tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_another_program_is_not_ended(tmp_path):
    """Fails if a hang in a notebook takes its kernel along."""
    code = WORK.format(ends=False, kind="start", work="wait", then="")
    done = fork_server.run("-c", code, tmp_path, timeout=60)
    assert done.stdout == "done\n"
    assert "It is left as it is" in done.stderr
    assert "in wait" in (tmp_path / "stacks-0.txt").read_text()
