"""The tables of a report: what was trained, and what the protocols found. All as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from byol_jax.events import goodput
from byol_jax.report.record import Record
from byol_jax.report.status import checkpoints, duration, state

TITLES = {
    "knn": "kNN",
    "linear": "Linear classifier",
    "finetune": "Fine-tuned, and from scratch",
    "fewshot": "Logistic regression, by labels per class",
    "lowshot": "Linear SVMs and logistic regression, by labels per class",
    "transfer": "Logistic regression, its penalty chosen",
    "stages": "By stage of the encoder: top-1, or mAP where images have several labels",
    "retrieval": "Nearest neighbours among the test images",
    "suite": "Transfer sets: logistic regression, and fine-tuning if asked for",
    "attributes": "Which transformation was done, from h and from z",
    "robust": "Accuracy on corrupted images, mean over severities",
    "patches": "Patches of the last map",
    "segment": "Segmentation",
    "depth": "Depth",
    "detect": "Detection",
}
COLUMNS = {
    **{"top1": "top-1", "top5": "top-5", "per_class": "mean per class", "map": "mAP"},
    "map11": "11-point mAP",
    **{"miou": "mIoU", "pixels": "right pixels", "classes": "mean of the classes"},
    **{f"delta{i}": f"within 1.25^{i}" for i in (1, 2, 3)},
    **{"ap50": "AP50", "ap75": "AP75", "ap": "AP"},
    **{"voc_ap50": "VOC AP50", "voc_ap75": "VOC AP75", "voc_ap": "VOC AP"},
    **{"rms": "rms, m", "rel": "relative error"},
    **{"variance_3": "variance in 3 components", "same_class": "nearest of the same class"},
}
DIGITS = {"rms": 3, "rel": 3}

# Linear top-1 on ImageNet with a ResNet-50, as the header of each recipe in configs/ cites it:
# (method, epochs) -> percent and paper.
PUBLISHED = {
    ("byol", 300): (72.5, "Grill et al. 2020"),
    ("byol", 1000): (74.3, "Grill et al. 2020"),
    ("simclr", 1000): (69.3, "Chen et al. 2020"),
    ("mocov3", 100): (68.9, "Chen, Xie and He 2021"),
    ("mocov3", 300): (72.8, "Chen, Xie and He 2021"),
    ("mocov3", 1000): (74.6, "Chen, Xie and He 2021"),
    ("simsiam", 100): (68.1, "Chen and He 2021"),
    ("simsiam", 800): (71.3, "Chen and He 2021"),
    ("barlow", 1000): (73.5, "Zbontar et al. 2021"),
    ("vicreg", 1000): (73.2, "Bardes et al. 2022"),
    ("swav", 800): (75.3, "Caron et al. 2020"),
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], strong: Sequence[int] = ()) -> str:
    """An HTML table in a box that scrolls sideways.

    Args:
      head, rows: plain text, which is escaped; the first cell of a row is its heading.
      strong: rows in bold.
    """
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = []
    for i, (first, *cells) in enumerate(rows):
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        bold = ' class="own"' if i in strong else ""
        body.append(f'<tr{bold}><th scope="row">{escape(first)}</th>{rest}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def number(value: Any, digits: int = 1) -> str:
    """A figure of a file as text; "-" for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"


def summary(records: Sequence[Record]) -> str:
    """What was trained, on what and for how long: a column per run."""
    facts = [_facts(record) for record in records]
    names = [n for n in facts[0] if any(f[n] for f in facts)]
    rows = [[n, *(f[n] or "-" for f in facts)] for n in names]
    found = table(["", *(r.name for r in records)], rows)
    return f'<div class="facts">{found}</div>'


def _facts(record: Record) -> dict[str, str]:
    """The facts of a run by name, "" where they are not known; all runs have the same names."""
    c, events = record.config, record.events
    starts = [e for e in events if e["event"] == "start"]
    start = starts[-1] if starts else {}
    last = record.rows[-1] if record.rows else {}

    def text(key: str, form: str = "{}") -> str:
        return form.format(c[key]) if c.get(key) not in (None, "") else ""

    total, found = start.get("total_steps"), goodput(events)
    of = f" of {total:,}" if isinstance(total, int) else ""
    batch = c.get("batch_size")
    seen = f"{record.step * batch:,}" if isinstance(batch, int) else ""
    optimizer = text("optimizer.name") + text("optimizer.lr", ", learning rate {}")
    crashes = [e for e in events if e["event"] in ("rollback", "diverged", "damaged", "error")]
    versions = start.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    return {
        "method": text("method.name"),
        "encoder": text("encoder.name") + text("encoder.dtype", ", {}"),
        "trained parameters": f"{record.parameters:,}" if record.parameters else "",
        "data": text("data.name") + text("data.dir", ", {}"),
        "views": text("views.recipe") + text("image_size", ", {} px"),
        "optimizer": optimizer + text("optimizer.lr_scaling", " ({})"),
        "schedule": text("epochs", "{} epochs") + text("batch_size", ", batch {}"),
        "steps done": f"{record.step:,}{of}" if events or record.rows else "none",
        "images seen": seen if record.step else "",
        "state": state(events, start) if start else "not started",
        "time": f"{duration(found['total'])} in {len(starts)} start(s)" if start else "",
        "where the time went": _shares(found),
        "images/s, last": number(last.get("time/images_per_s"), 0).replace("-", ""),
        "unreadable images": number(last.get("data/damaged")).replace("-", ""),
        "checkpoints": checkpoints(record.folder),
        "rollbacks, errors": "; ".join(f"{e['event']}: {_what(e)}" for e in crashes[-5:]),
        "devices": f"{start.get('devices')} x {start.get('kind')}" if start else "",
        "processes": f"{start.get('processes')}, on {start.get('host')}" if start else "",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
    }


