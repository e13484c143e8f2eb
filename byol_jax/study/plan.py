"""What a study is, and its file read and checked: everything, before the first run starts.

A study file is Python with a function `get_study()` (or `get_study(argument)`, for FILE:ARGUMENT)
that returns a `Study`. Its runs are ordinary ones, `WORKDIR/ROW/seedN`.
"""

from __future__ import annotations

import math
import os
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from byol_jax import cli
from byol_jax.config import nearest, resolve
from byol_jax.experiment.protocols import PROTOCOLS, check_reads, settings
from byol_jax.study.record import completed, read_record
from byol_jax.train import check_resume

NOTHING: Mapping[str, Any] = {}

FEW_LABELS: Mapping[str, str] = {
    "kNN": "metrics/knn/test_top1",
    "std of z": "metrics/features/z_std",
    "1 label": "fewshot/1",
    **{f"{shots} labels": f"fewshot/{shots}" for shots in ("5", "10", "all")},
}
"""Columns of the protocol fewshot, by labels per class; the spread of z is 1 if healthy and 0 if
collapsed."""

LAST_ONLY: Mapping[str, Any] = {"evaluate_every": 0, "checkpoint_every": 0}
"""Overrides of short runs: evaluated and saved at their end alone."""


class Row(NamedTuple):
    """A row of the table: a config, trained once per seed.

    overrides: what differs from the study's config, {"byol.tau": 0.9}. argument: of the config
    file; None: the study's. published: the paper's figure. cell: headings of its row and column,
    where the table is a matrix.
    """

    name: str
    overrides: Mapping[str, Any] = NOTHING
    argument: str | None = None
    published: float | None = None
    cell: tuple[str, str] | None = None


class Study(NamedTuple):
    """Runs that are compared, and what they are judged by.

    config: of all rows, a file named relative to the study's. argument: of that file, "byol" of
    digits.py:byol. overrides: of all rows. protocols: of `evaluate`, each with what it changes of
    the config. columns: heading -> figure: "PROTOCOL/FIGURE" of a result, as fewshot/5 or knn/top1,
    or "metrics/NAME" of the last row of metrics.jsonl. shown: the column that published figures
    are compared with, and that is drawn. published: what those are, and where from.
    """

    name: str
    config: str
    rows: Sequence[Row]
    columns: Mapping[str, str]
    shown: str
    argument: str = ""
    overrides: Mapping[str, Any] = NOTHING
    protocols: Mapping[str, Mapping[str, Any]] = NOTHING
    seeds: Sequence[int] = (0, 1, 2)
    published: str = ""


class Job(NamedTuple):
    """One run of a study, with all that it takes to train and judge it.

    number: counted from 0. config: the options --config and --config.KEY of its command.
    protocols: each with its options.
    """

    number: int
    row: str
    seed: int
    folder: Path
    config: tuple[str, ...]
    protocols: Mapping[str, tuple[str, ...]]


class Plan(NamedTuple):
    """A study in a folder, and its jobs: all rows with the first seed, then with the next.

    config: the file that is used. options: --config.KEY=VALUE of all rows.
    """

    study: Study
    workdir: Path
    jobs: tuple[Job, ...]
    config: str
    options: tuple[str, ...] = ()


def read_config(options: Sequence[str]) -> ConfigDict:
    """The config that options of a command line make, as `byol_jax.train` reads them.

    Raises:
      ValueError: they are wrong, in one line.
    """
    argv = cli.expand_home(["study", *options])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=list(argv))
    cli.parse_flags(argv, values)
    found: ConfigDict = values["config"].value
    return found


def folder_name(row: str) -> str:
    """The folder of a row: its name in small letters, digits and . - _."""
    return re.sub(r"[^a-z0-9.-]+", "_", row.lower()).strip("_.")


