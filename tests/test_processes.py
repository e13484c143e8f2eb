"""Several processes: how they find each other, and that they train what one would."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import few_digits
import fork_server
import numpy as np
import pytest

from byol_jax import processes
from byol_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(workdir, *flags, devices=2, interpreter=False):
    """The train command; in a new interpreter, which hashes strings in a way of its own, or not."""
    command = ("-m", "byol_jax.train", "--config", "configs/digits.py")
    command = (*command, "--workdir", str(workdir), *flags)
    env = fork_server.environment(JAX_NUM_CPU_DEVICES=str(devices))
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if interpreter:
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, text=True, **files)
    return fork_server.Process(*command, env=env, **files)


def start_two(workdir, *flags, interpreter=False):
    """Two processes of two CPU devices each, of which one may be a new interpreter."""
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    flags = (*where, "--heartbeat_seconds=10", *flags)
    return [
        start(workdir, f"--process_id={i}", *flags, interpreter=interpreter and i) for i in (0, 1)
    ]


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
    *("--config.encoder.dtype=float64", "--config.encoder.width=0.25", "--config.byol.hidden=32"),
    *("--config.epochs=2", "--config.log_every=1", "--config.evaluate_every=1"),
    *("--config.checkpoint_every=8", "--config.data.steps_per_dispatch=1"),
    *few_digits.flags(),
    "--config.batch_size=32",
)
STREAM = ("--config.data.placement=stream", "--config.data.steps_per_dispatch=0")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process with four devices, data resident."""
    folder = tmp_path_factory.mktemp("one")
    codes, said = finish([start(folder, *EXACT, devices=4)])
    assert codes == [0], said
    return folder


@pytest.mark.parametrize("placement", ["resident", "stream"])
def test_two_processes_of_two_devices_are_one_of_four(tmp_path, one, placement):
    """Fails if a process trains on other rows, or a statistic is taken over its own alone.

    10 steps in float64, every array and every metric, those of the evaluations among them. Seen to
    fail with the rows of process 0 given to both, and with labels of its own share alone.
    """
    flags = (*EXACT, *(STREAM if placement == "stream" else ()))
    codes, said = finish(start_two(tmp_path, *flags, interpreter=placement == "resident"))
    assert codes == [0, 0], said
    two, expected = arrays(tmp_path, 10), arrays(one, 10)
    assert two.keys() == expected.keys()
    assert any(x.dtype == np.float64 for x in expected.values())
    for name, x in expected.items():
        np.testing.assert_allclose(two[name], x, rtol=1e-9, atol=1e-9, err_msg=name)
    ours, theirs = rows(tmp_path), rows(one)
    assert [r["step"] for r in ours] == list(range(1, 11))
    assert "knn/test_top1" in ours[4]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-9, atol=1e-9)


# A loop without a network: what its processes must agree on. Prints what this process saw.
LOOP = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from byol_jax import log, mesh, processes
from byol_jax.core import TrainState
from byol_jax.faults import Damage
from byol_jax.loop import Hooks, Options, Program, fit
from byol_jax.watch import RunMonitor, Stop

index = int(sys.argv[2])
said = processes.join(sys.argv[1], 2, index, heartbeat_seconds=10)
log.speak_as(index)
where = mesh.make_mesh()
stop, saved, rows = Stop(), [], {}

def batches():
    k = 0
    while True:
        k += 1
        mask = np.ones(4, np.float32)
        mask[: {"damage": index + k % 2, "none": 0}[sys.argv[3]]] = 0
        yield {"index": np.arange(4, dtype=np.int32) + 8 * k + 4 * index, "mask": mask}

@jax.jit
def step(state, batch, key):
    state = TrainState(state.step + 1, state.position + 8, {}, {}, {})
    one = jnp.float32(1)
    return state, {"train/loss": batch["index"].sum() * one, "train/grad_norm": one}

def write(step, row):
    rows[step] = row
    if sys.argv[4] == "stop" and index == 1 and step == 3:
        stop.signal = 15

