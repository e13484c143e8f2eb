"""A disk that is full: ahead of a save, and in the middle of one.

    python tests/faults/disk_full.py --folder DIR   # as root: it mounts a small tmpfs on DIR/disk

Ahead: the free space is looked at, and the run refuses before it writes. In the middle: the same
with that look disabled, so that the save itself runs out of space. Both times the code must be 2,
the error one line, every earlier step good, and no temporary folder left; with room again the run
goes on and ends bitwise equal to an undisturbed one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

from byol_jax.manifest import what_is_wrong

# The train command with a disk that always says that it is empty.
UNCHECKED = """
import collections, runpy, shutil, sys
shutil.disk_usage = lambda path: collections.namedtuple("Usage", "total used free")(0, 0, 1 << 50)
sys.argv[0] = "train"
runpy.run_module("byol_jax.train", run_name="__main__", alter_sys=True)
"""
MANY = ("--config.keep=50",)


def one_case(folder: Path, undisturbed: Path, name: str, program: tuple[str, ...]) -> list[str]:
    """Fill the disk: a row of the table."""
    disk = folder / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(disk)], check=True)
    try:
        workdir = disk / "run"
        runs.said_file(workdir).unlink(missing_ok=True)
        codes = runs.finish([runs.start(workdir, *MANY, program=program)])
        # TensorBoard's writer complains too, and leaves its line without an end.
        last = "error: " + runs.said(workdir).strip().rpartition("error: ")[2]
        steps = runs.saved_steps(workdir)
        wrong = [what_is_wrong(workdir / "checkpoints" / str(s)) for s in steps]
        problem = "exit code" if codes != [2] else ""
        # The row of metrics.jsonl beside it may be the first that does not fit.
        clear = "A checkpoint" in last or "make room for what is written" in last
        problem = problem or ("" if clear and steps else "no clear error")
        problem = problem or next((w for w in wrong if w), "")
        problem = problem or ("a temporary folder is left" if runs.saving(workdir) else "")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = runs.finish([runs.start(workdir, *MANY)])
        problem = problem or (f"exit code {again}" if again != [0] else "")
        problem = problem or runs.difference(workdir, undisturbed)
        happened = f"code {codes[0]}, steps {', '.join(map(str, steps))} good: {last[:90]} ..."
        return [name, happened, problem or "nothing but the steps since the last save"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    undisturbed = args.folder / "undisturbed"
    if runs.saved_steps(undisturbed)[-1:] != [runs.STEPS]:
        assert runs.finish([runs.start(undisturbed)]) == [0], runs.said(undisturbed)
    cases = {"disk full, seen ahead": ("-m", "byol_jax.train"), "disk full while saving": ()}
    lines = [
        one_case(args.folder, undisturbed, name, program or ("-c", UNCHECKED))
        for name, program in cases.items()
    ]
    print(runs.table(["fault", "what happened", "what was lost"], lines))
    return 0 if all(line[2].startswith("nothing") for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
