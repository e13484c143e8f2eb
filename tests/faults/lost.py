"""A process that dies, a process that hangs, a loader that hangs: the others end, and all go on.

    python tests/faults/lost.py --folder DIR [--times 3]

Two processes of two devices by launch/local.sh, of which one is killed or stopped (SIGSTOP): the
other must end within the heartbeat (10 s here), the launcher start both again, and the run end
bitwise equal to an undisturbed one. The loader: every image file becomes a pipe that nobody writes
into, so that reading never returns; the process must end itself after `hang_seconds` with the
stacks, and go on when the files are back.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

from byol_jax.processes import RESTART


def launch(workdir: Path) -> subprocess.Popen[str]:
    """A run of two processes by the launcher."""
    env = os.environ | {"PYTHONPATH": str(runs.ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    command = ["launch/local.sh", "--processes", "2", "--devices", "2", "--restarts", "3"]
    command += ["--python", sys.executable, "--", *runs.SMALL, "--workdir", str(workdir)]
    with runs.said_file(workdir).open("a") as said:
        return subprocess.Popen(
            [*command, "--heartbeat_seconds=10"],
            cwd=runs.ROOT,
            env=env,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        )


def members(workdir: Path) -> dict[int, int]:
    """The running train processes of a run: {process number: pid}."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        number = next((w for w in words if w.startswith(b"--process_id=")), b"")
        if str(workdir).encode() in words and b"byol_jax.train" in words and number:
            found[int(number.split(b"=")[1])] = int(path.parent.name)
    return found


def lose(folder: Path, undisturbed: Path, number: int, how: signal.Signals) -> list[str]:
    """Kill or stop one process of two: a row of the table."""
    workdir = folder / f"{how.name.lower()}-{number}"
    runs.clear(workdir)
    launcher = launch(workdir)
    metrics = workdir / "metrics.jsonl"
    begun = runs.wait_until(
        lambda: metrics.exists() and len(runs.rows(workdir)) >= 3, [launcher], 600
    )
    assert begun, runs.said(workdir)
    group = members(workdir)
    os.kill(group[number % 2], how)
    begin = time.monotonic()
    other = Path(f"/proc/{group[1 - number % 2]}")
    while other.exists() and time.monotonic() - begin < 120:
        time.sleep(0.05)
    seconds = time.monotonic() - begin
    code = launcher.wait(600)
    if how == signal.SIGSTOP and Path(f"/proc/{group[number % 2]}").exists():
        os.kill(group[number % 2], signal.SIGKILL)
    starts = len(re.findall("resumed from step", runs.said(workdir)))
    problem = f"exit code {code}" if code else runs.difference(workdir, undisturbed)
    happened = f"the other ended after {seconds:.1f} s; resumed {starts} time(s), code {code}"
    word = "killed" if how == signal.SIGKILL else "stopped (hangs)"
    name = f"process {number % 2} of 2 {word}"
    return [name, happened, problem or "nothing but the steps since the last save"]


def hang_loader(folder: Path) -> list[str]:
    """Let the loader of a run hang: a row of the table."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, workdir = folder / "images", folder / "loader"
    runs.clear(workdir)
    images.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    for i in range(512):
        pixels = np.round(digits.images[i] * (255 / 16)).astype(np.uint8)
        place = images / str(digits.target[i])
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((32, 32)).save(place / f"{i}.png")
    flags = (
        *("--config.data.name=folder", f"--config.data.dir={images}", "--config.batch_size=32"),
        *("--config.data.placement=stream", "--config.data.steps_per_dispatch=0"),
        *("--config.views.recipe=cifar", "--config.views.placement=host", "--config.epochs=20"),
        *("--config.image_size=16", "--config.method.probe=False", "--config.evaluate_every=0"),
        *("--config.hang_seconds=20.0",),
    )
    process = runs.start(workdir, *flags)
    metrics = workdir / "metrics.jsonl"
    assert runs.wait_until(lambda: metrics.exists() and len(runs.rows(workdir)) >= 2, [process]), (
        runs.said(workdir)
    )
    for path in images.rglob("*.png"):
        path.rename(path.with_suffix(".away"))
        os.mkfifo(path)
    begin = time.monotonic()
    code = process.wait(300)
    seconds = time.monotonic() - begin
    for path in images.rglob("*.away"):
        path.rename(path.with_suffix(".png"))  # in place of the pipe
    stacks = workdir / "stacks-0.txt"
    problem = "" if code == RESTART and stacks.exists() else f"exit code {code}"
    again = runs.finish([runs.start(workdir, *flags)])
    problem = problem or ("" if again == [0] else f"then exit code {again}")
    happened = f"code {code} after {seconds:.0f} s (hang_seconds 20), stacks written; resumed, code"
    lost = "nothing but the steps since the last save"
    return ["loader hangs (pipes for images)", f"{happened} {again[0]}", problem or lost]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    undisturbed = args.folder / "undisturbed-2"
    if runs.saved_steps(undisturbed)[-1:] != [runs.STEPS]:
        assert runs.finish(runs.start_two(undisturbed)) == [0, 0], runs.said(undisturbed)
    lines = [hang_loader(args.folder)]
    for how in (signal.SIGKILL, signal.SIGSTOP):
        for number in range(args.times):
            lines.append(lose(args.folder, undisturbed, number, how))
            print(*lines[-1], sep=": ", flush=True)
    print(runs.table(["fault", "what happened", "what was lost"], lines))
    return 0 if all(line[2].startswith("nothing") for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
