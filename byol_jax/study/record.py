"""What has been done of a job, from files alone: trained, judged, or failed and why."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax.config import all_keys
from byol_jax.events import read_events
from byol_jax.untrusted import read_json
from byol_jax.writing import write_json


class Record(NamedTuple):
    """The file beside a run folder, seed0.json beside seed0.

    judged: protocol -> {"settings": what it read of the config, "sha256": of its result}.
    error: why the last start ended early; "" if it did not, or is under way.
    """

    judged: dict[str, dict[str, Any]]
    error: str


def record_file(folder: Path) -> Path:
    """Where the record of a run folder is."""
    return folder.with_name(f"{folder.name}.json")


def read_record(folder: Path) -> Record:
    """The record of a run; an empty one where there is none, or none that can be read."""
    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = read_json(record_file(folder))
    found = found if isinstance(found, dict) else {}
    judged, error = found.get("judged"), found.get("error")
    good = (
        {k: v for k, v in judged.items() if isinstance(v, dict)} if isinstance(judged, dict) else {}
    )
    return Record(good, error if isinstance(error, str) else "")


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a run, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(record_file(folder), record._asdict())


def is_trained(folder: Path) -> bool:
    """Whether a run is complete."""
    events = read_events(folder)
    return bool(events) and events[-1]["event"] == "end"


def digest(folder: Path, protocol: str) -> str:
    """SHA-256 of the result of a protocol; "" if there is none."""
    try:
        return hashlib.sha256((folder / "eval" / f"{protocol}.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def completed(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an earlier result: a key that is newer has its default there."""

    def default(key: str) -> Any:
        value = all_keys()[key].default
        return list(value) if isinstance(value, tuple) else value

    return {k: before[k] if k in before else default(k) for k in wanted}


def is_judged(folder: Path, protocol: str, wanted: Mapping[str, Any] | None = None) -> bool:
    """Whether the result of a protocol is there, is the one recorded, and as asked for.

    Args:
      folder: of the run.
      protocol: a name.
      wanted: the settings; None: whatever they were.
    """
    done = read_record(folder).judged.get(protocol, {})
    same = wanted is None or completed(done.get("settings", {}), wanted) == wanted
    return same and bool(done.get("sha256")) and done["sha256"] == digest(folder, protocol)
