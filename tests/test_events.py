"""Where the time of a run went, from its events alone."""

import json

import pytest

from byol_jax.events import FILE, KINDS, Clock, EventLog, goodput, read_events


def spent(**seconds):
    return dict.fromkeys(KINDS, 0.0) | seconds


def start(time, step=0, began=None):
    return {"time": time, "event": "start", "step": step, "began": time if began is None else began}


def progress(time, at, **seconds):
    return {"time": time, "event": "progress", "step": at, "spent": spent(**seconds)}


def test_one_start():
    """Fails if a kind is left out, or the total begins with the first event."""
    found = goodput([start(110, began=100), progress(200, 50, start=10, step=60, wait=20, save=10)])
    assert found["step"] == 60
    assert found["total"] == 100
    assert found["goodput"] == pytest.approx(0.6)
    assert (found["start"], found["wait"], found["save"], found["lost"]) == (10, 20, 10, 0)


def test_what_is_done_again_after_a_kill_is_lost():
    """Fails if steps count twice, or the time between the starts is forgotten.

    Step 40 was saved, killed at 50 (10 s a ten steps): 10 s of steps and 30 s of standing still are
    lost. Marks are at 20 and 50 only: step 40 is found between them.
    """
    events = [
        start(0),
        progress(20, 20, step=20),
        progress(50, 50, step=50),
        start(85, step=40, began=80),
        progress(105, 60, start=5, step=20),
    ]
    found = goodput(events)
    assert found["step"] == pytest.approx(40 + 20)
    assert found["lost"] == pytest.approx(10 + 30)
    assert found["start"] == 5
    assert found["total"] == 105
    assert sum(found[k] for k in (*KINDS, "lost")) == pytest.approx(found["total"])


def test_a_second_kill_loses_again_and_no_step_twice():
    """Fails if the marks of steps that were done in vain are kept."""
    events = [
        start(0),
        progress(50, 50, step=50),
        start(50, step=0),  # nothing was saved
        progress(80, 30, step=30),
        start(80, step=30),
        progress(100, 50, step=20),
    ]
    found = goodput(events)
    assert found["step"] == pytest.approx(50)
    assert found["lost"] == pytest.approx(50)


def test_a_rollback_inside_of_a_start():
    """Fails if what is done after a rollback is counted from the wrong place."""
    events = [
        start(0),
        progress(30, 30, step=30),
        {"time": 31, "event": "rollback", "step": 10},
        progress(51, 30, step=50),
        start(51, step=20),
        progress(61, 30, step=10),
    ]
    found = goodput(events)
    assert found["step"] == pytest.approx(10 + 10 + 10)
    assert found["lost"] == pytest.approx(20 + 10)


def test_nothing_is_nothing():
    """Fails on a division by zero."""
    assert goodput([])["goodput"] == 0
    assert goodput([start(5)])["goodput"] == 0


def test_a_torn_line_is_passed_over_and_the_next_one_whole(tmp_path):
    """Fails if a kill while writing costs the event after it, or the reader."""
    log = EventLog(tmp_path)
    log.add("start", step=0)
    log.close()
    with (tmp_path / FILE).open("a") as f:
        f.write('{"time": 5, "eve')
    log = EventLog(tmp_path)
    log.add("stop", step=3)
    log.close()
    assert [e["event"] for e in read_events(tmp_path)] == ["start", "stop"]
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["step"] == 3


def test_a_later_start_knows_the_earlier_ones(tmp_path):
    """Fails if the goodput begins anew with every start."""
    log = EventLog(tmp_path)
    log.add("start", step=0)
    log.add("progress", step=5, spent=spent(step=7.0))
    log.close()
    log = EventLog(tmp_path)
    log.add("start", step=5)
    assert log.goodput.read()["step"] == 7.0
    log.close()


def test_the_clock_does_one_thing_at_a_time(monkeypatch):
    """Fails if time inside of a task counts for what is around it too."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock()
    now[0] = 3.0
    with clock.spend("evaluate"):
        now[0] = 4.0
        with clock.spend("wait"):
            now[0] = 6.0
        now[0] = 7.0
    clock.turn_to("step")
    now[0] = 12.0
    assert clock.read() == spent(start=3.0, evaluate=2.0, wait=2.0, step=5.0)
