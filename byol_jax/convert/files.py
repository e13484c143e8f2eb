"""Folders written atomically, and JSON and arrays compared or read with checks."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax.untrusted import read_json as read_strict_json


def same_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two flat dicts have bitwise equal arrays, types and shapes included."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()

    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `out` atomically: `fill` a temporary sibling, then rename it.

    Args:
      out: the folder to make; it may exist if it is empty.
      fill: writes the files into the given folder; if it raises, nothing is left behind.

    Raises:
      ValueError: `out` is a file or is not empty: nothing is ever overwritten.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists already, and nothing is overwritten; name another folder or remove it."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the rename stays within one file system and is atomic.
    temporary = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        fill(temporary)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: the file is missing or contains something else.
    """
    try:
        values = read_strict_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; the export is incomplete, make it again.") from error
    except (OSError, ValueError) as error:  # unreadable, not UTF-8, or not the JSON we write
        raise ValueError(f"{path} is damaged ({error}); make the export again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object; make the export again.")
    return values
