"""Files that others may have written: only plain files, of bounded size, and strict JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAX_JSON = 2**24
"""Bytes of a JSON file: a manifest of a hundred thousand files is smaller."""

MAX_DEPTH = 16
"""Nesting depth of objects and lists in a JSON file; ours need five."""


def size_of(path: str | Path) -> int:
    """Bytes of a plain file, links followed.

    Raises:
      OSError: it cannot be inspected, or is a folder, pipe or device, where reading may never end.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is not a plain file", str(path))
    return found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of a plain file.

    Raises:
      ValueError: it is larger than `most` bytes.
      OSError: it cannot be read.
    """
    size = size_of(path)
    if size > most:
        raise ValueError(f"it has {size:,} bytes, more than {most:,}")
    with path.open("rb") as file:
        return file.read(most)


def read_json(path: Path) -> Any:
    """The contents of a JSON file: UTF-8, finite 64-bit numbers, each key once, not nested deeply.

    Raises:
      ValueError: it is anything else; the message is a phrase to use in the caller's own.
      OSError: it cannot be read.
    """
    return _strict(read_bytes(path, MAX_JSON).decode("utf-8"))


def parse_json(text: str) -> Any:
    """JSON that stands in another file, as strictly as `read_json`.

    Raises:
      ValueError: it is anything else; a phrase.
    """
    return _strict(text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; incomplete lines, and those of another form, are skipped.

    Args:
      path: of the file; if it does not exist, there are no lines. NaN and Infinity, which earlier
        versions wrote, become None, like null.
    """
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            value = _strict(line, constant=lambda _: None)
            found += [value] if isinstance(value, dict) else []
    return found


def _strict(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    try:
        value = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=constant or _number,
            parse_float=_number,
            parse_int=_integer,
        )
    except RecursionError as e:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from e
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [x for v in level for x in _inside(v)]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


@contextlib.contextmanager
def one_error(message: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a ValueError of one line.

    Args:
      message: with {} for the reason, which is shortened.

    Raises:
      ValueError: instead of any other Exception.
    """
    try:
        yield
    except Exception as e:  # zlib, NumPy, Orbax and others each raise their own kinds
        lines = str(e).strip().splitlines() or [""]
        name = "" if isinstance(e, ValueError | OSError) and lines[0] else f"{type(e).__name__} "
        raise ValueError(message.replace("{}", f"{name}{lines[0][:300]}".strip())) from e


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name leads to a plain file in a folder, not out of it by `..`, `/` or a link."""
    try:
        path = (folder / name).resolve()
        return path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long; a zero byte; circular links
        return False


def link_out(folder: Path) -> str:
    """The first link in a folder that leads out of it or nowhere, relative to it; "" if none."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            name = path.relative_to(folder).as_posix()
            try:
                inside = path.resolve(strict=True).is_relative_to(folder.resolve())
            except (OSError, RuntimeError):
                inside = False
            if not inside:
                return name
    return ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return values


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is not finite")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {text[:40]} has more than 64 bits")
    return value


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
