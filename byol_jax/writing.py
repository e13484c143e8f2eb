"""Writing files: JSON without NaN, whole or not at all, to a place that was tried before."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ABANDONED = 3600
"""Seconds after which an unfinished file is taken for one of a process that was killed."""


def to_json(value: Any, indent: int | None = None, *, sort_keys: bool = False) -> str:
    """A value as JSON; numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def not_finite(row: Mapping[str, Any]) -> list[str]:
    """The keys of a flat row whose numbers are NaN or infinite, in order."""
    return [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all.

    Raises:
      OSError: it cannot be written; what was there before is still there.
    """
    write_bytes(path, (to_json(value, 2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
      OSError: it cannot be written; what was there before is still there.
    """
    # Of this call alone: two processes that write the same file do not get into each other's.
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):  # of one that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, option: str) -> None:
    """Try the place of a file that will be written later, making its folder where it is missing.

    Args:
      path: of the file; one that is there is left as it is.
      option: what the user may change, for the message: "--json".

    Raises:
      ValueError: it cannot be written there.
    """
    trial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(bytes(2**16))  # not empty: a full disk still makes empty files
        finally:
            trial.unlink(missing_ok=True)
    except OSError as e:
        reason = e.strerror or str(e)
        if isinstance(e, FileExistsError | NotADirectoryError):
            reason = f"{path.parent} is no folder"
        raise ValueError(
            f"{path} cannot be written ({reason}); nothing was computed. Make room or repair the "
            f"place, or give another with {option}."
        ) from e


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
