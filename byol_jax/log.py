"""Output of a run: a JSON-lines file, TensorBoard, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from byol_jax.writing import not_finite, to_json

HEARTBEAT_SECONDS = 20.0


_process = 0


def speak_as(process: int) -> None:
    """Set the process number: 0 prints all messages, the others only those about themselves."""
    global _process
    _process = process


def say(text: str, *, everywhere: bool = False) -> None:
    """Print one line to stderr, above the progress bar if there is one.

    Args:
      text: the line.
      everywhere: print it in every process, with the process number in front except in process 0.
    """
    if not _process or everywhere:
        # The reader may be gone (`| tee`), or a signal handler may interrupt another line.
        with contextlib.suppress(OSError, RuntimeError):
            tqdm.write(f"[{_process}] {text}" if _process else text, file=sys.stderr)
            sys.stderr.flush()


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """Log that something slow begins, again every 20 s, and how long it took."""
    start, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            say(f"{what}: {time.monotonic() - start:.0f} s ...")

    say(f"{what} ...")
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"{what}: done in {time.monotonic() - start:.1f} s")


class Progress:
    """A progress bar on a terminal, a plain line every ten seconds elsewhere.

    Args:
      total: steps of the run. done: steps before this start. rows: images per step.
      plain: print lines if stderr is not a terminal; False prints nothing there.
    """

    def __init__(self, total: int, done: int, rows: int, plain: bool = True) -> None:
        self._terminal = sys.stderr.isatty() and not _process
        self._plain, self._rows, self._total = plain, rows, total
        self._first_step, self._start = done, time.monotonic()
        self._printed = self._start
        # Excludes the first step, which waits for the compiler.
        self._bar = tqdm(
            total=total, initial=done, unit="step", disable=not self._terminal, smoothing=0.1
        )

    def start(self, step: int) -> None:
        """Start the clock: the step is compiled."""
        self._first_step, self._start = step, time.monotonic()
        self._bar.start_t = self._bar.last_print_t = time.time()

    def update(self, step: int, loss: float) -> None:
        """Show that `step` steps are done."""
        now = time.monotonic()
        per_step = (now - self._start) / max(step - self._first_step, 1)
        rate = f"{self._rows / per_step:.0f} images/s" if step > self._first_step else ""
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._plain and (now - self._printed > 10 or step == self._total):
            self._printed = now
            left = _duration(per_step * (self._total - step))
            say(f"step {step}/{self._total}  loss {loss:.4f}  {rate}  {left} left")

    def close(self) -> None:
        """Close the bar and leave it on screen."""
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class MetricsWriter:
    """Writes metrics.jsonl, and TensorBoard events if TensorFlow is installed.

    Args:
      folder: of the run; None writes nothing (processes other than 0).
      step: the step the run continues from; later rows of metrics.jsonl, written before the run was
        stopped, are removed, and so is an incomplete last line.

    last: the step of the last row, 0 if there is none.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.last = 0
        if folder is None:
            self._file, self._board = None, None
            return
        self._path = folder / "metrics.jsonl"
        cut = self._cut_back(step)
        if cut:
            say(f"metrics.jsonl: cut back to step {step}; {cut} later lines will be written again")
        self._file = self._path.open("a")
        self._board = _tensorboard(folder, step)
        self._told: set[str] = set()

    def _cut_back(self, step: int) -> int:
        if not self._path.exists():
            return 0
        lines = self._path.read_text(errors="replace").splitlines(keepends=True)
        kept = []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if line.endswith("\n") and isinstance(row, dict) and row.get("step", step + 1) <= step:
                kept.append(line)
                self.last = row["step"]
        if len(kept) < len(lines):
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(kept))
            temporary.replace(self._path)
        return len(lines) - len(kept)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one flat row; on disk when this returns.

        A number that is not finite is null in metrics.jsonl and said, once per key.
        """
        self.last = step
        if self._file is None:
            return
        row = {"step": step} | {k: metrics[k] for k in sorted(metrics)}
        for key in not_finite(row):
            if key not in self._told:
                say(f"WARNING: {key} is {row[key]} at step {step}; written as null from here on")
            self._told.add(key)
        self._file.write(to_json(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.write_scalars(step, dict(metrics))

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path, step: int) -> Any:
    """Clu's asynchronous TensorBoard writer, or None (logged once) if TensorFlow is missing.

    Events of an earlier start that are later than `step` are taken away.
    """
    try:
        from clu import metric_writers
    except ImportError:
        say("TensorFlow is not installed: metrics go to metrics.jsonl only")
        return None
    for path in sorted(folder.glob("events.out.tfevents.*")):
        _cut_back_board(path, step)
    return metric_writers.AsyncWriter(_Board(metric_writers.SummaryWriter(str(folder))))


class _Board:
    """A writer of TensorBoard events that is given up where it fails: a full disk.

    It does not end a run, which may still be saved, and ends with a clear error where it cannot.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def _do(self, action: Callable[[Any], None]) -> None:
        if self._writer is None:
            return
        try:
            action(self._writer)
        except Exception as e:  # TensorFlow's
            self._writer = None
            why = str(e).strip().partition("\n")[0]
            say(f"WARNING: TensorBoard's events end here, they cannot be written: {why}")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write one row."""
        self._do(lambda writer: writer.write_scalars(step, scalars))

    def flush(self) -> None:
        """Write what is buffered."""
        self._do(lambda writer: writer.flush())

    def close(self) -> None:
        """Flush and close."""
        self._do(lambda writer: writer.close())


def _cut_back_board(path: Path, step: int) -> None:
    """Write an event file again without what is later than `step`, and without a torn end."""
    import tensorflow as tf

    kept, whole = [], True
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step <= step:
                kept.append(record)
            else:
                whole = False
    except tf.errors.DataLossError:
        whole = False
    if not whole:
        temporary = path.with_name("events.tmp")
        with tf.io.TFRecordWriter(str(temporary)) as file:
            for record in kept:
                file.write(record)
        temporary.replace(path)
