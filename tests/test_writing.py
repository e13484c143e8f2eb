"""Files that we write: JSON that every reader takes, and places that are tried before."""

import ast
import json
import math
from pathlib import Path

import pytest

import byol_jax
from byol_jax.events import EventLog, read_events
from byol_jax.log import MetricsWriter
from byol_jax.untrusted import read_lines
from byol_jax.writing import check_writable, to_json, write_json

ROOT = Path(byol_jax.__file__).parent


def refuse(constant):
    raise ValueError(constant)


def strict(text):
    """Parse as RFC 8259 has it: NaN and Infinity are no numbers."""
    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_become_null():
    """Fails if NaN or Infinity is written at any depth, or a finite number changes."""
    value = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, 2)], "c": {"d": {"e": math.nan}}}
    expected = {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": {"e": None}}}
    assert strict(to_json(value)) == expected


def test_all_json_is_written_in_one_place():
    """Fails if a module writes JSON by itself; convert/ refuses what is not finite on its own."""
    allowed = {"writing.py", "train.py", "processes.py", "convert/native.py", "convert/timm.py"}
    users = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.dumps", "json.dump")
    }
    assert users == allowed


def test_a_row_that_is_not_finite_is_kept_and_said(tmp_path, capsys):
    """Fails if metrics.jsonl or events.jsonl holds NaN, or the reader drops the row."""
    writer = MetricsWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"train/loss": 2.0, "probe/train_top1": math.nan})
    writer.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = {"probe/train_top1": None, "train/loss": 2.0}
    assert [strict(line) for line in lines] == [{"step": 1} | row, {"step": 2} | row]
    assert capsys.readouterr().err.count("probe/train_top1 is nan at step 1") == 1
    events = EventLog(tmp_path)
    events.add("progress", value=math.inf)
    events.close()
    assert strict((tmp_path / "events.jsonl").read_text())["value"] is None
    assert read_events(tmp_path)[0]["value"] is None


def test_rows_of_earlier_versions_are_read(tmp_path):
    """Fails if a row with NaN, as version 0.1.0 wrote it, is dropped."""
    (tmp_path / "m").write_text('{"step": 1, "a": NaN, "b": -Infinity}\n{"step": 2, "a"\n')
    assert read_lines(tmp_path / "m") == [{"step": 1, "a": None, "b": None}]


def test_tensorboard_is_cut_back_with_the_rows(tmp_path):
    """Fails if the points that a resumed run makes again are there twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for resumed_at, steps in ((0, range(1, 6)), (3, range(4, 8))):
        writer = MetricsWriter(tmp_path, resumed_at)
        for step in steps:
            writer.write(step, {"train/loss": float(step + 100 * resumed_at)})
        writer.close()
    board = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    found = [(e.step, make_ndarray(e.tensor_proto).item()) for e in board.Tensors("train/loss")]
    # TensorBoard reads files by name; of one second, these may be in either order.
    assert sorted(found) == [(1, 1), (2, 2), (3, 3), (4, 304), (5, 305), (6, 306), (7, 307)]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_place_is_tried_without_a_trace(tmp_path):
    """Fails if a place that cannot be written passes, or the trial leaves or changes a file."""
    (tmp_path / "eval").write_text("")
    with pytest.raises(ValueError, match=r"eval is no folder.*--out"):
        check_writable(tmp_path / "eval" / "knn.json", "--out")
    with pytest.raises(ValueError, match=r"it is a folder.*--json"):
        check_writable(tmp_path, "--json")
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable(Path("/proc/none/knn.json"), "--out")
    path = tmp_path / "new" / "knn.json"
    check_writable(path, "--out")
    assert list(path.parent.iterdir()) == []
    write_json(path, {"top1": 50.0})
    check_writable(path, "--out")
    assert json.loads(path.read_text()) == {"top1": 50.0}
    assert list(path.parent.iterdir()) == [path]
