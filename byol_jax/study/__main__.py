"""Train and judge the rows of a table, several seeds each; the same command goes on with it.

python -m byol_jax.study --study FILE[:ARGUMENT] --workdir DIR [--seeds 0,1,2] \\
    [--config FILE] [--config.KEY=VALUE ...] [--index K | --status]

DIR/ROW/seedN are ordinary run folders; the result is DIR/table.md, table.json and plot.png.
With --index only job K is done, in this process, which is what one job of an array is for; --status
writes the tables from what is there. docs/studies.md has the studies, and how to write one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from byol_jax import cli, log
from byol_jax.config import names_in
from byol_jax.study.figures import folders_of_no_row
from byol_jax.study.jobs import Stopped, is_done, processes, run_job, run_plan
from byol_jax.study.plan import Plan, make_plan
from byol_jax.study.table import markdown, write_tables
from byol_jax.writing import check_writable


def study(
    name: str,
    workdir: str | Path,
    options: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> int:
    """Do what is left of a study, each job in a process of its own, and write its tables.

    Args:
      name: FILE or FILE:ARGUMENT.
      workdir: folder of the study.
      options: see `make_plan`.
      seeds: in place of the study's.

    Returns:
      0: complete. 1: a row failed; its name and reason are in the table.

    Raises:
      ValueError: anything in the study is wrong: before the first run starts.
      Stopped: by a signal; what runs has saved, and the same call goes on.
    """
    plan = make_plan(name, Path(workdir).expanduser(), options, seeds)
    check_writable(plan.workdir / "table.md", "--workdir")
    for folder in folders_of_no_row(plan):
        log.say(f"{folder} belongs to no row of this study")
    done = sum(map(is_done, plan.jobs))
    log.say(f"{plan.study.name}: {len(plan.jobs)} jobs, {done} of them done")
    with processes() as start:
        failed = run_plan(plan, start, lambda: write_tables(plan, picture=False))
    print(show(plan))
    return 1 if failed else 0


def show(plan: Plan, *, picture: bool = True) -> str:
    """Write the tables of what is there; returns the Markdown."""
    return markdown(plan, write_tables(plan, picture=picture))


def main() -> int:
    """The command line."""
    f = flags.FLAGS
    if not f.study or not f.workdir:
        missing = "--study" if not f.study else "--workdir"
        raise ValueError(f"{missing} is missing; give --study FILE and --workdir DIR.")
    if f.status and f.index >= 0:
        raise ValueError("--status does no job, and --index is one; give one of them.")
    workdir, seeds = Path(f.workdir), _whole(f.seeds)
    if f.index < 0 and not f.status:
        try:
            return study(f.study, workdir, OPTIONS, seeds)
        except Stopped as stopped:
            log.say("stopped; the same command goes on")
            return stopped.code
    plan = make_plan(f.study, workdir, OPTIONS, seeds)
    if f.status:
        log.say(f"{len(plan.jobs)} jobs, --index 0 to {len(plan.jobs) - 1}")
        print(show(plan))
        return 0
    if f.index >= len(plan.jobs):
        raise ValueError(f"--index is {f.index}; expected 0 to {len(plan.jobs) - 1}.")
    return run_job(plan.jobs[f.index], workdir)


def _whole(text: str) -> list[int]:
    names = names_in(text)
    if not all(name.isdecimal() for name in names):
        raise ValueError(f"--seeds is {text!r}; expected whole numbers with commas: 0,1,2.")
    return [int(name) for name in names]


def split_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without --config FILE and --config.KEY, and those, each in one piece."""
    rest: list[str] = []
    options: list[str] = []
    waiting = False
    for arg in argv:
        name = arg.lstrip("-").split("=", 1)[0] if arg.startswith("-") else ""
        if waiting:
            options[-1] += f"={arg}"
        elif name == "config" or name.startswith(("config.", "noconfig.")):
            options.append(arg)
        else:
            rest.append(arg)
        waiting = not waiting and name == "config" and "=" not in arg
    return rest, options


OPTIONS: list[str] = []

if __name__ == "__main__":
    flags.DEFINE_string("study", "", "FILE or FILE:ARGUMENT of the study")
    flags.DEFINE_string("workdir", "", "folder of the study")
    flags.DEFINE_string("seeds", "", "seeds in place of the study's, with commas")
    flags.DEFINE_integer("index", -1, "do this job alone, in this process: 0, 1, ...")
    flags.DEFINE_bool("status", False, "write the tables from what is there, and exit")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    argv, OPTIONS[:] = split_options(sys.argv)
    cli.run(main, argv)
