"""One HTML page about one run or several, with everything in it: no network, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from byol_jax.report import tables
from byol_jax.report.charts import Chart, curves, stages
from byol_jax.report.health import (
    COLLAPSED,
    DIVERGED,
    HEALTHY,
    SPREAD,
    Comparison,
    Verdict,
    comparison,
    judge,
)
from byol_jax.report.record import Record
from byol_jax.writing import write_bytes


class Seen(NamedTuple):
    """What was computed of a run's embeddings, for the page; or why nothing was.

    charts: in order. notes: plain text. compared: with the untrained encoder.
    """

    charts: Sequence[Chart] = ()
    notes: Sequence[str] = ()
    compared: Comparison | None = None


class Page(NamedTuple):
    """The page, its pictures as PNGs by the names of their files, and the verdict on each run."""

    html: str
    pictures: dict[str, bytes]
    verdicts: list[Verdict]


def make_page(records: Sequence[Record], seen: Sequence[Seen]) -> Page:
    """Make the page of some runs.

    Args:
      records: at least one.
      seen: of each of them.
    """
    records = _told_apart(records)
    pictures: dict[str, bytes] = {}
    pairs = list(zip(records, seen, strict=True))
    verdicts = [judge(r, s.compared) for r, s in pairs]
    untrained = {}
    for record, s in pairs:
        # Only kNN on as many images belongs beside the curve of kNN.
        own = {k: v for k, v in record.results.items() if k == "knn"}
        for compared in (s.compared, comparison(own)):
            if compared is not None and _same_images(record, compared):
                untrained[record.name] = compared.untrained
    parts = [
        *(_verdict(r, v, len(records) > 1) for r, v in zip(records, verdicts, strict=True)),
        _section("What was trained", tables.summary(records)),
        _section("Curves", _grid(curves(records, untrained, SPREAD), pictures)),
        _section("Judged by", _protocols(records, pictures)),
    ]
    for i, (record, s) in enumerate(pairs):
        of = f" of {record.name}" if len(records) > 1 else ""
        number = f"{i}-" if len(records) > 1 else ""
        parts.append(_section(f"Pictures{of}", _pictures(record, number, pictures)))
        parts.append(_section(f"Embeddings{of}", _embeddings(s, pictures)))
    for record in records:
        parts.append(_files(record, len(records) > 1))
    title = ", ".join(r.name for r in records)
    body = "\n".join(parts)
    return Page(_PAGE.format(title=escape(title), style=_STYLE, body=body), pictures, verdicts)


def write_page(page: Page, folder: Path) -> Path:
    """Write the page and its pictures, each file whole or not at all, the page last.

    Returns:
      The path of the page.

    Raises:
      OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**page.pictures, "index.html": page.html.encode("utf-8")}.items():
        write_bytes(folder / name, content)
    return folder / "index.html"


def _same_images(record: Record, compared: Comparison) -> bool:
    rows = [r for r in record.rows if "knn/test_top1" in r]
    counts = [rows[-1].get(f"knn/{k}_images") for k in ("train", "test")] if rows else []
    return counts == [compared.train_images, compared.images]


def _told_apart(records: Sequence[Record]) -> list[Record]:
    """The records with names that differ: those of equal ones are numbered."""
    names = [r.name for r in records]
    return [
        r._replace(name=f"{r.name} ({names[: i + 1].count(r.name)})")
        if names.count(r.name) > 1
        else r
        for i, r in enumerate(records)
    ]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


_LEVEL = {HEALTHY: "good", COLLAPSED: "bad", DIVERGED: "bad"}


def _verdict(record: Record, verdict: Verdict, several: bool) -> str:
    name = f"{escape(record.name)}: " if several else ""
    level = _LEVEL.get(verdict.word, "unsure")
    reasons = "".join(f"<li>{escape(r)}</li>" for r in verdict.reasons)
    word = verdict.word if several else verdict.word[0].upper() + verdict.word[1:]
    return f'<div class="verdict {level}"><p>{name}<b>{word}</b></p><ul>{reasons}</ul></div>'