def read_study(name: str) -> tuple[Study, Path]:
    """The study of FILE or FILE:ARGUMENT, checked but for its configs, and its file.

    Raises:
      ValueError: there is no such file, it makes no study, or one that cannot be.
    """
    path, _, argument = name.partition(":") if not Path(name).exists() else (name, "", "")
    file = Path(path).expanduser()
    if not file.is_file():
        beside = ", ".join(sorted(p.name for p in file.parent.glob("*.py")))
        there = f"{file.parent} has {beside}" if beside else "there is no Python file beside it"
        raise ValueError(f"--study {name} does not exist; {there}.")
    try:
        get_study = runpy.run_path(str(file)).get("get_study")
        study = get_study(*([argument] if argument else [])) if callable(get_study) else None
    except Exception as e:  # whatever the file does
        kind = "" if isinstance(e, ValueError) else f"{type(e).__name__}: "
        raise ValueError(f"The study {name} cannot be read: {kind}{e}") from e
    if not isinstance(study, Study):
        found = "no get_study" if get_study is None else type(study).__name__
        raise ValueError(
            f"{file} has {found}; expected a function get_study that returns a Study of "
            "byol_jax.study.plan."
        )
    _check_study(study)
    return study, file


def _check_study(study: Study) -> None:
    """Check all that does not depend on a config."""
    if not study.rows or not all(isinstance(row, Row) for row in study.rows):
        raise ValueError(f"The rows of {study.name!r} are not one or more Row of study.plan.")
    _check_seeds(study.seeds)
    folders: dict[str, str] = {}
    for row in study.rows:
        folder = folder_name(row.name)
        if not folder:
            raise ValueError(f"A row is named {row.name!r}; expected some letters or digits.")
        if folder in folders:
            other = f"{folders[folder]!r} and {row.name!r} both have the folder {folder!r}"
            raise ValueError(f"Two rows have one name: {other}; rename one.")
        folders[folder] = row.name
        figure = row.published
        if figure is not None and not (type(figure) in (int, float) and math.isfinite(figure)):
            raise ValueError(f"Row {row.name!r}: published is {figure!r}; expected a number.")
    cells = [row.cell for row in study.rows]
    if any(cells) and (None in cells or len(set(cells)) < len(cells)):
        raise ValueError("A study with cells has one for each row, and each cell once.")
    if not study.protocols:
        raise ValueError(f"No protocols; expected one or more of {', '.join(PROTOCOLS)}.")
    for protocol in study.protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(
                f"Protocol {protocol!r} does not exist; expected {', '.join(PROTOCOLS)}: "
                f"{nearest(protocol, PROTOCOLS)}"
            )
    sources = ("metrics", *study.protocols)
    for column, figure_name in study.columns.items():
        source, slash, figure_of = figure_name.partition("/")
        if source not in sources or not slash or not figure_of:
            raise ValueError(
                f"Column {column!r} is {figure_name!r}; expected FROM/FIGURE, FROM one of "
                f"{', '.join(sources)}."
            )
    if study.shown not in study.columns:
        raise ValueError(
            f"shown is {study.shown!r}; expected one of the columns {', '.join(study.columns)}."
        )


def _check_seeds(seeds: Sequence[int]) -> None:
    good = all(type(seed) is int and seed >= 0 for seed in seeds)
    if not seeds or not good or len(set(seeds)) < len(seeds):
        raise ValueError(f"The seeds are {list(seeds)}; expected whole numbers from 0, each once.")


