"""Kill -9 at random moments: the run always ends bitwise equal to one that was never disturbed.

    python tests/faults/kill.py --folder DIR [--kills 50] [--seed 0]

Half of the kills come at any moment of a start (from its first second on, and after), half while a
checkpoint is being written. Five kills a run, then it is finished and compared, every array and
every metric. Prints a table and ends with 1 where anything differs.
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


def kill_once(workdir: Path, moment: str, draw: random.Random) -> str | None:
    """Start, and kill at a moment; what the run was doing then, None where it had ended."""
    lines = runs.said(workdir).count("\n")
    process = runs.start(workdir)

    def done() -> str:
        return "\n".join(runs.said(workdir).splitlines()[lines:])

    if moment == "saving":
        before = runs.saved_steps(workdir)[-1:]
        runs.wait_until(
            lambda: runs.saving(workdir) and runs.saved_steps(workdir)[-1:] >= before, [process]
        )
        time.sleep(draw.random() * 0.04)
    elif draw.random() < 0.3:
        time.sleep(draw.random() * 8)
    else:
        runs.wait_until(lambda: "compiling the train step" in done(), [process])
        time.sleep(draw.random() * 6)
    writing, text = runs.saving(workdir), done()
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    if writing:
        return "saving"
    if text.rstrip().endswith("evaluating (kNN) ..."):
        return "evaluation"
    return "training" if "compiling the train step" in text and "done in" in text else "start"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    undisturbed = args.folder / "undisturbed"
    if runs.saved_steps(undisturbed)[-1:] != [runs.STEPS]:
        assert runs.finish([runs.start(undisturbed)]) == [0], runs.said(undisturbed)
    counts: dict[str, int] = {}
    bad: list[str] = []
    number = 0
    while sum(counts.values()) < args.kills:
        number += 1
        workdir = args.folder / f"killed-{number}"
        runs.clear(workdir)
        for i in range(5):
            if sum(counts.values()) == args.kills:
                break
            found = kill_once(workdir, "saving" if i % 2 else "any", draw)
            if found is None:
                break
            counts[found] = counts.get(found, 0) + 1
        codes = runs.finish([runs.start(workdir)])
        wrong = f"exit code {codes[0]}" if codes != [0] else runs.difference(workdir, undisturbed)
        if wrong:
            bad.append(f"{workdir}: {wrong}")
        print(f"run {number}: {sum(counts.values())} kills, {wrong or 'equal'}", flush=True)
    lines = [[f"kill -9 in {kind}", count] for kind, count in sorted(counts.items())]
    print(runs.table(["fault", "times"], lines))
    print(f"{number} runs, {len(bad)} of them not bitwise equal to the undisturbed one")
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
