"""launch/tpu_vm.sh against a stand-in for gcloud that runs the hosts of a slice here."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_INS = Path(__file__).parent / "stand_ins"
HOSTILE = ["--config", "a  b", "--x=", "", "'", '"', "$HOME", "`id`", "*", "\\", "a\nb", "é", "-n"]
READY = {"tpu-vm": ["CREATING", "READY"]}


# What installs, and puts the stand-in for the training where the environment would be.
INSTALLER = """#!/bin/sh
[ "$2 $3" = "uv venv" ] || exit 0
for last; do :; done
mkdir -p "$last/bin" && ln -sf "$STAND_IN/bin/train" "$last/bin/python"
"""


class Cloud:
    """A cloud in a folder: what it will do, what was asked of it."""

    def __init__(self, place):
        self.place, self.workdir = place, place / "a run's $dir"
        python = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(STAND_INS))}"
        texts = {n: f'#!/bin/sh\nexec {python}/{n}.py "$@"\n' for n in ("gcloud", "train")}
        (place / "bin").mkdir()
        for name, text in (texts | {"python3": INSTALLER}).items():
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)

    def script(self, *after_create, **more):
        start = {"states": {}, "after_create": after_create}
        (self.place / "script.json").write_text(json.dumps(start | more))

    def plan(self, *starts, host=None):
        for name in [f"host{host}"] if host is not None else ["host0", "host1"]:
            (self.place / f"{name}.json").write_text(json.dumps(starts))

    def command(self, verb, *options, train=("--config", "c.py"), workdir=None):
        more = ["--type", "v4-16", "--poll", "0.05", *options]
        train = [*train, "--workdir", str(workdir or self.workdir)]
        return [
            ROOT / "launch/tpu_vm.sh",
            verb,
            "--name",
            "slice",
            "--zone",
            "z",
            *more,
            "--",
            *train,
        ]

    def pipes(self):
        path = f"{self.place / 'bin'}:{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "STAND_IN": str(self.place)}
        return {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def run(self, *args, **more):
        return subprocess.run(self.command(*args, **more), timeout=90, **self.pipes())

    def calls(self):
        path = self.place / "calls.jsonl"
        return [json.loads(c) for c in path.read_text().splitlines()] if path.exists() else []

    def asked(self, *verbs):
        """The verbs of the calls, of those given."""
        return [c[3] for c in self.calls() if c[3] in verbs]

    def starts(self, host=0):
        path = self.place / f"host{host}.starts.jsonl"
        return [json.loads(c) for c in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_a_dry_run_prints_commands_and_does_nothing(cloud):
    """Fails if --dry-run calls gcloud or writes a file, or what it prints is not quoted."""
    cloud.script()
    before = sorted(cloud.place.iterdir())
    done = cloud.run("supervise", "--dry-run", "--spot", "--queued", train=HOSTILE)
    assert done.returncode == 0, done.stderr
    assert sorted(cloud.place.iterdir()) == before
    # Run what was printed, against a gcloud that records: the same calls as without --dry-run.
    script = "\n".join(line for line in done.stdout.splitlines() if line.startswith("gcloud"))
    cloud.script(READY)
    cloud.plan({"code": 0})
    subprocess.run(["bash", "-c", script], **cloud.pipes())
    assert [c[3] for c in cloud.calls()] == ["create", "scp", "ssh", "ssh", "ssh", "delete"]
    assert {"--spot", "--node-id=slice", "--zone=z"} < set(cloud.calls()[0])


def test_arguments_arrive_byte_for_byte_on_all_hosts(cloud):
    """Fails if an argument is split, expanded or lost on the way through two shells."""
    cloud.script(READY)
    cloud.plan({"code": 0})
    done = cloud.run("supervise", train=HOSTILE)
    assert done.returncode == 0, done.stderr
    expected = [*HOSTILE, "--workdir", str(cloud.workdir)]
    assert cloud.starts(0) == cloud.starts(1) == [expected]
    assert (cloud.workdir / "logs").is_dir()


def test_setup_runs_on_all_hosts_before_the_installation(cloud):
    """Fails if --setup is left out, or its quotes are eaten."""
    cloud.script(READY)
    cloud.plan({"code": 0})
    done = cloud.run("supervise", "--setup", f'echo "$HOST it\'s" >>{cloud.place}/setup; ls .venv')
    assert done.returncode == 1, done.stderr  # ls fails: nothing is installed or started
    assert sorted(set((cloud.place / "setup").read_text().splitlines())) == [
        "host0 it's",
        "host1 it's",
    ]
    assert cloud.starts() == []


@pytest.mark.parametrize("queued", [False, True])
def test_a_preempted_slice_is_deleted_and_created_and_the_run_resumes(cloud, queued):
    """Fails if a lost slice is used again, or is created over the old one."""
    lost = {"tpu-vm": ["PREEMPTED"], "queued-resources": ["SUSPENDED"]}
    granted = {"queued-resources": ["WAITING_FOR_RESOURCES", "ACTIVE"], **READY}
    cloud.script(granted, granted)
    # It is lost when both have started. Host 1 notices then, and not before host 0 has saved.
    first = {"code": 0, "step": 10, "lose": lost, "until": "host1.starts.jsonl"}
    cloud.plan(first, {"code": 0, "step": 20}, host=0)
    cloud.plan({"code": 134, "until": "lost-host0-*"}, {"code": 0}, host=1)
    done = cloud.run("supervise", "--spot", *(["--queued"] if queued else []))
    assert done.returncode == 0, done.stderr
    assert cloud.asked("create", "delete") == ["create", "delete", "create", "delete"]
    kinds = {c[2] for c in cloud.calls() if c[3] in ("create", "delete")}
    assert kinds == {"queued-resources" if queued else "tpu-vm"}
    assert len(cloud.starts()) == 2
    assert "restart 1 of 5, newest checkpoint 10" in done.stderr


def test_a_request_that_fails_is_made_again(cloud):
    """Fails if FAILED or SUSPENDED is waited on, or a refused create ends everything."""
    failing = [{"queued-resources": ["ACCEPTED", state]} for state in ("FAILED", "SUSPENDED")]
    cloud.script(*failing, {"queued-resources": ["ACTIVE"], **READY}, refuse=1)
    cloud.plan({"code": 0})
    done = cloud.run("supervise", "--queued")
    assert done.returncode == 0, done.stderr
    assert cloud.asked("create", "delete") == ["create"] + ["create", "delete"] * 3


def test_restarts_without_a_newer_checkpoint_are_limited(cloud):
    """Fails if the limit is one more or less, or a newer checkpoint does not count from 0 again."""
    cloud.script(READY)
    cloud.plan({"code": 75, "step": 9}, {"code": 143, "step": 10}, {"code": 1}, host=0)
    cloud.plan({"code": 134}, host=1)
    done = cloud.run("supervise", "--restarts", "1")
    assert done.returncode == 1
    # Start 2 goes on from step 9, start 3 from step 10; the next would be the second from there.
    assert len(cloud.starts()) == 3, done.stderr
    assert cloud.asked("create", "delete") == ["create", "delete"]


@pytest.mark.parametrize("code", [2, 130])
def test_a_final_code_of_one_host_is_final(cloud, code):
    """Fails if a user's error is tried again, or the code of the run is another host's."""
    cloud.script(READY)
    cloud.plan({"code": 75}, host=0)
    cloud.plan({"code": code}, host=1)
    done = cloud.run("supervise", "--keep")
    assert done.returncode == code, done.stderr
    assert len(cloud.starts()) == 1
    assert cloud.asked("create", "delete") == ["create"]


def test_a_running_training_is_found_again_and_stopped(cloud):
    """Fails if supervise starts a second training beside the first, or stop does not reach it."""
    cloud.script(READY)
    cloud.plan({"code": 0, "wait": True}, {"code": 0})
    for verb in ("up", "install", "run"):
        done = cloud.run(verb)
        assert done.returncode == 0, done.stderr
    wait_for(lambda: len(list(cloud.place.glob("host?.waiting"))) == 2)
    assert cloud.run("run").returncode == 1
    other = cloud.run("supervise", workdir="/another")
    assert (other.returncode, "another run" in other.stderr) == (2, True), other.stderr
    status = subprocess.run(cloud.command("status")[:-5], **cloud.pipes())
    assert status.stdout.splitlines() == ["slice is READY", "running", "running"]
    for last in (False, True):
        calls = len(cloud.calls())
        supervisor = subprocess.Popen(cloud.command("supervise"), **cloud.pipes())
        wait_for(lambda seen=calls: any("tail --pid" in c[-2] for c in cloud.calls()[seen:]))
        if not last:  # its end does not reach the training, nor does it wait for it
            supervisor.terminate()
            assert "goes on" in supervisor.communicate(timeout=20)[1]
            assert supervisor.returncode == 143
    assert len(cloud.starts()) == 1
    assert cloud.run("stop").returncode == 0
    supervisor.communicate(timeout=40)
    assert supervisor.returncode == 0  # 143 of both: started again, and then complete
    assert [len(cloud.starts(i)) for i in (0, 1)] == [2, 2]
    assert "saved" in next((cloud.workdir / "logs").iterdir()).read_text()


def test_nothing_is_created_where_gcloud_does_not_answer(cloud):
    """Fails if no answer is taken for no slice: there would be two, or one would be lost."""
    cloud.script(READY, silent=True)
    done = cloud.run("supervise", "--restarts", "1", "--keep")
    assert done.returncode == 1
    assert cloud.asked("create", "delete", "ssh") == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--name", "a b"], "lowercase"),
        (["--zone", ""], "--zone is missing"),
        (["--typo", "x"], "--typo is not an option"),
        (["--restarts", "-1"], "whole number"),
        (["--spot", "x"], "x is not an option"),
    ],
)
def test_wrong_options_are_refused(cloud, args, said):
    """Fails if gcloud is called before the options were looked at."""
    done = cloud.run("supervise", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert cloud.calls() == []


def wait_for(done):
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
