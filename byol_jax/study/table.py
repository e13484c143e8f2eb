"""A study as Markdown and JSON: table.md and table.json, beside its plot."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from byol_jax.report.charts import Chart
from byol_jax.study.figures import (
    APART,
    SURE,
    Agreement,
    Column,
    Figures,
    agreement,
    read_figures,
    spread,
)
from byol_jax.study.plan import Plan, Study
from byol_jax.study.plot import plot
from byol_jax.writing import write_bytes, write_json


def write_tables(plan: Plan, *, picture: bool = True) -> Figures:
    """Write table.md, table.json and plot.png of what is there into the folder of the study.

    Args:
      plan: the study.
      picture: draw it too.

    Returns:
      What was read.
    """
    figures = read_figures(plan)
    plan.workdir.mkdir(parents=True, exist_ok=True)
    write_bytes(plan.workdir / "table.md", markdown(plan, figures).encode())
    write_json(plan.workdir / "table.json", as_json(plan, figures))
    if picture:
        drawn: Chart | None = plot(plan.study, figures)
        if drawn:
            write_bytes(plan.workdir / "plot.png", drawn.light)
    return figures


def markdown(plan: Plan, figures: Figures) -> str:
    """The study for people: a table of mean (lowest-highest), and what is not there."""
    study = plan.study
    parts = [f"# {study.name}", _about(plan), _main_table(study, figures)]
    if all(row.cell for row in study.rows):
        parts.append(_matrix(study, figures))
    if any(row.published is not None for row in study.rows):
        parts.append(_agreement(study, agreement(study, figures)))
    left: dict[tuple[str, str], list[str]] = {}
    for (row, seed), text in figures.states.items():
        if text != "done":
            left.setdefault((row, text), []).append(str(seed))
    if left:
        lines = [f"- {row}, seed {', '.join(s)}: {text}" for (row, text), s in left.items()]
        parts.append("\n".join(["Not in the table:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _about(plan: Plan) -> str:
    study = plan.study
    seeds = ", ".join(map(str, study.seeds))
    options = f" with `{shlex.join(plan.options)}`" if plan.options else ""
    text = (
        f"`{plan.config}`{options}, seeds {seeds}: mean (lowest-highest), test accuracy in "
        "percent where nothing else is said."
    )
    return text + (f" Published: {study.published}." if study.published else "")


def _main_table(study: Study, figures: Figures) -> str:
    published = any(row.published is not None for row in study.rows)
    head = ["", *study.columns, *(["published"] if published else [])]
    digits = {c: _digits(c, figures) for c in study.columns}

    def line(name: str, columns: Mapping[str, Column], figure: str) -> list[str]:
        cells = [_cell(columns.get(c, {}), digits[c]) for c in study.columns]
        return [name, *cells, *([figure] if published else [])]

    lines = [line(name, columns, "") for name, columns in figures.references.items()]
    for row in study.rows:
        figure = "" if row.published is None else f"{row.published:g}"
        lines.append(line(row.name, figures.rows[row.name], figure))
    return _table([head, *lines])


def _table(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(c.replace("|", r"\|") for c in line) + " |" for line in lines]
    return "\n".join([rows[0], "| --- |" + " --- |" * (len(lines[0]) - 1), *rows[1:]])


def _digits(column: str, figures: Figures) -> int:
    """Digits after the point: 1 of percentages, 2 of figures around 1."""
    rows = [*figures.rows.values(), *figures.references.values()]
    values = [abs(v) for row in rows for v in row.get(column, {}).values()]
    return 1 if max(values, default=0) > 2 else 2


def _cell(values: Column, digits: int) -> str:
    if not values:
        return "-"
    found = spread(list(values.values()))
    text = f"{found.mean:.{digits}f}"
    if len(values) > 1:
        text += f" ({found.low:.{digits}f}-{found.high:.{digits}f})"
    return text


def _matrix(study: Study, figures: Figures) -> str:
    down = list(dict.fromkeys(row.cell[0] for row in study.rows if row.cell))
    across = list(dict.fromkeys(row.cell[1] for row in study.rows if row.cell))
    names = {row.cell: row.name for row in study.rows}

    def cell(a: str, b: str) -> str:
        values = figures.rows[names[a, b]].get(study.shown, {}) if (a, b) in names else {}
        return f"{spread(list(values.values())).mean:.1f}" if values else "-"

    table = _table([["", *across], *([a, *(cell(a, b) for b in across)] for a in down)])
    return f"{study.shown}, mean:\n\n{table}"


def _agreement(study: Study, found: Agreement) -> str:
    asked = sum(map(len, found))
    if not asked:
        return "The order of the rows cannot be compared with the published one yet."
    text = (
        f"By {study.shown}, of {asked} pairs of rows that are published {APART:g} point or more "
        f"apart, {len(found.same)} are in the published order, {len(found.reversed)} in the "
        f"other, and {len(found.unsure)} are not told apart by these seeds (Welch's t-test, "
        f"p {SURE:g})."
    )
    if found.reversed:
        pairs = "; ".join(f"{worse} above {better}" for better, worse in found.reversed)
        text += f" Reversed: {pairs}."
    return text


def as_json(plan: Plan, figures: Figures) -> dict[str, Any]:
    """The study for programs."""
    study = plan.study

    def columns(found: Mapping[str, Column]) -> dict[str, Any]:
        return {
            c: {"seeds": {str(s): v for s, v in values.items()}}
            | spread(list(values.values()))._asdict()
            for c, values in found.items()
        }

    rows = {}
    for row in study.rows:
        states = {str(s): t for (r, s), t in figures.states.items() if r == row.name}
        rows[row.name] = {
            "overrides": dict(row.overrides),
            "published": row.published,
            "columns": columns(figures.rows[row.name]),
            "seeds": states,
        }
    found = agreement(study, figures)
    return {
        "name": study.name,
        "config": plan.config,
        "options": list(plan.options),
        "published": study.published,
        "shown": study.shown,
        "columns": dict(study.columns),
        "references": {k: columns(v) for k, v in figures.references.items()},
        "rows": rows,
        "agreement": {k: [list(p) for p in pairs] for k, pairs in found._asdict().items()},
    }
