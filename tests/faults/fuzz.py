"""Feed damaged input to byol_jax: every case ends fine or with a clear error.

    python tests/faults/fuzz.py --seconds 60 --seed 0 --target all
    python tests/faults/fuzz.py --target images --seed 0 --case 17      # one again, with traceback

Cases run in worker processes with a limit on memory (2 GiB over what the process needs itself) and
time. Outcomes: fine; error (a ValueError that the project raised itself, or an OSError, of one
line); FAILURE (any other exception, a wrong result, a crash, the memory or the time limit).
"""

import argparse
import collections
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
MEMORY = 2 * 2**30
_ARENA_MAX = -8  # of mallopt
CASES_A_WORKER = 400  # then a fresh one: what a library keeps would count as the case's memory


def verdict(error: BaseException | None) -> tuple[str, str]:
    """(fine, error or FAILURE; what was said)."""
    if error is None:
        return "fine", ""
    text = str(error).strip()
    if isinstance(error, AssertionError):
        return "FAILURE", f"wrong result: {text[:900]}"
    *_, last = traceback.extract_tb(error.__traceback__)
    ours = last.filename.startswith((f"{HERE.parents[1] / 'byol_jax'}{os.sep}", str(HERE)))
    clear = (type(error) is ValueError and ours) or isinstance(error, OSError)
    if clear and text and "\n" not in text and len(text) < 3000:
        return "error", text
    where = f"{Path(last.filename).name}:{last.lineno}"
    return "FAILURE", f"{type(error).__name__} at {where}: {text[:600]}"


def work(target: str, seed: int, folder: Path) -> None:
    """The worker: case numbers come in by line, verdicts go out by line."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    # Two arenas: each thread's own would reserve 64 MB of the limit.
    ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict
    from targets import TARGETS, run_case

    shared = TARGETS[target][0](folder)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=out, flush=True)
    for line in os.fdopen(0):
        count, error = 1, None
        try:
            count = run_case(target, shared, folder, seed, int(line))
        except Exception as e:
            error = e
        print(json.dumps([*verdict(error), count]), file=out, flush=True)


class Worker:
    """A worker process, and the files it works on.

    It is forked from this process, which may have imported what cases need, and then saves it that.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{target}_"))
        (taken, self._to), (found, given) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                said = os.open(self.folder / "stderr", os.O_WRONLY | os.O_CREAT)
                for file, number in ((taken, 0), (given, 1), (said, 2)):
                    os.dup2(file, number)
                for file in (taken, given, said, self._to, found):
                    os.close(file)
                work(target, seed, self.folder / "w")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(taken)
        os.close(given)
        self._found = os.fdopen(found, "rb")
        self.code: int | None = None
        self.used = 0
        if self._line(300) != "ready":
            raise RuntimeError(f"no worker for {target}: {self._said()}")

    def ended(self, *, wait: bool = False) -> bool:
        """Whether the process has ended, or, when that has been waited for, that it has."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def _kill(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.ended(wait=True)

    def _line(self, limit: float) -> str | None:
        ready, _, _ = select.select([self._found], [], [], limit)
        return self._found.readline().decode().strip() if ready else None

    def _said(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace").strip()[-300:]

    def case(self, number: int, limit: float) -> tuple[str, str, int]:
        """The verdict on one case; a process that is gone or slow is one."""
        self.used += 1
        os.write(self._to, f"{number}\n".encode())
        line = self._line(limit)
        if line:
            return tuple(json.loads(line))
        if line is None:
            self._kill()
            return "FAILURE", f"more than {limit:g} s", 1
        self.ended(wait=True)
        return "FAILURE", f"the process ended with {self.code}: {self._said()}", 1

    def close(self) -> None:
        """End the process and remove its files."""
        self._kill()
        os.close(self._to)
        self._found.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def fuzz(target: str, seed: int, seconds: float, cases: int, limit: float) -> dict:
    """Run cases until the time or their number is used up; says failures as they come."""
    worker, seen, inputs, number = Worker(target, seed), collections.Counter(), 0, 0
    failures, errors, start = [], collections.Counter(), time.monotonic()
    while number < cases and time.monotonic() - start < seconds:
        if worker.ended() or worker.used >= CASES_A_WORKER:
            worker.close()
            worker = Worker(target, seed)
        kind, text, count = worker.case(number, limit)
        seen[kind] += 1
        inputs += count
        if kind == "error":
            errors[text[:40]] += 1
        if kind == "FAILURE":
            failures.append([number, text])
            print(f"FAILURE {target} --seed {seed} --case {number}: {text}", flush=True)
        number += 1
    worker.close()
    took = time.monotonic() - start
    return {
        "target": target,
        "seed": seed,
        "cases": number,
        "inputs": inputs,
        "fine": seen["fine"],
        "errors": seen["error"],
        "failures": failures,
        "seconds": round(took, 1),
        "inputs_per_second": round(inputs / max(took, 1e-9), 1),
        "kinds_of_errors": len(errors),
    }


def again(target: str, seed: int, number: int) -> None:
    """One case in this process, with whatever it raises."""
    from targets import TARGETS, run_case

    with tempfile.TemporaryDirectory() as folder:
        shared = TARGETS[target][0](Path(folder, "w"))
        print(run_case(target, shared, Path(folder, "w"), seed, number), "inputs, fine")


def main() -> int:
    """The command line: 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="a target")
    parser.add_argument("--cases", type=int, default=10**9, help="a target, at most")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="all")
    parser.add_argument("--case", type=int, default=-1, help="run this one alone, here")
    parser.add_argument("--json", default="", help="write the outcome to this file")
    args = parser.parse_args()
    if args.case >= 0:
        again(args.target, args.seed, args.case)
        return 0
    from targets import TARGETS

    names = list(TARGETS) if args.target == "all" else args.target.split(",")
    found = []
    print("| target | cases | inputs | a second | fine | clear error | FAILURE |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        r = fuzz(name, args.seed, args.seconds, args.cases, args.limit)
        found.append(r)
        print(
            f"| {name} | {r['cases']:,} | {r['inputs']:,} | {r['inputs_per_second']} "
            f"| {r['fine']:,} | {r['errors']:,} | {len(r['failures'])} |",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
    return int(any(r["failures"] for r in found))


if __name__ == "__main__":
    sys.exit(main())