def make_plan(
    name: str, workdir: Path, options: Sequence[str] = (), seeds: Sequence[int] = ()
) -> Plan:
    """Read a study and check everything in it, and what its folder has already.

    Args:
      name: FILE or FILE:ARGUMENT.
      workdir: of the study; nothing is written.
      options: --config FILE in place of the study's (it keeps the rows' arguments; FILE: drops
        them, FILE:ARGUMENT replaces them), and --config.KEY=VALUE for all rows.
      seeds: in place of the study's.

    Raises:
      ValueError: anything is wrong, in one line.
    """
    study, file = read_study(name)
    if seeds:
        _check_seeds(seeds)
        study = study._replace(seeds=tuple(seeds))
    base, common = _base(options)
    used = base.partition(":")[0] or os.path.normpath(file.parent / study.config)
    rows = {row.name: _options(study, row, file, base, common) for row in study.rows}
    protocols = {}
    for protocol, overrides in study.protocols.items():
        protocols[protocol] = tuple(_option(k, v, protocol) for k, v in overrides.items())
    jobs: list[Job] = []
    for seed in study.seeds:
        for row in study.rows:
            folder = workdir / folder_name(row.name) / f"seed{seed}"
            config = (*rows[row.name], f"--config.seed={seed}")
            jobs.append(Job(len(jobs), row.name, seed, folder, config, protocols))
    for job in jobs:
        try:
            _check_job(job)
        except ValueError as e:
            text = str(e)
            raise ValueError(text if str(job.folder) in text else f"Row {job.row!r}: {text}") from e
    return Plan(study, workdir, tuple(jobs), used, tuple(common))


def _base(options: Sequence[str]) -> tuple[str, list[str]]:
    """The FILE of --config FILE, "" if there is none, and the other options, --config.KEY=VALUE."""
    files = [o.partition("=")[2] for o in options if o.lstrip("-").split("=")[0] == "config"]
    rest = [o for o in options if o.lstrip("-").split("=")[0] != "config"]
    return (files[-1] if files else ""), rest


def _key(option: str) -> str:
    name = option.split("=", 1)[0].lstrip("-")
    return name.removeprefix("no").removeprefix("config.")


def _options(study: Study, row: Row, file: Path, base: str, common: Sequence[str]) -> list[str]:
    """The options of a row: its config, and what the study, the user and the row change of it."""
    config = os.path.normpath(file.parent / study.config)
    argument = study.argument if row.argument is None else row.argument
    if base:
        config, colon, given = (base, "", "") if Path(base).exists() else base.partition(":")
        if colon and any(r.argument is not None for r in study.rows):
            raise ValueError(
                f"--config is {base!r}, but the rows differ in the config's argument "
                f"({row.name!r}: {argument!r}); give the file alone."
            )
        argument = given if colon else argument
    taken = [_key(o) for o in common if _key(o) in row.overrides or _key(o) == "seed"]
    if taken:
        what = "the seeds are those of --seeds" if taken[0] == "seed" else "it is what rows vary"
        raise ValueError(f"--config.{taken[0]} cannot be set for all rows of a study: {what}.")
    own = [_option(k, v, row.name) for k, v in row.overrides.items()]
    first = [_option(k, v, study.name) for k, v in study.overrides.items()]
    return [f"--config={config}" + (f":{argument}" if argument else ""), *first, *common, *own]


def _option(key: str, value: Any, where: str) -> str:
    """An override as an option of a command line."""

    def plain(v: Any) -> bool:
        if isinstance(v, tuple | list):
            return all(map(plain, v))
        return isinstance(v, str | bool | int) or (isinstance(v, float) and math.isfinite(v))

    if not isinstance(key, str) or not plain(value):
        raise ValueError(f"{where!r}: {key!r} is {value!r}; expected a number, text or tuple.")
    if key == "seed":
        raise ValueError(f"{where!r} sets seed; the seeds of a study are Study.seeds.")
    shown = value if isinstance(value, str) else repr(value)
    return f"--config.{key}={shown}"


def _check_job(job: Job) -> None:
    """Check the config and the protocols of a job, and that what was done of it was the same."""
    own = read_config(job.config)
    check_resume(resolve(own), job.folder)
    done = read_record(job.folder).judged
    for protocol, options in job.protocols.items():
        asked = read_config((*job.config, *options))
        check_reads(protocol, own, asked)
        wanted = settings(protocol, resolve(asked))
        before = completed(done.get(protocol, {}).get("settings", wanted), wanted)
        changed = [k for k in wanted if wanted[k] != before[k]]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{job.folder} was judged by {protocol} with {key} {before[key]!r}, and the "
                f"study now says {wanted[key]!r}; put it back, or give another --workdir."
            )
