"""What `train --status` tells, from files alone."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from byol_jax.events import FILE
from byol_jax.report.status import status


def write_run(folder, last, ago=1.0, pid=None, **row):
    """A run folder whose last event was so many seconds ago."""
    now = time.time() - ago
    host = socket.gethostname()
    begin = {"total_steps": 1000, "devices": 8, "kind": "TPU v4", "processes": 2, "host": host}
    start = {"time": now - 100, "event": "start", "step": 0, "pid": pid or os.getpid(), **begin}
    progress = {"time": now - 10, "event": "progress", "step": 250, "spent": {"step": 80.0}}
    events = [start, progress, {"time": now, **last}]
    (folder / FILE).write_text("".join(json.dumps(e) + "\n" for e in events))
    row = {"step": 250, "train/loss": 1.5, "time/step_ms": 400.0, "time/images_per_s": 9000.0} | row
    (folder / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 260, "tra')
    saved = folder / "checkpoints" / "200"
    saved.mkdir(parents=True)
    (saved / "manifest.json").write_text("{}")
    return folder


RUNNING = {"event": "progress", "step": 250, "spent": {"step": 80.0}}


def test_a_run_that_goes_on(tmp_path):
    """Fails if step, time left, checkpoint or goodput are not those of the files."""
    page = status(write_run(tmp_path, RUNNING))
    assert "state      running" in page
    assert "step 250 of 1,000 (25.0%), 0:05:00 left" in page
    assert "8 x TPU v4, 2 process(es)" in page
    assert "saved      step 200" in page
    assert "train/loss 1.5" in page
    assert "step 80.0%" in page
    assert "WARNING" not in page


@pytest.mark.parametrize(
    ("last", "ago", "said"),
    [
        ({"event": "end", "step": 1000}, 1, "complete since"),
        ({"event": "stop", "step": 250}, 1, "stopped by a signal"),
        ({"event": "error", "what": "no space"}, 1, "ended by an error 0:00:01 ago: no space"),
        (RUNNING, 500, "SILENT"),
    ],
)
def test_how_a_run_ended(tmp_path, last, ago, said):
    """Fails if a run that stopped, failed or hangs looks like one that goes on."""
    assert f"state      {said}" in status(write_run(tmp_path, last, ago))


def test_a_killed_run_is_dead(tmp_path):
    """Fails if a process that is gone is taken for one that is slow."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert "state      DEAD" in status(write_run(tmp_path, RUNNING, pid=process.pid))


def test_what_is_wrong_is_said(tmp_path):
    """Fails if damage, collapse, a starved step or a set-aside checkpoint are kept quiet."""
    bad = {"data/damaged": 7, "time/wait_share": 0.4, "features/z_std": 0.02}
    folder = write_run(tmp_path, RUNNING, **bad)
    (folder / "checkpoints" / "damaged-150").mkdir()
    (folder / "stacks-1.txt").write_text("")
    page = status(folder)
    for said in ("7 images", "40% of the time", "collapse", "damaged-150", "stacks-1.txt"):
        assert any(line.startswith("WARNING") and said in line for line in page.splitlines()), said


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """Fails if an empty folder gives an empty page."""
    with pytest.raises(ValueError, match=r"no events\.jsonl"):
        status(tmp_path)