everywhere = mesh.replicated(where)
zero = mesh.place(np.int32(0), everywhere)
damage = Damage(1e9, str)
fit(
    TrainState(zero, zero, {}, {}, {}),
    Program(step, batches(), mesh.place(jax.random.key(0), everywhere), where),
    Options(9, 8, log_every=1, quiet=True),
    Hooks(None, lambda s, *_: saved.append(s), write, damage=damage),
    RunMonitor(stop),
)
loss = {k: v["train/loss"] for k, v in rows.items()}
counts = [v["data/damaged"] for v in rows.values()]
print(json.dumps([said, saved, sorted(damage.seen), counts, loss]), flush=True)
"""


def run_loop(damage, stop):
    """What the two processes of `LOOP` printed."""
    where = f"127.0.0.1:{free_port()}"
    started = [
        fork_server.Process(
            *("-c", LOOP, where, str(i), damage, stop),
            env=fork_server.environment(JAX_NUM_CPU_DEVICES="2"),
            stdout=fork_server.PIPE,
            stderr=fork_server.PIPE,
        )
        for i in (0, 1)
    ]
    said = [p.communicate(timeout=120) for p in started]
    assert [p.returncode for p in started] == [0, 0], said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def test_a_signal_to_one_process_stops_all_at_one_step():
    """Fails if each process looks at its own signal: one would save a step that others do not."""
    zero, one = run_loop("none", "stop")
    assert zero[0] == "process 0 of 2 (flags)"
    assert zero[1] == one[1]
    assert len(zero[1]) == 1
    assert 4 <= zero[1][0] <= 6, "the step after the signal was seen by all"


def test_damaged_images_are_those_of_all_processes():
    """Fails if a process counts its own alone: limit, rows and checkpoint would differ."""
    zero, one = run_loop("damage", "go on")
    assert zero[1:] == one[1:]
    expected = set()
    for k in range(1, 10):
        for index in (0, 1):
            expected |= {8 * k + 4 * index + i for i in range(index + k % 2)}
    assert zero[2] == sorted(expected)
    assert zero[3][0] == 3
    assert zero[3][-1] == len(expected)
    # And the batch is that of both: 8 k + 0 .. 7.
    assert zero[4]["1"] == sum(range(8, 16))


def test_a_process_that_was_started_alone_says_so(tmp_path):
    """Fails if it hangs, aborts without a word, or its code says that the config is wrong."""
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", "--process_id=0")
    codes, said = finish([start(tmp_path / "run", *where, "--wait_for_processes=3")])
    assert codes == [processes.RESTART], said
    assert "Start the same command on every host" in said[0]
    assert not (tmp_path / "run").exists()


def test_processes_with_other_configs_are_refused(tmp_path):
    """Fails if two hosts train two configs as one run."""
    where = (
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        "--heartbeat_seconds=10",
    )
    started = [
        start(tmp_path, *where, f"--process_id={i}", f"--config.optimizer.lr=0.{i + 1}")
        for i in (0, 1)
    ]
    codes, said = finish(started)
    assert codes[1] == 2, said
    assert codes[0] != 0
    assert "The config of process 1 is not that of process 0" in said[1]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]"}, "SLURM"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "OpenMPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, ""),
        # libtpu fills these in on machines without a TPU.
        ({"TPU_WORKER_HOSTNAMES": "WARNING: could not determine TPU, please"}, ""),
    ],
)
def test_the_cluster_is_seen_in_the_environment(env, found):
    """Fails if a process that is alone joins a group, or one of many does not."""
    assert processes.detect(env) == found


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, {}, "srun"),
        ({}, {"num_processes": 2}, "--coordinator, --process_id is missing"),
        ({}, {"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        ({}, {"coordinator": "a", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, {}, "host of rank 0"),
    ],
)
def test_a_group_that_cannot_be_joined_is_refused(monkeypatch, env, arguments, said):
    """Fails if a start that cannot succeed waits for others."""
    for name in ("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        processes.join(**arguments)


def test_one_process_of_one_joins_nothing(monkeypatch):
    """Fails if a launcher of one process must know it, or a cluster overrules the flags."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert processes.join("127.0.0.1:1", 1, 0) == ""
