"""A real SLURM of two nodes on this machine: runs end, requeue and resume by launch/slurm.sbatch.

    python tests/faults/slurm.py [--cases preempted,time_limit] [--keep]

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; skips with the reason
where something is missing. Everything lies in a temporary folder and listens on 127.0.0.1; the
names n1 and n2 exist for it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "unshare")
CONFIG = """
ClusterName=byol
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# A requeued job may start again once its credential has expired: 2 minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
SchedulerParameters=bf_interval=2,sched_min_interval=1000000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE
PartitionName=high Nodes=n1,n2 PriorityTier=9 PreemptMode=OFF
"""

TRAIN = ["--config.epochs=24", "--config.checkpoint_every=20"]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def wait_for(what: str, done: Callable[[], object], seconds: float = 300) -> None:
    """Look every half second until something is so.

    Raises:
      TimeoutError: it was not so in time.
    """
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.5)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run munged, slurmctld and two slurmd until the block is left."""
    host = socket.gethostname()
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {host} n1 n2\n")
    # This process has its own view of the mounts, so that nobody else sees these names.
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, ports=free_ports(3), folder=folder))
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    os.environ["SLURM_CONF"] = str(config)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = {
        "munged": ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "n1": ["slurmd", "-D", "-N", "n1"],
        "n2": ["slurmd", "-D", "-N", "n2"],
    }
    running = []
    try:
        for name, command in commands.items():
            with open(folder / f"{name}.log", "w") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
            if name == "munged":
                wait_for("munged", (folder / "munge.socket").exists, 20)
        wait_for("both nodes", lambda: out("sinfo", "-h", "-o", "%D %t").strip() == "2 idle", 60)
        yield
    finally:
        for how in (["--signal=KILL", "--full"], []):
            subprocess.run(["scancel", "--me", *how], stderr=subprocess.DEVNULL)
        with contextlib.suppress(TimeoutError):
            wait_for("the jobs to end", lambda: not out("squeue", "-h", "-t", "R,CG"), 20)
        for process in reversed(running):
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        subprocess.run(["umount", "/etc/hosts"])


def out(*command: str) -> str:
    """What a command prints; empty where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


class Job:
    """A run handed to SLURM: two nodes, one CPU device each."""

    def __init__(self, folder: Path, name: str, *train: str, sbatch: tuple[str, ...] = ()) -> None:
        self.workdir, self.log = folder / f"{name} $run", folder / f"{name}.log"
        # One place for what is compiled, so that a requeued job does not compile again.
        cache = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        command = ["sbatch", "--parsable", "--nodes=2", f"--output={self.log}", *sbatch]
        command += ["launch/slurm.sbatch", "--config", "configs/digits.py"]
        command += ["--workdir", str(self.workdir), *train]
        python = {"PYTHON": os.environ.get("PYTHON", sys.executable)}
        env = {**os.environ, **cache, **python}
        done = subprocess.run(
            command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True
        )
        self.id = done.stdout.strip()

    def said(self, text: str) -> int:
        """How often the job's log has a text."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0

    def facts(self) -> dict[str, str]:
        """What SLURM says of the job."""
        return dict(re.findall(r"(\S+?)=(\S*)", out("scontrol", "-o", "show", "job", self.id)))

    def step(self) -> int:
        """The newest checkpoint, or -1."""
        names = (p.name for p in self.workdir.glob("checkpoints/*"))
        return max([int(n) for n in names if n.isdigit()], default=-1)

    def end(self, state: str) -> dict[str, str]:
        """Wait until the job is over; it must be over as said."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_for(f"job {self.id}", lambda: self.facts()["JobState"] in over, 1200)
        facts = self.facts()
        assert facts["JobState"] == state, (facts, self.log.read_text(errors="replace")[-3000:])
        return facts


def rows(workdir: Path) -> list[dict[str, float]]:
    """The metrics, without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def arrays(workdir: Path) -> dict[str, bytes]:
    """Every array of the newest checkpoint."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    newest = max(
        (p for p in workdir.glob("checkpoints/*") if p.name.isdigit()), key=lambda p: int(p.name)
    )
    handler = ocp.PyTreeCheckpointHandler()
    with ocp.Checkpointer(handler) as checkpointer:
        path = newest / "state"
        tree = checkpointer.metadata(path).item_metadata.tree
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
    return {
        jax.tree_util.keystr(k): np.asarray(v).tobytes()
        for k, v in jax.tree.leaves_with_path(state)
    }


def pids(workdir: Path) -> list[int]:
    """The training processes of a run on this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"byol_jax.train" in words[:4] and str(workdir).encode() in words:
                found.append(int(entry.name))
    return found


