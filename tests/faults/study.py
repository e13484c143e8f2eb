"""Kill -9 of a study at random moments: its jobs end with it, and it ends in the same table.

    python tests/faults/study.py --folder DIR [--kills 8] [--seed 0]

The study has four jobs of small runs. After each kill of the command (not of its job), the job must
be gone within seconds, having saved; then the same command goes on, until one is not killed. The
table, and the metrics of each run, are compared with those of an undisturbed study. At the end one
command is stopped by SIGTERM instead. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUDY = f"""
from byol_jax.study.plan import Row, Study

def get_study():
    return Study(
        name="Small", config="{ROOT}/configs/digits.py", argument="byol", seeds=(0, 1),
        rows=[Row("BYOL"), Row("tau 1", {{"byol.tau": 1.0}})], protocols={{"knn": {{}}}},
        columns={{"kNN": "knn/top1", "loss": "metrics/train/loss"}}, shown="kNN",
    )
"""
SMALL = (
    *("--config.epochs=12", "--config.encoder.width=0.25", "--config.log_every=5"),
    *("--config.checkpoint_every=10", "--config.data.steps_per_dispatch=1"),
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The command, as from a shell."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.py").write_text(STUDY)
    command = ["-m", "byol_jax.study", "--study", str(folder / "study.py"), *SMALL]
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, *command, "--workdir", str(folder / "out")],
            env=env,
            cwd=ROOT,
            stdout=said,
            stderr=said,
        )


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The metrics of each run, without times."""
    found = {}
    for path in sorted((folder / "out").glob("*/seed*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        name = str(path.relative_to(folder))
        found[name] = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in lines]
    return found


def jobs_of(folder: Path) -> list[int]:
    """The processes that work in the folder: their output goes to a file in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            target = os.readlink(process / "fd" / "1")
        except OSError:
            continue
        if target.startswith(str(folder / "out")):
            found.append(int(process.name))
    return found


def wait_until_gone(folder: Path, limit: float = 60.0) -> bool:
    """Wait until no job works in the folder."""
    end = time.monotonic() + limit
    while jobs_of(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, bad = random.Random(args.seed), []
    whole, killed = args.folder.resolve() / "whole", args.folder.resolve() / "killed"
    shutil.rmtree(killed, ignore_errors=True)
    if (
        not (whole / "out" / "table.md").exists()
        or "Not in" in (whole / "out/table.md").read_text()
    ):
        assert start(whole).wait() == 0, (whole / "said").read_text()
    kills, stopped = 0, False
    while True:
        process = start(killed)
        while process.poll() is None and not jobs_of(killed):
            time.sleep(0.05)
        try:
            code = process.wait(draw.random() * 25 if kills < args.kills or not stopped else 900)
        except subprocess.TimeoutExpired:
            if kills < args.kills:
                process.kill()
                process.wait()
                kills += 1
            else:
                stopped = True
                process.terminate()
                if process.wait(120) != 143:
                    bad.append(f"SIGTERM ended it with {process.returncode}, not 143")
            if not wait_until_gone(killed):
                bad.append("a job went on alone")
            continue
        if code:
            bad.append(f"it ended with {code}: {(killed / 'said').read_text()[-500:]}")
        break
    same = (whole / "out/table.md").read_text() == (killed / "out/table.md").read_text()
    if not same:
        bad.append("the tables differ")
    if rows(whole) != rows(killed):
        bad.append("the metrics differ")
    how = "stopped once by SIGTERM" if stopped else "not stopped by SIGTERM"
    print(f"{kills} kills, {how}: {'; '.join(bad) or 'the same table, the same metrics'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