def _what(event: Mapping[str, Any]) -> str:
    return str(event.get("what") or f"to step {event.get('step')}")[:300]


def _shares(found: Mapping[str, float]) -> str:
    total = found["total"]
    if total <= 0:
        return ""
    kinds = [k for k in ("wait", "save", "evaluate", "compile", "start", "lost") if found[k] > 0]
    rest = ", ".join(f"{k} {100 * found[k] / total:.1f}%" for k in kinds)
    return f"steps that count (goodput) {100 * found['goodput']:.1f}%, {rest}"


def protocols(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """The results of all protocols, those of several runs in one table.

    Returns:
      (title, table as HTML, remarks as HTML) per protocol.
    """
    names = [n for n in TITLES if any(n in r.results for r in records)]
    names += sorted({n for r in records for n in r.results} - set(TITLES))
    return [_protocol(name, [r for r in records if name in r.results], records) for name in names]


def _protocol(
    name: str, judged: Sequence[Record], records: Sequence[Record]
) -> tuple[str, str, str]:
    lines: list[tuple[str, Mapping[str, Any]]] = []
    strong, remarks = [], []
    for record in judged:
        result = record.results[name]
        before = f"{record.name}: " if len(records) > 1 else ""
        method = str(result.get("method", ""))
        for row, values in rows_of(result).items():
            if row == method or row.startswith(f"{method}, "):
                strong.append(len(lines))
            lines.append((before + row, values))
        remarks.append(before + _remark(name, record))
    columns: list[str] = []
    for _, values in lines:
        columns += [c for c in values if not c.endswith("_std") and c not in columns]
    if all(c.isdecimal() for c in columns if c != "all"):
        columns.sort(key=lambda c: (c == "all", len(c), c))
    cells = [[row, *(_cell(values, c) for c in columns)] for row, values in lines]
    head = ["", *(COLUMNS.get(c, c.replace("_", " at ")) for c in columns)]
    notes = "".join(f"<p class='note'>{escape(r)}</p>" for r in remarks)
    return TITLES.get(name, name), table(head, cells, strong), notes


def _cell(values: Mapping[str, Any], column: str) -> str:
    """A figure, with its standard deviation over the draws if there is one."""
    value, spread = values.get(column), values.get(f"{column}_std")
    if value is None:
        return "-"
    digits = DIGITS.get(column, 1)
    text = number(float(value), digits) if isinstance(value, int | float) else str(value)
    return text if spread is None or column == "all" else f"{text} ± {number(spread)}"


def rows_of(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The rows of a result by what was judged; of one without rows, made from its figures."""
    if result.get("rows"):
        return dict(result["rows"])
    columns = [c for c in ("top1", "top5") if c in result]
    made = {"untrained encoder": {c: result.get(f"untrained_{c}") for c in columns}}
    return made | {str(result.get("method", "encoder")): {c: result[c] for c in columns}}


def _remark(protocol: str, record: Record) -> str:
    """On what was judged, and what was published for this recipe."""
    result, c = record.results[protocol], record.config
    parts = [f"Step {number(result.get('step'))}, data {result.get('data', '?')}"]
    counts = {"train_images": "training images", "test_images": "test images"}
    parts += [f"{number(result[k])} {what}" for k, what in counts.items() if k in result]
    if result.get("damaged"):
        parts.append(f"{number(result['damaged'])} unreadable")
    text = ", ".join(parts) + "."
    if isinstance(result.get("step"), int) and result["step"] != record.step:
        text += f" The run has gone on to step {record.step:,} since."
    if isinstance(result.get("other_splits"), list) and result["other_splits"]:
        text += f" Not the recorded split: {', '.join(map(str, result['other_splits']))}."
    if result.get("data") != c.get("data.name") and c:
        text += f" The run was trained on {c.get('data.name')}."
    imagenet = result.get("data") == c.get("data.name") == "imagenet2012"
    if protocol == "linear" and imagenet and c.get("encoder.name") == "resnet50":
        method, epochs = str(c.get("method.name")), c.get("epochs")
        top1, paper = PUBLISHED.get((method, epochs if isinstance(epochs, int) else 0), (0.0, ""))
        text += f" Published: {top1} ({paper}, ResNet-50, {epochs} epochs)." if paper else ""
    return text


def config(record: Record) -> str:
    """All keys of the config."""
    rows = [[key, str(value)] for key, value in sorted(record.config.items())]
    return table(["key", "value"], rows)