def preempted(folder: Path, *train: str) -> Job:
    """A job of higher priority takes both nodes."""
    job = Job(folder, "preempted", *train)
    wait_for("a checkpoint", lambda: job.step() > 0)
    other = ["--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=srun sleep 3"]
    subprocess.run(["sbatch", *other], check=True, stdout=subprocess.DEVNULL)
    return job


def requeued(folder: Path, *train: str) -> Job:
    """The administrator requeues the job."""
    job = Job(folder, "requeued", *train)
    wait_for("a checkpoint", lambda: job.step() > 0)
    subprocess.run(["scontrol", "requeue", job.id], check=True)
    return job


def signalled(folder: Path, *train: str) -> Job:
    """The processes get SIGTERM from SLURM, as ahead of a time limit."""
    job = Job(folder, "signalled", *train)
    wait_for("a checkpoint", lambda: job.step() > 0)
    subprocess.run(["scancel", "--signal=TERM", job.id], check=True)
    return job


def time_limit(folder: Path, *train: str) -> Job:
    """The time limit comes before the end; SIGTERM comes ahead of it."""
    # SLURM counts minutes, and may signal one earlier than told: after 1 to 2 minutes here. The
    # run must be longer than that.
    return Job(folder, "time_limit", *train, sbatch=("--time=3", "--signal=TERM@60"))


def killed(folder: Path, *train: str) -> Job:
    """One process gets kill -9."""
    job = Job(folder, "killed", *train)
    wait_for("a checkpoint", lambda: job.step() > 0)
    os.kill(pids(job.workdir)[0], signal.SIGKILL)
    return job


CASES = {f.__name__: f for f in (preempted, requeued, signalled, killed, time_limit)}


def users_error(folder: Path) -> None:
    """Code 2 is final: the job fails, and is not requeued."""
    facts = Job(folder, "users_error", "--config.batch_size=-1").end("FAILED")
    assert (facts["ExitCode"], facts["Restarts"]) == ("2:0", "0"), facts
    print("users_error: failed with code 2, not requeued", flush=True)


def run(folder: Path, cases: list[str], train: list[str]) -> None:
    """An undisturbed run, and each disturbed one compared with it."""
    with cluster(folder):
        users_error(folder)
        whole = Job(folder, "undisturbed", *train)
        whole.end("COMPLETED")
        expected = rows(whole.workdir), arrays(whole.workdir)
        print(f"undisturbed: complete, {whole.step()} steps on 2 nodes", flush=True)
        for name in cases:
            job = CASES[name](folder, *train)
            facts = job.end("COMPLETED")
            resumed = re.findall(r"resumed from step \d+", job.log.read_text(errors="replace"))
            assert int(facts["Restarts"]) >= 1, facts
            assert resumed, job.log.read_text(errors="replace")[-3000:]
            same = rows(job.workdir) == expected[0], arrays(job.workdir) == expected[1]
            print(
                f"{name}: Restarts={facts['Restarts']}, {', '.join(sorted(set(resumed)))}, step "
                f"{job.step()}; equal metrics {same[0]}, equal state {same[1]}",
                flush=True,
            )
            assert all(same), name


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", default="preempted,requeued,signalled,killed", help="which, by commas"
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    parser.add_argument("train", nargs="*", help="more arguments of train, after --")
    args = parser.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        print(f"skipped: needs {', '.join(missing) or 'root'}")
        return
    if "BYOL_JAX_OWN_MOUNTS" not in os.environ:
        os.environ["BYOL_JAX_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    folder = Path(tempfile.mkdtemp(prefix="byol_jax_slurm_"))
    try:
        run(folder, args.cases.split(","), args.train or TRAIN)
    finally:
        print(f"kept: {folder}") if args.keep else shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
