"""Runs on disk: whole files, locks, statuses, and what is read back."""

import json
import math
import multiprocessing
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from dgbench import record
from dgbench.lock import STALE_SECONDS, RunIsLocked, RunLock, _started
from dgbench.record import RunFolder
from dgbench.writing import CannotWrite, replace_file, tidy, writable


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


def hold(path, ready, release):
    with RunLock(path).held():
        ready.set()
        release.wait(30)


def write_lock(folder, **changes):
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": None, "heartbeat": time.time(), **changes}
    folder.lock.path.write_text(json.dumps(holder))


def test_a_torn_last_line_is_left_out_and_cut_on_resume(folder):
    for step in (0, 3, 6):
        folder.append({"step": step, "values": {"in/a/nll": math.nan}})
    with open(folder.lines_file, "ab") as file:
        file.write(b'{"step": 9, "val')

    assert [line["step"] for line in folder.lines()] == [0, 3, 6]
    folder.keep_lines(3)
    assert folder.lines_file.read_text() == (
        '{"step": 0, "values": {"in/a/nll": null}}\n{"step": 3, "values": {"in/a/nll": null}}\n'
    )


def test_a_line_is_on_the_disk_or_not_there_at_all(folder, monkeypatch):
    folder.append({"step": 0})

    def full(number):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"Cannot write under .*run: No space left on device\. Free room"):
        folder.append({"step": 1})
    assert folder.lines_file.read_text() == '{"step": 0}\n'


def test_replacing_a_file_shows_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file"
    replace_file(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_tidied_but_not_what_this_one_writes(tmp_path):
    mine, theirs = tmp_path / f".a.{os.getpid()}.1.aside", tmp_path / ".a.999999999.1.aside"
    mine.touch()
    theirs.touch()
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_other_errors_of_the_system_keep_their_reason(tmp_path):
    with pytest.raises(CannotWrite, match="Permission denied"), writable(tmp_path):
        raise PermissionError(13, os.strerror(13))


def test_the_status_of_a_run_follows_its_lock(folder):
    assert folder.status() is None
    folder.write(run_id="run", status="running")
    assert folder.status() == "interrupted"
    with folder.lock.held():
        assert folder.status() == "running"
    assert folder.status() == "interrupted"
    for status in ("complete", "failed", "diverged"):
        folder.write(status=status)
        assert folder.status() == status
    assert {"running", "interrupted", "complete", "failed", "diverged"} == set(record.STATUSES)


def test_a_lock_is_held_by_one_process_at_a_time(folder):
    context = multiprocessing.get_context("forkserver")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder.lock.path, ready, release))
    other.start()
    assert ready.wait(60)
    with pytest.raises(RunIsLocked, match=rf"being written by process {other.pid} on .*Wait for it, or stop it"):
        folder.lock.held().__enter__()
    release.set()
    other.join(30)
    with folder.lock.held():
        assert folder.is_locked()
    assert not folder.lock.path.exists()


def test_a_lock_of_a_dead_process_is_taken_over(folder):
    write_lock(folder, pid=2**22 - 3)
    assert not folder.is_locked()
    write_lock(folder, pid=os.getpid(), started=1.0)  # the number belongs to another process by now
    assert not folder.is_locked()
    with folder.lock.held():
        assert folder.is_locked()


def test_a_lock_of_another_machine_counts_while_its_heart_beats(folder):
    write_lock(folder, host="elsewhere", heartbeat=time.time() - STALE_SECONDS / 2)
    assert folder.is_locked()
    write_lock(folder, host="elsewhere", heartbeat=time.time() - 2 * STALE_SECONDS)
    assert not folder.is_locked()


def test_the_heart_beats_while_the_lock_is_held(folder, monkeypatch):
    monkeypatch.setattr("dgbench.lock.HEARTBEAT_SECONDS", 0.01)
    with folder.lock.held():
        first = json.loads(folder.lock.path.read_text())["heartbeat"]
        deadline = time.time() + 10
        while json.loads(folder.lock.path.read_text())["heartbeat"] == first and time.time() < deadline:
            time.sleep(0.01)
        assert json.loads(folder.lock.path.read_text())["heartbeat"] > first


def test_a_torn_lock_file_is_no_lock(folder):
    folder.lock.path.write_text('{"host": "x", "pi')
    assert not folder.is_locked()


def test_weights_are_kept_by_step(folder):
    for step in (0, 100, 200):
        folder.weights_file(step).touch()
    folder.keep_weights([100])
    assert [file.name for file in folder.checkpoints.iterdir()] == ["step_000100.pt"]


def test_a_path_that_is_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder of runs. Name the runs_dir of a sweep"):
        record.find(tmp_path / "nowhere")


def test_identity_hashes_do_not_depend_on_the_order_of_keys():
    assert record.identity_hash({"a": 1, "b": [2.5]}) == record.identity_hash({"b": [2.5], "a": 1})
    assert len(record.identity_hash({})) == 16


def test_a_zombie_holds_no_lock(folder):
    process = subprocess.Popen(["true"])
    pid = process.pid
    deadline = time.time() + 10
    while " Z " not in Path(f"/proc/{pid}/stat").read_text() and time.time() < deadline:
        time.sleep(0.01)
    write_lock(folder, pid=pid, started=_started(pid))
    assert not folder.is_locked()
    process.wait()


def test_a_lock_that_another_process_took_over_stops_the_writer(folder):
    with folder.lock.held():
        write_lock(folder, host="elsewhere", pid=1)
        with pytest.raises(RunIsLocked, match=r"was taken over by another process .* Leave it to that one"):
            folder.append({"step": 0})
    assert folder.lock.path.exists(), "the other's lock stays"
