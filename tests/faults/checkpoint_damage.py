"""Damage every file and folder of a run's newest checkpoint in turn, and print what happened.

    python tests/faults/checkpoint_damage.py [--workdir DIR] [--resumes 6]

A small run of the demo is trained first. After each damage the step that a resume would take is
looked up; for some of them the command itself is run again, and must end bitwise equal to the
undisturbed run. Exit 1 if a damaged checkpoint was taken whose numbers differ.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402

from byol_jax.checkpoint import Checkpoints  # noqa: E402

LAST = 20
Fault = Callable[[Path], None]


def train(workdir: Path) -> subprocess.CompletedProcess:
    """The command of the run: 20 steps, saved at 7, 14 and 20."""
    command = [
        *(sys.executable, "-m", "byol_jax.train", "--config", "configs/digits.py"),
        *("--workdir", str(workdir), "--config.epochs=2", "--config.checkpoint_every=7"),
        *("--config.encoder.width=0.25", "--config.log_every=1", "--config.keep=3"),
    ]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def flip(share: float) -> Fault:
    """Flip one bit at a share of the file; of an empty file there is none: a byte is added."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        if data:
            data[round((len(data) - 1) * share)] ^= 4
        path.write_bytes(bytes(data) or b"x")

    return damage


def truncate(path: Path) -> None:
    """Keep the first half of a file; of an empty one there is none: it is removed."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2]) if data else path.unlink()


FILE_FAULTS: dict[str, Fault] = {
    "a bit flipped, start": flip(0.0),
    "a bit flipped, middle": flip(0.5),
    "a bit flipped, end": flip(1.0),
    "cut in half": truncate,
    "deleted": Path.unlink,
}


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a step."""
    saved = Checkpoints(workdir)
    found = saved.arrays(step, "")
    saved.close()
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(
        x.dtype == b[k].dtype and x.tobytes() == b[k].tobytes() for k, x in a.items()
    )


def taken(workdir: Path, good: dict[str, np.ndarray]) -> tuple[str, str, bool]:
    """(detected, the step that a resume takes, whether that is right) for a folder as it is."""
    try:
        saved = Checkpoints(workdir)
        step, wrong = saved.newest_good()
        saved.close()
    except Exception as e:  # what this finds out
        return f"{type(e).__name__}: {str(e).splitlines()[0][:80]}", "none", False
    if step != LAST:
        return ("yes" if wrong or step else "no checkpoint is seen"), str(step), step is not None
    try:
        equal = same(arrays(workdir, LAST), good)
    except Exception as e:
        return f"no; {type(e).__name__} when read", str(step), False
    return ("no, and no number of it differs" if equal else "NO: WRONG NUMBERS"), str(step), equal


def damages(newest: Path) -> list[tuple[str, str, Fault]]:
    """(name, fault, how) for every file and folder of a checkpoint, itself included."""
    found = []
    for path in sorted(newest.rglob("*")):
        name = path.relative_to(newest).as_posix()
        if path.is_file():
            found += [(name, fault, how) for fault, how in FILE_FAULTS.items()]
        else:
            found.append((f"{name}/", "folder deleted", shutil.rmtree))
    found.append(("(the folder itself)", "folder deleted", shutil.rmtree))
    found.append(("(the folder itself)", "emptied", lambda p: (shutil.rmtree(p), p.mkdir())[1]))
    return found


def table(workdir: Path, good: dict[str, np.ndarray]) -> tuple[int, int]:
    """Every damage in turn, undone after each; returns how many, and how many went wrong."""
    newest = workdir / "checkpoints" / str(LAST)
    count, bad = 0, 0
    print("| file | fault | detected | step taken |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=workdir.parent) as kept:
        shutil.copytree(newest, Path(kept, "whole"))
        for name, fault, how in damages(newest):
            how(newest if name.startswith("(") else newest / name)
            detected, step, right = taken(workdir, good)
            count, bad = count + 1, bad + (not right)
            print(f"| {name} | {fault} | {detected} | {step} |", flush=True)
            shutil.rmtree(newest, ignore_errors=True)
            shutil.copytree(Path(kept, "whole"), newest)
    return count, bad


def largest(newest: Path) -> str:
    """The file with most of the numbers."""
    files = [p for p in newest.rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size).relative_to(newest).as_posix()


def resumes(workdir: Path, good: dict[str, np.ndarray], most: int) -> int:
    """The command run again after some of the damages; returns how many did not end well."""
    newest, bad = workdir / "checkpoints" / str(LAST), 0
    files = sorted(p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file())
    cases = [
        (largest(newest), "a bit flipped, middle"),
        ("manifest.json", "a bit flipped, middle"),
        (next(f for f in files if f.startswith("meta/")), "cut in half"),
        (next(f for f in files if f.startswith("state/")), "deleted"),
        ("_CHECKPOINT_METADATA", "cut in half"),
        ("commit_success.txt", "deleted"),
    ]
    print("\n| file | fault | exit | said | end equals the undisturbed run |")
    print("| --- | --- | --- | --- | --- |")
    for name, fault in [c for c in cases if c[0] in files][:most]:
        copy = workdir.parent / "again"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(workdir, copy)
        FILE_FAULTS[fault](copy / "checkpoints" / str(LAST) / name)
        done = train(copy)
        said = [x for x in done.stderr.splitlines() if "resumed" in x or "error" in x]
        equal = done.returncode == 0 and same(arrays(copy, LAST), good)
        bad += not equal
        shown = (said or done.stderr.splitlines()[-1:] or [""])[-1][-110:]
        print(f"| {name} | {fault} | {done.returncode} | {shown} | {equal} |", flush=True)
    return bad


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="", help="where to work; a temporary folder")
    parser.add_argument("--resumes", type=int, default=6)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Path(args.workdir or scratch) / "run"
        done = train(workdir)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        good = arrays(workdir, LAST)
        count, bad = table(workdir, good)
        print(f"\n{count} damages, {bad} went wrong, {time.monotonic() - started:.0f} s")
        bad += resumes(workdir, good, args.resumes)
        print(f"\n{bad} went wrong in all, {time.monotonic() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
