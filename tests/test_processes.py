"""Several processes: how they find each other, and that they train what one would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from byol_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(devices, **more):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return env | {"JAX_NUM_CPU_DEVICES": str(devices)} | more


def start(workdir, *flags, devices=2, **env):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "byol_jax.train", "--config", "configs/digits.py"),
            *("--workdir", str(workdir), *flags),
        ],
        cwd=ROOT,
        env=environment(devices, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, *flags, **env):
    """Two processes of two CPU devices each."""
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    flags = (*where, "--heartbeat_seconds=10", *flags)
    return [start(workdir, f"--process_id={i}", *flags, **env) for i in (0, 1)]


def finish(started):
    """(exit codes, what each said)"""
    said = [p.communicate(timeout=300)[0] for p in started]
    return [p.returncode for p in started], said


def arrays(workdir, step):
    saved = Checkpoints(workdir)
    assert saved.latest() == step
    out = saved.arrays(step, "")
    saved.close()
    return out


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


EXACT = (
    *("--config.encoder.dtype=float64", "--config.encoder.width=0.25", "--config.method.hidden=32"),
    *("--config.epochs=2", "--config.log_every=1", "--config.evaluate_every=1"),
    *("--config.checkpoint_every=8", "--config.data.steps_per_dispatch=1"),
)
STREAM = ("--config.data.placement=stream", "--config.data.steps_per_dispatch=0")
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # the compiler's, in half the time


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process with four devices, data resident."""
    folder = tmp_path_factory.mktemp("one")
    codes, said = finish([start(folder, *EXACT, devices=4, **QUICK)])
    assert codes == [0], said
    return folder


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_two_processes_of_two_devices_are_one_of_four(tmp_path, one, placement):
    """Fails if a process trains on other rows, or a statistic is taken over its own alone.

    20 steps in float64, every array and every metric, those of the evaluations among them. Seen to
    fail with the rows of process 0 given to both, and with labels of its own share alone.
    """
    flags = (*EXACT, *(STREAM if placement == "stream" else ()))
    codes, said = finish(start_two(tmp_path, *flags, **QUICK))
    assert codes == [0, 0], said
    two, expected = arrays(tmp_path, 20), arrays(one, 20)
    assert two.keys() == expected.keys()
    assert any(x.dtype == np.float64 for x in expected.values())
    for name, x in expected.items():
        np.testing.assert_allclose(two[name], x, rtol=1e-9, atol=1e-9, err_msg=name)
    ours, theirs = rows(tmp_path), rows(one)
    assert [r["step"] for r in ours] == list(range(1, 21))
    assert "knn/test_top1" in ours[9]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-9, atol=1e-9)