def _image(png: bytes, words: str, dark: bytes | None = None) -> str:
    """An image tag with the PNG in it; on dark pages the other one, if there is one."""
    light, other = (
        f"data:image/png;base64,{base64.b64encode(x).decode()}" if x else "" for x in (png, dark)
    )
    image = f'<img src="{light}" alt="{escape(words)}">'
    if not other:
        return image
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{other}">'
    return f"<picture>{source}{image}</picture>"


def _chart(chart: Chart, pictures: dict[str, bytes]) -> str:
    pictures[f"{chart.name}.png"] = chart.light
    image = _image(chart.light, chart.words, chart.dark)
    return f"<figure><figcaption>{escape(chart.title)}</figcaption>{image}</figure>"


def _grid(charts: Sequence[Chart], pictures: dict[str, bytes]) -> str:
    found = "".join(_chart(c, pictures) for c in charts)
    return f'<div class="grid">{found}</div>' if found else "<p>There are no rows yet.</p>"


def _protocols(records: Sequence[Record], pictures: dict[str, bytes]) -> str:
    parts = [
        f"<h3>{escape(title)}</h3>{html}{remarks}"
        for title, html, remarks in tables.protocols(records)
    ]
    bars: dict[str, Mapping[str, object]] = {}
    for record in records:
        rows = tables.rows_of(record.results["stages"]) if "stages" in record.results else {}
        before = f"{record.name}: " if len(records) > 1 else ""
        bars |= {before + name: row for name, row in rows.items()}
    if bars:
        parts.append(_grid([stages("stages", bars)], pictures))
    note = "<p>Top-1 and the rest in percent, of test images that were not trained on.</p>"
    how = "<code>python -m byol_jax.evaluate</code> judges the encoder"
    none = f"<p>No protocol was run yet: {how}.</p>"
    return note + "".join(parts) if parts else none


def _pictures(record: Record, number: str, pictures: dict[str, bytes]) -> str:
    found = []
    for picture in record.pictures:
        pictures[number + picture.name] = picture.png
        caption = f"<figcaption>{escape(picture.title)}</figcaption>"
        image = _image(picture.png, picture.title)
        found.append(f'<figure class="paper"><div class="scroll">{image}</div>{caption}</figure>')
    return "".join(found)


def _embeddings(seen: Seen, pictures: dict[str, bytes]) -> str:
    notes = "".join(f"<p>{escape(n)}</p>" for n in seen.notes)
    charts = "".join(_chart(c, pictures) for c in seen.charts)
    return notes + (f'<div class="grid wide">{charts}</div>' if charts else "")


def _files(record: Record, several: bool) -> str:
    of = f" of {record.name}" if several else ""
    broken = "".join(f"<li>{escape(p)}</li>" for p in record.problems)
    found = _section(f"Files{of} that could not be used", f"<ul>{broken}</ul>" if broken else "")
    if record.config:
        keys = f"All {len(record.config)} keys of the config{escape(of)}"
        found += f"<details><summary>{keys}</summary>{tables.config(record)}</details>"
    return found


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #ffffff;
  --page: #f6f8fa; --line: #d1d9e0; --good: #1a7f37; --bad: #cf222e; --unsure: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --paper: #161b22;
  --page: #0d1117; --line: #3d444d; --good: #3fb950; --bad: #f85149; --unsure: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
section, .verdict, details { background: var(--paper); border: 1px solid var(--line);
  border-radius: .5rem; padding: 1rem; margin: 0 0 1rem; }
.verdict { border-left: .4rem solid var(--level); }
.verdict p { font-size: 1.2rem; margin: 0; }
.verdict b { color: var(--level); }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; }
.good { --level: var(--good); } .bad { --level: var(--bad); } .unsure { --level: var(--unsure); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; overflow-wrap: normal; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 400; color: var(--soft); }
.own th[scope=row], .own td { font-weight: 700; color: var(--ink); }
.facts td, .facts thead th, details td, details th { text-align: left; }
.note { color: var(--soft); font-size: .85rem; margin: .3rem 0 0; }
.grid { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0 0 1rem; min-width: 0; }
.grid figure { margin: 0; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .25rem; }
img { max-width: 100%; height: auto; display: block; }
.paper .scroll { background: #ffffff; border-radius: .25rem; padding: .25rem; }
.paper img { max-width: max(100%, 34rem); }
summary { cursor: pointer; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
