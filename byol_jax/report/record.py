"""What a run folder holds for its report, read from files that anyone may have written."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax.config import flatten
from byol_jax.events import Event, read_events
from byol_jax.untrusted import is_inside, one_error, read_bytes, read_json, read_lines

MAX_PICTURE = 2**25
"""Bytes of a picture that is put into a page."""


class Picture(NamedTuple):
    """A picture of a run folder: what it shows, and its PNG."""

    title: str
    name: str
    png: bytes


class Record(NamedTuple):
    """A run, as its files tell it.

    config: flat, {"data.name": "digits"}; {} if it cannot be read. rows: of metrics.jsonl, each
    with an integer "step", in order. results: of eval/PROTOCOL.json, by protocol. parameters: how
    many are trained, 0 if not known. problems: the files that were skipped, with the reason.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    events: list[Event]
    results: dict[str, dict[str, Any]]
    pictures: list[Picture]
    parameters: int
    problems: list[str]

    @property
    def step(self) -> int:
        """The newest step that a row or an event tells of."""
        steps = [e.get("step") for e in self.events]
        known = [s for s in steps if isinstance(s, int)] + [r["step"] for r in self.rows[-1:]]
        return max(known, default=0)


def read_record(folder: Path) -> Record:
    """Read a run folder; whatever is broken in it is named and left out.

    Args:
      folder: of the run, which may have just begun; nothing in it is changed.

    Raises:
      ValueError: it is not the folder of a run.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is not a run: it has no config.json; give the folder that --workdir named "
            "in training."
        )
    problems: list[str] = []
    config = _try(folder, "config.json", problems, _config) or {}
    results = {}
    for path in sorted((folder / "eval").glob("*.json")):
        found = _try(folder, f"eval/{path.name}", problems, _result)
        if found is not None:
            results[path.stem] = found
    rows = _try(folder, "metrics.jsonl", problems, _rows) or []
    events = _try(folder, "events.jsonl", problems, lambda path: read_events(path.parent)) or []
    parameters = _try(folder, "parameters.txt", problems, _parameters) or 0
    pictures = _pictures(folder, problems)
    name = folder.resolve().name
    return Record(folder, name, config, rows, events, results, pictures, parameters, problems)


def _try(folder: Path, name: str, problems: list[str], read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file; None if it does not exist, or is broken, which is noted."""
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    try:
        if not is_inside(folder, name):
            raise ValueError("it is not a plain file in this folder")
        with one_error("{}"):
            return read(path)
    except ValueError as e:
        problems.append(f"{name} was left out: {e}")
        return None


def _config(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, found {type(values).__name__}")
    return flatten(values)


def _result(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not {"top1", "rows"} & found.keys():
        raise ValueError("it is not the result of a protocol: it has neither top1 nor rows")
    rows = found.get("rows", {})
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError("its rows are not objects")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [r for r in read_lines(path) if isinstance(r.get("step"), int)]
    if not rows and path.stat().st_size:
        raise ValueError("it has no row with a step")
    return sorted(rows, key=lambda row: row["step"])


def _parameters(path: Path) -> int:
    text = read_bytes(path, MAX_PICTURE).decode("utf-8", "replace")
    found = re.search(r"^Total: ([\d,]{1,20})", text, re.MULTILINE)
    return int(found.group(1).replace(",", "") or 0) if found else 0


def _pictures(folder: Path, problems: list[str]) -> list[Picture]:
    """views.png, the first and the last of pictures/, and those of eval/."""
    names = {"views.png": "Views, as the first step saw them"}
    steps = [p.stem for p in (folder / "pictures").glob("*.png") if p.stem.isdecimal()]
    for step in sorted({*sorted(steps, key=int)[:1], *sorted(steps, key=int)[-1:]}, key=int):
        names[f"pictures/{step}.png"] = f"What the method makes of images at step {int(step):,}"
    for path in sorted((folder / "eval").glob("*.png")):
        if not path.name.endswith(".tmp.png"):
            names[f"eval/{path.name}"] = _OF_EVAL.get(path.stem, f"Picture of {path.stem}")
    found = []
    for name, title in names.items():
        png = _try(folder, name, problems, _png)
        if png is not None:
            found.append(Picture(title, name.replace("/", "-"), png))
    return found


_OF_EVAL = {
    "retrieval": (
        "Test images, each followed by its nearest neighbours; wrong ones have a red frame"
    ),
    "patches": "The last map of test images: three principal components, and attention",
    "nearest_patches": "Patches of test images, and the nearest ones in other images",
}


def _png(path: Path) -> bytes:
    """The bytes of a PNG that decodes."""
    from matplotlib.image import imread

    png = read_bytes(path, MAX_PICTURE)
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("it is not a PNG")
    imread(io.BytesIO(png), format="png")
    return png
