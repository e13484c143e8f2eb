"""A stand-in for gcloud: it records its calls and runs the hosts of a slice as folders here.

In $STAND_IN: calls.jsonl, one argv a line; script.json, what happens next, by keys:
  states: {"tpu-vm": [...], "queued-resources": [...]}, what `list` tells, one a call, the last for
    good; after create they are taken from `after_create`, a list of such tables.
  refuse: how many of the next calls of create fail, as where there is no capacity.
  silent: whether `list` fails, as without a network.
Each host is a folder host0, host1 ... of $STAND_IN with a HOME of its own, made by create.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PLACE = Path(os.environ["STAND_IN"])
HOSTS = 2


def main(argv: list[str]) -> int:
    """One call."""
    with open(PLACE / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(argv) + "\n")
    before = (PLACE / "script.json").read_text()
    script = json.loads(before)
    assert argv[:2] == ["compute", "tpus"], argv
    code = VERBS[argv[3]](argv[2], argv[4:], script)
    if json.dumps(script) != before:
        (PLACE / "script.json").write_text(json.dumps(script))
    return code


def option(argv: list[str], name: str) -> str:
    """The value of --NAME=VALUE."""
    return next(a.partition("=")[2] for a in argv if a.startswith(f"--{name}="))


def list_(kind: str, argv: list[str], script: dict) -> int:
    """Tell the next state; another slice is there too."""
    if script.get("silent"):
        print("ERROR: gcloud crashed (TransportError)", file=sys.stderr)
        return 1
    states = script["states"].get(kind, [])
    print("other\tREADY")
    if states and states[0] != "NONE":
        print(f"slice\t{states[0]}")
    if len(states) > 1:
        del states[0]
    return 0


def create(kind: str, argv: list[str], script: dict) -> int:
    """Make the hosts, empty."""
    if script.get("refuse", 0):
        script["refuse"] -= 1
        print("ERROR: There is no more capacity in the zone", file=sys.stderr)
        return 1
    for i in range(HOSTS):
        (PLACE / f"host{i}").mkdir()
    script["states"] = script["after_create"].pop(0)
    return 0


def delete(kind: str, argv: list[str], script: dict) -> int:
    """Take the hosts and their disks away."""
    for host in PLACE.glob("host?"):
        shutil.rmtree(host)
    script["states"] = {}
    return 0


def scp(kind: str, argv: list[str], script: dict) -> int:
    """Copy a file to all hosts."""
    for host in hosts(argv):
        shutil.copy(argv[0], host / argv[1].partition(":")[2])
    return 0


def ssh(kind: str, argv: list[str], script: dict) -> int:
    """Run a command on hosts at the same time; the code is the first that is not 0."""
    running = []
    for host in hosts(argv):
        path = f"{PLACE / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "HOME": str(host), "PATH": path, "HOST": host.name}
        command = ["bash", "-c", option(argv, "command")]
        running.append(subprocess.Popen(command, cwd=host, env=env, stdin=subprocess.DEVNULL))
    codes = [process.wait() for process in running]
    return 255 if not codes else next((code for code in codes if code), 0)


def hosts(argv: list[str]) -> list[Path]:
    """The folders of the hosts that a call is for."""
    worker = option(argv, "worker")
    found = sorted(PLACE.glob("host?"))
    return found if worker == "all" else found[int(worker) : int(worker) + 1]


VERBS = {"list": list_, "create": create, "delete": delete, "scp": scp, "ssh": ssh}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
