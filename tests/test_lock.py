"""One process at a time trains in a run folder; the lock ends with its holder, however it ends."""

import json
import os
import socket
import time

import fork_server
import pytest

from byol_jax import run_lock
from byol_jax.run_lock import FILE, RunLock

HOLD = """
import pathlib, sys, time
from byol_jax.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path):
    process = fork_server.Process("-c", HOLD, tmp_path, stdout=fork_server.PIPE)
    while process.said() != "held\n":
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait(10)


def test_a_second_start_is_told_who_holds_it_until_kill_9(tmp_path, holder):
    """Fails if two may train, the message does not say who does, or a dead one still holds it."""
    who = rf"process {holder.pid} on {socket.gethostname()} since 20\d\d-"
    start = time.monotonic()
    with pytest.raises(ValueError, match=who):
        RunLock(tmp_path)
    holder.kill()
    holder.wait(10)
    RunLock(tmp_path).release()
    assert time.monotonic() - start < run_lock.WATCH_SECONDS / 2, "a local holder is not waited for"


def test_one_process_cannot_take_it_twice(tmp_path):
    """Fails if two threads of a notebook may train in one folder, or a release keeps it."""
    lock = RunLock(tmp_path)
    with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


def test_a_folder_in_which_nothing_was_written_is_taken_away(tmp_path):
    """Fails if a refused config leaves an empty run folder, or one with files is removed."""
    RunLock(tmp_path / "new").release()
    assert not (tmp_path / "new").exists()
    lock = RunLock(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    lock.release()
    assert (tmp_path / "run" / "config.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        RunLock(tmp_path / "file")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(run_lock, "WATCH_SECONDS", 0.4)
    monkeypatch.setattr(run_lock, "LEASE_SECONDS", 0.4)


def write(folder, host, beat):
    about = {"host": host, "pid": 7, "since": "2025-01-01 10:00:00 +0000", "beat": beat}
    (folder / FILE).write_text(json.dumps(about))


def test_another_host_that_lives_is_noticed_where_locks_are_not_shared(
    tmp_path, quick, monkeypatch
):
    """Fails if a file system that keeps locks on each host by itself lets two hosts train."""
    write(tmp_path, "elsewhere", 1)
    beats = iter(range(2, 1000))
    sleep = time.sleep

    def meanwhile(seconds):
        write(tmp_path, "elsewhere", next(beats))
        sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(run_lock.time, "sleep", meanwhile)
        with pytest.raises(ValueError, match="process 7 on elsewhere since 2025-01-01"):
            RunLock(tmp_path)
    RunLock(tmp_path).release()  # it died: after a while its folder is free


@pytest.mark.parametrize("kernel", ["taken", "none"])
def test_file_systems_that_answer_otherwise(tmp_path, quick, monkeypatch, kernel, capsys):
    """Fails if the lock of a dead NFS client is waited for without an end, or if a file system
    without locks ends the run.
    """
    write(tmp_path, "elsewhere", 1)
    monkeypatch.setattr(run_lock, "_flock", lambda _: kernel)
    if kernel == "taken":
        with pytest.raises(ValueError, match="process 7 on elsewhere"):
            RunLock(tmp_path)
    else:
        RunLock(tmp_path).release()
        assert "has no locks" in capsys.readouterr().err
