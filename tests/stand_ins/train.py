"""A stand-in for the interpreter that runs byol_jax.train.

In $STAND_IN: NAME.starts.jsonl, one argv a start, where NAME is the host's or the process's; and
NAME.json, what each start does in turn, the last for good: {"code": exit code, "step": checkpoint
that it saves, "say": text for stdout, "wait": stay until a signal comes and end with "code" or,
where that is 0, 128 + its number (with "deaf": not even then), "after": go on when that process
waits, "until": go on when there is a file like this, "lose": the slice is preempted}.
NAME.signals: the signals that came.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PLACE = Path(os.environ["STAND_IN"])


def train(argv: list[str]) -> int:
    """One start."""
    ids = [a.partition("=")[2] for a in argv if a.startswith("--process_id=")]
    name = os.environ.get("HOST") or f"process{(ids or [os.environ.get('SLURM_PROCID')])[0]}"
    starts = PLACE / f"{name}.starts.jsonl"
    with open(starts, "a") as file:
        file.write(json.dumps(argv) + "\n")
    plan = json.loads((PLACE / f"{name}.json").read_text())
    todo = plan[min(len(starts.read_text().splitlines()), len(plan)) - 1]
    if "step" in todo:
        workdir = Path(argv[argv.index("--workdir") + 1])
        (workdir / "checkpoints" / str(todo["step"])).mkdir(parents=True, exist_ok=True)
    print(end=todo.get("say", ""), flush=True)
    while "after" in todo and not (PLACE / f"{todo['after']}.waiting").exists():
        time.sleep(0.05)
    while "until" in todo and not [*PLACE.glob(todo["until"])]:
        time.sleep(0.05)
    if todo.get("wait"):
        handler = Saving(PLACE / f"{name}.signals", todo["code"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if todo.get("deaf") else handler)
        (PLACE / f"{name}.waiting").write_text(str(os.getpid()))
        time.sleep(60)
    if todo.get("lose"):
        (PLACE / "script.new").write_text(
            json.dumps(json.loads((PLACE / "script.json").read_text()) | {"states": todo["lose"]})
        )
        (PLACE / "script.new").rename(PLACE / "script.json")
        for host in PLACE.glob("host?"):
            host.rename(PLACE / f"lost-{host.name}-{time.time_ns()}")
    return todo["code"]


class Saving:
    """What a signal starts: it takes a while, in which others may come."""

    def __init__(self, signals: Path, code: int) -> None:
        self.signals, self.code = signals, code
        self.first = True

    def __call__(self, number: int, _: object) -> None:
        first, self.first = self.first, False
        with open(self.signals, "a") as file:
            file.write(f"{number}\n")
        if first:
            time.sleep(0.7)
            print("saved", flush=True)
            sys.exit(self.code or 128 + number)


if __name__ == "__main__":
    assert sys.argv[1:3] == ["-m", "byol_jax.train"], sys.argv
    sys.exit(train(sys.argv[3:]))
