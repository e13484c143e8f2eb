"""SIGTERM in every phase of a run, of one process and of one of two; then the run goes on.

    python tests/faults/signals.py --folder DIR [--times 3] [--processes 1,2]

In every case the code must be 143 (128 + SIGTERM), of all processes, with the same step saved; the
run is started again, finished, and compared bit for bit with an undisturbed one. While nothing has
been trained yet (opening, compiling) one process of two may leave at once: the other then ends
within the heartbeat, and all are started again.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import small_runs as runs

PHASES = {
    "opening the data": lambda w: "opening the data ..." in runs.said(w),
    "compiling": lambda w: "compiling the train step" in runs.said(w),
    "training": lambda w: (w / "metrics.jsonl").exists() and len(runs.rows(w)) >= 3,
    "evaluation": lambda w: "evaluating (kNN) ..." in runs.said(w),
    "saving": runs.saving,
}


def one_case(
    folder: Path, phase: str, count: int, number: int, undisturbed: Path, draw: random.Random
) -> tuple[str, str]:
    """Disturb a run once: (what happened, what is wrong)."""
    workdir = folder / f"{phase.split()[0]}-{count}-{number}"
    runs.clear(workdir)
    group = runs.start_two(workdir) if count == 2 else [runs.start(workdir)]
    if not runs.wait_until(lambda: PHASES[phase](workdir), group):
        return "", "it ended before"
    time.sleep(draw.random() * 0.2 if phase in ("opening the data", "compiling") else 0)
    begin = time.monotonic()
    group[number % count].send_signal(signal.SIGTERM)
    codes = runs.finish(group)
    seconds = time.monotonic() - begin
    step = (runs.saved_steps(workdir) or [0])[-1]
    happened = f"codes {', '.join(map(str, codes))} in {seconds:.1f} s, step {step} saved"
    started = "step" in runs.said(workdir) and step > 0
    if started and codes != [128 + signal.SIGTERM] * count:
        return happened, "another exit code"
    if codes[number % count] != 128 + signal.SIGTERM or 0 in codes or 2 in codes:
        return happened, "a code that says: do not start again"
    for _ in range(3):
        group = runs.start_two(workdir) if count == 2 else [runs.start(workdir)]
        if runs.finish(group) == [0] * count:
            return happened, runs.difference(workdir, undisturbed)
    return happened, "it could not be finished"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--phases", default=",".join(PHASES))
    args = parser.parse_args()
    draw, lines, bad = random.Random(0), [], 0
    for count in map(int, args.processes.split(",")):
        undisturbed = args.folder / f"undisturbed-{count}"
        if runs.saved_steps(undisturbed)[-1:] != [runs.STEPS]:
            start = runs.start_two if count == 2 else lambda w: [runs.start(w)]
            assert runs.finish(start(undisturbed)) == [0] * count, runs.said(undisturbed)
        for phase in args.phases.split(","):
            for number in range(args.times):
                happened, wrong = one_case(args.folder, phase, count, number, undisturbed, draw)
                bad += bool(wrong)
                whom = f"process {number % 2} of 2" if count == 2 else "the process"
                lines.append([f"SIGTERM to {whom}, {phase}", happened, wrong or "nothing"])
                print(*lines[-1], sep=": ", flush=True)
    print(runs.table(["fault", "what happened", "what was lost"], lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
