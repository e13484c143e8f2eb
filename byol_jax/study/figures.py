"""The figures of a study, read from the files of its runs alone, and compared with the paper's."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax.events import read_events
from byol_jax.report.status import state
from byol_jax.report.tables import rows_of
from byol_jax.study.plan import Job, Plan, Study
from byol_jax.study.record import is_judged, is_trained, read_record
from byol_jax.untrusted import read_json, read_lines

Column = dict[int, float]
"""seed -> figure."""

REFERENCES = ("raw pixels", "untrained encoder")
"""What protocols judge beside the trained encoder."""

SURE = 0.05
"""Two rows are told apart below this p-value of Welch's t-test, two-sided."""

APART = 1.0
"""Points between two published figures below which their order is not asked about."""


class Figures(NamedTuple):
    """All figures of a study.

    rows: row -> column -> seed -> figure, where there is one. references: the same of untrained
    encoders and raw pixels, once for all rows with equal ones. states: of each job, "done" where
    nothing is left to do.
    """

    rows: dict[str, dict[str, Column]]
    references: dict[str, dict[str, Column]]
    states: dict[tuple[str, int], str]


def read_figures(plan: Plan) -> Figures:
    """Read what is there; nothing is computed, and no job needs to have begun."""
    study = plan.study
    empty: dict[str, dict[str, Column]] = {row.name: {} for row in study.rows}
    found = Figures(empty, {}, {})
    others: dict[str, list[tuple[str, dict[str, Column]]]] = {name: [] for name in REFERENCES}
    for row in study.rows:
        own: dict[str, dict[str, Column]] = {name: {} for name in REFERENCES}
        for job in (j for j in plan.jobs if j.row == row.name):
            found.states[job.row, job.seed] = _state(job)
            results = _results(job)
            for column, source in study.columns.items():
                figures = _figures(results, source)
                for name, value in figures.items():
                    place = own[name] if name else found.rows[row.name]
                    place.setdefault(column, {})[job.seed] = value
        for name, columns in own.items():
            if columns:
                _merge(others[name], row.name, columns)
    for name, groups in others.items():
        for i, (row_name, columns) in enumerate(groups):
            found.references[name if not i else f"{name} of {row_name}"] = columns
    return found


def _merge(
    groups: list[tuple[str, dict[str, Column]]], row: str, columns: dict[str, Column]
) -> None:
    """Add a row's references to the group that they are equal to, or make one of them."""
    for _, known in groups:
        pairs = [
            (value, known.get(column, {}).get(seed, value))
            for column, values in columns.items()
            for seed, value in values.items()
        ]
        if all(a == b for a, b in pairs):
            for column, values in columns.items():
                known.setdefault(column, {}).update(values)
            return
    groups.append((row, columns))


def _state(job: Job) -> str:
    """What a job has come to, in words."""
    missing = [p for p in job.protocols if not is_judged(job.folder, p)]
    if is_trained(job.folder) and not missing:
        return "done"  # whatever another process said of it meanwhile
    error = read_record(job.folder).error
    if error:
        return f"failed: {error}"
    events = read_events(job.folder)
    starts = [e for e in events if e["event"] == "start"]
    if not starts:
        return "not run"
    if not is_trained(job.folder):
        return f"not finished: {state(events, starts[-1])}"
    return f"trained, but not judged by {', '.join(missing)}"


def _results(job: Job) -> dict[str, Any]:
    """The results of the protocols by name, and the last row of the metrics."""
    found: dict[str, Any] = {}
    if is_trained(job.folder):
        lines = read_lines(job.folder / "metrics.jsonl")
        found["metrics"] = lines[-1] if lines else {}
    for protocol in job.protocols:
        if is_judged(job.folder, protocol):
            found[protocol] = read_json(job.folder / "eval" / f"{protocol}.json")
    return found


def _figures(results: Mapping[str, Any], source: str) -> dict[str, float]:
    """The figure of a column: of the run as "", and of the references that have it."""
    place, _, figure = source.partition("/")
    result = results.get(place, {})
    if place == "metrics":
        return _numbers({"": result.get(figure)})
    *model, key = figure.split("/")
    rows = rows_of(result) if result else {}

    def of(name: str) -> Any:
        return rows.get(", ".join([name, *model]), {}).get(key)

    values = {name: of(name) for name in REFERENCES} | {"": of(str(result.get("method")))}
    if values[""] is None:
        values |= {"": result.get(key), "untrained encoder": result.get(f"untrained_{key}")}
    return _numbers(values)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    good = {k: v for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
    return {k: float(v) for k, v in good.items()}


class Spread(NamedTuple):
    """Figures of several seeds: mean, standard deviation (0 of one), lowest and highest."""

    mean: float
    std: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one figure or more."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), std, min(values), max(values))


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Welch's t-test, two-sided: how likely means so far apart are if nothing differs.

    Args:
      a, b: two or more figures each.

    Returns:
      The p-value. Where neither varies: 1 if they are equal, else 0.
    """
    from scipy.stats import ttest_ind

    if len(set(a)) == len(set(b)) == 1:
        return float(a[0] == b[0])
    return float(ttest_ind(a, b, equal_var=False).pvalue)


class Agreement(NamedTuple):
    """Pairs of rows that the paper orders, (better, worse) there: as here, reversed here, or such
    that the seeds do not tell them apart."""

    same: list[tuple[str, str]]
    reversed: list[tuple[str, str]]
    unsure: list[tuple[str, str]]


def agreement(study: Study, figures: Figures) -> Agreement:
    """Compare the order of the rows with the published one, where both have two seeds or more."""
    found = Agreement([], [], [])
    known = [row for row in study.rows if row.published is not None]
    for a, b in itertools.combinations(known, 2):
        better, worse = (a, b) if (a.published or 0) > (b.published or 0) else (b, a)
        if (better.published or 0) - (worse.published or 0) < APART:
            continue
        x, y = (list(figures.rows[r.name].get(study.shown, {}).values()) for r in (better, worse))
        if min(len(x), len(y)) < 2:
            continue
        pair = (better.name, worse.name)
        if p_value(x, y) >= SURE:
            found.unsure.append(pair)
        elif statistics.fmean(x) > statistics.fmean(y):
            found.same.append(pair)
        else:
            found.reversed.append(pair)
    return found


def folders_of_no_row(plan: Plan) -> list[str]:
    """Run folders in the study's that belong to no row of it."""
    known = {job.folder.parent for job in plan.jobs}
    there: list[Path] = sorted(plan.workdir.glob("*/seed*/config.json"))
    return sorted({str(p.parents[1]) for p in there if p.parents[1] not in known})
