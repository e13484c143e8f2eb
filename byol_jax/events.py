"""What happened in a run and where its time went: events.jsonl, and the goodput read from it.

One JSON object per line, appended: `time` (seconds since 1970), `event`, and the event's fields.
The goodput is computed from `start` (with the `step` continued from, and the time it `began`),
`progress` (`step`, and `spent`: seconds of this start so far, by kind) and `rollback` (`step` gone
back to). A start ends with its last event, whatever ended it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from byol_jax.untrusted import read_lines

Event = dict[str, Any]

FILE = "events.jsonl"
KINDS = ("start", "compile", "step", "wait", "save", "evaluate")
"""start: until the first step, and after a rollback. wait: for input. step: everything else."""


class Clock:
    """Seconds of this process by activity; it does one thing at a time.

    began: seconds since 1970.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._kind, self._since = "start", time.monotonic()

    def turn_to(self, kind: str) -> str:
        """Switch to another activity; returns the previous one."""
        now, before = time.monotonic(), self._kind
        self._spent[before] += now - self._since
        self._kind, self._since = kind, now
        return before

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Switch to another activity for the duration of the context."""
        before = self.turn_to(kind)
        try:
            yield
        finally:
            self.turn_to(before)

    def read(self) -> dict[str, float]:
        """Seconds by kind so far."""
        self.turn_to(self._kind)
        return dict(self._spent)


def read_events(folder: Path) -> list[Event]:
    """The events of a run folder, in order; lines cut short by a kill are skipped."""
    events = read_lines(folder / FILE)
    return [{"event": ""} | e for e in events if isinstance(e.get("time"), int | float)]


class Goodput:
    """Where the time of a run went, over all its starts; takes every event, in order."""

    def __init__(self) -> None:
        self._done = dict.fromkeys((*KINDS, "lost"), 0.0)  # of the previous starts
        self._spent: dict[str, float] = {}  # of the current start
        # (step, seconds spent on steps up to it), for steps that count: base + spent["step"]
        self._marks: list[tuple[int, float]] = []
        self._base, self._first, self._last = 0.0, 0.0, 0.0

    def add(self, event: Event) -> None:
        """Add the next event."""
        kind, step = event.get("event"), int(event.get("step") or 0)
        if kind == "start":
            for name, value in self._spent.items():
                self._done[name] += value
            self._spent = {}
            began = float(event.get("began") or event["time"])
            if self._marks:
                self._back_to(step)
                self._done["lost"] += max(began - self._last, 0.0)
            else:
                self._first, self._marks = began, [(step, 0.0)]
            self._base = self._marks[-1][1]
        elif kind == "progress" and self._marks and isinstance(event.get("spent"), dict):
            self._spent = {k: float(v) for k, v in event["spent"].items() if k in KINDS}
            self._marks.append((step, self._base + self._spent.get("step", 0.0)))
        elif kind == "rollback" and self._marks:
            self._base -= self._back_to(step)
        self._last = event["time"]

    def _back_to(self, step: int) -> float:
        """Go back to a step: the seconds spent after it are lost."""
        at = _at(self._marks, step)
        vain = self._marks[-1][1] - at
        self._done["lost"] += vain
        self._done["step"] -= vain
        self._marks = [m for m in self._marks if m[0] < step] + [(step, at)]
        return vain

    def read(self) -> dict[str, float]:
        """Where the time went so far.

        Returns:
          Seconds by kind, where `step` has only the steps that count; `lost`: steps done again,
          and the time between the starts; `total`, which also includes time that no event
          accounts for; and `goodput`, step / total, 0 to 1.
        """
        seconds = {k: v + self._spent.get(k, 0.0) for k, v in self._done.items()}
        total = self._last - self._first if self._marks else 0.0
        return seconds | {"total": total, "goodput": seconds["step"] / total if total > 0 else 0.0}


def goodput(events: Iterable[Event]) -> dict[str, float]:
    """`Goodput.read` after all of these events."""
    found = Goodput()
    for event in events:
        found.add(event)
    return found.read()


class EventLog:
    """Appends events to a run folder; they reach the operating system before `add` returns.

    Args:
      folder: of the run; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.goodput = Goodput()
        for event in read_events(folder) if folder else ():
            self.goodput.add(event)
        self._file = (folder / FILE).open("ab", buffering=0) if folder else None
        if self._file and self._file.tell() and folder and not _ends_whole(folder / FILE):
            self._file.write(b"\n")  # a kill cut the last line short

    def add(self, event: str, **fields: Any) -> None:
        """Append an event with the current time."""
        row = {"time": round(time.time(), 3), "event": event} | fields
        self.goodput.add(row)
        if self._file:
            self._file.write(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _at(marks: Sequence[tuple[int, float]], step: int) -> float:
    """Seconds spent on steps when `step` was done, interpolated linearly between the marks."""
    for (s0, t0), (s1, t1) in itertools.pairwise(marks):
        if s0 <= step < s1:
            return t0 + (t1 - t0) * (step - s0) / (s1 - s0)
    return marks[-1][1] if step >= marks[-1][0] else marks[0][1]
