"""GPUs shared by runs: lists that stand for real ones, and processes that contend for them."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dgbench import devices
from dgbench.devices import VISIBLE, Device, Process, Slots, check_devices, listed

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dgbench.devices", "omegaconf", "pytest"])
TWO = ("GPU-aaaa-1", "GPU-bbbb-2")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """No GPU, whatever this machine has."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.02)
    monkeypatch.setattr(devices, "_by_index", dict)


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """A command that lists two GPUs in this order."""
    monkeypatch.undo()
    monkeypatch.delenv(VISIBLE, raising=False)
    (command := tmp_path / "nvidia-smi").write_text(
        f'#!/bin/sh\n[ "$1" = --query-gpu=index,uuid ] && printf "0, {TWO[0]}\\n1, {TWO[1]}\\n"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def _runs(folder: Path, visible: str, per_device: int, count: int, seconds: float) -> None:
    """Take a GPU and give it back some times, each time writing which and from when to when."""
    os.environ[VISIBLE] = visible
    devices.WAIT_SECONDS = 0.02
    process = Process(Slots(folder / "locks"))
    for _ in range(count):
        with process.taken("auto", per_device):
            start = time.monotonic()
            (folder / f"holds_{os.getpid()}").touch()
            time.sleep(seconds)
            line = json.dumps([os.getpid(), os.environ[VISIBLE], start, time.monotonic()])
        with open(folder / "log", "a", encoding="utf-8") as file:
            file.write(line + "\n")


def begin(folder, visible="0,1", per_device=1, count=1, seconds=0.1):
    process = CONTEXT.Process(target=_runs, args=(folder, visible, per_device, count, seconds))
    process.start()
    return process


def most_at_once(intervals):
    events = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


@pytest.mark.parametrize(("per_device", "workers"), [(1, 5), (2, 6)])
def test_no_gpu_has_more_runs_than_its_slots_and_all_are_served(per_device, workers, tmp_path):
    processes = [begin(tmp_path, per_device=per_device, count=3) for _ in range(workers)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 3 * workers
    for gpu in ("0", "1"):
        # With more workers than slots both GPUs are full at some time, and never more than full.
        assert most_at_once([(start, end) for _, on, start, end in lines if on == gpu]) == per_device
    # CUDA cannot change its GPU: a worker's later runs are where its first was.
    assert len({(pid, on) for pid, on, *_ in lines}) == workers


def test_a_killed_holder_is_no_holder_even_if_it_leaves_a_forked_child(tmp_path, monkeypatch):
    holder = CONTEXT.Process(target=_fork_and_hold, args=(tmp_path,))
    holder.start()
    deadline = time.monotonic() + 30
    while not (child := tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    slots = Slots(tmp_path / "locks")
    assert slots.take([Device("0", "0")], 1) is None
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join(30)
    try:
        os.kill(int(child.read_text()), 0)
        device, handle = slots.take([Device("0", "0")], 1) or pytest.fail("still taken")
        os.close(handle)
        assert device.name == "0"
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def _fork_and_hold(folder: Path) -> None:
    os.environ[VISIBLE] = "0"
    with Process(Slots(folder / "locks")).taken("auto", 1):
        if pid := os.fork():
            (folder / "aside").write_text(str(pid))
            os.replace(folder / "aside", folder / "child")
        time.sleep(60)


def test_the_emptiest_gpu_comes_first_and_looking_takes_nothing(tmp_path):
    slots, pair = Slots(tmp_path), [Device("MIG-x/1", "a"), Device("y", "b")]
    taken = [slots.take(pair, 2) for _ in range(4)]
    assert [device.visible for device, _ in filter(None, taken)] == ["a", "b", "a", "b"]
    assert slots.take(pair, 2) is None
    for _, handle in filter(None, (taken[1], taken[3])):
        os.close(handle)
    device, handle = slots.take(pair, 2) or pytest.fail("none is free")
    assert device.visible == "b"
    assert slots.take(pair, 2) is not None


def test_waiting_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(VISIBLE, "3")
    slots = Slots(tmp_path)
    _, handle = slots.take([Device("3", "3")], 1) or pytest.fail("none is free")
    looks = itertools.count(1)

    def sleep(_):
        if next(looks) == 3:
            os.close(handle)

    monkeypatch.setattr(time, "sleep", sleep)
    with Process(slots).taken("auto", 1):
        assert os.environ[VISIBLE] == "3"
    assert [r.getMessage() for r in caplog.records] == ["Waiting for a free GPU of 3 (runs_per_device=1)."]


def test_nothing_is_done_unless_it_is_asked_for(tmp_path):
    with Process(Slots(tmp_path)).taken(None, 1):
        assert VISIBLE not in os.environ
    assert not list(tmp_path.iterdir())


def test_a_slot_is_held_once_however_often_it_is_asked_for_and_then_free(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "0")
    slots = Slots(tmp_path)
    process = Process(slots)
    with process.taken("auto", 1):
        with process.taken("auto", 1):
            assert slots.take([Device("0", "0")], 1) is None
        assert slots.take([Device("0", "0")], 1) is None
    assert slots.take([Device("0", "0")], 1) is not None


def test_what_a_run_leaves_in_cudas_memory_is_freed_with_its_slot(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "0")
    freed = []
    with Process(Slots(tmp_path)).taken("auto", 1):
        monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
        monkeypatch.setattr("torch.cuda.empty_cache", lambda: freed.append(True))
    assert freed == [True]


def test_nvidia_smi_lists_the_gpus_and_cuda_visible_devices_chooses(nvidia_smi, monkeypatch):
    assert listed() == [Device(uuid, uuid) for uuid in TWO]
    for visible, expected in (
        ("1", [Device(TWO[1], "1")]),
        ("1, 0", [Device(TWO[1], "1"), Device(TWO[0], "0")]),
        ("GPU-bb", [Device(TWO[1], "GPU-bb")]),
        ("MIG-5,-1,0", [Device("MIG-5", "MIG-5")]),
        ("", []),
    ):
        monkeypatch.setenv(VISIBLE, visible)
        assert listed() == expected


def test_a_broken_driver_lists_nothing(nvidia_smi, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0, GPU-x\nexit 9\n")
    assert listed() == []


def test_numbers_are_positions_among_the_visible(nvidia_smi, tmp_path, monkeypatch):
    with Process(Slots(tmp_path / "a")).taken([1], 1):
        assert os.environ[VISIBLE] == TWO[1]
    monkeypatch.setenv(VISIBLE, "1,0")
    with Process(Slots(tmp_path / "b")).taken([1], 1):
        assert os.environ[VISIBLE] == "0"


@pytest.mark.parametrize(
    ("wanted", "per_device", "text"),
    [
        (2, 1, r"devices=2, expected auto, or a list of different GPUs such as \[0,1\]\. Leave it null"),
        ("all", 1, "devices=all, expected auto"),
        ([], 1, r"devices=\[\], expected auto"),
        ([0, 0], 1, r"devices=\[0, 0\], expected"),
        ([-1], 1, "expected auto"),
        (["0"], 1, "expected auto"),
        ([True], 1, "expected auto"),
        ("auto", 0, "runs_per_device=0, expected at least 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(wanted, per_device, text):
    with pytest.raises(ValueError, match=text):
        check_devices(wanted, per_device)


def test_values_that_mean_something_are_accepted():
    for wanted in (None, "auto", [0], [1, 0]):
        check_devices(wanted, 2)


@pytest.mark.parametrize(
    ("visible", "wanted", "text"),
    [
        (None, "auto", r"devices=auto: no GPU found \(nvidia-smi lists none\)\. Leave devices out to run on the CPU"),
        ("", "auto", r"no GPU found \(CUDA_VISIBLE_DEVICES=''\)"),
        ("0,1", [0, 2], r"devices=\[0, 2\]: there is no GPU 2, expected 0 to 1\. Name others, or set devices=auto"),
    ],
)
def test_gpus_that_are_not_there_are_refused(visible, wanted, text, tmp_path, monkeypatch):
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    with pytest.raises(ValueError, match=text), Process(Slots(tmp_path)).taken(wanted, 1):
        pass


def test_a_process_cannot_change_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,5")
    process = Process(Slots(tmp_path))
    for wanted in ([1], "auto", [0, 1]):
        with process.taken(wanted, 1):
            assert os.environ[VISIBLE] == "5"
    with (
        pytest.raises(ValueError, match=r"this process has used GPU 1 and cannot change .* Start"),
        process.taken([0], 1),
    ):
        pass
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with (
        pytest.raises(ValueError, match=r"uses CUDA already and cannot change its GPU\. Start a new"),
        Process(Slots(tmp_path)).taken("auto", 1),
    ):
        pass


def test_locks_in_a_folder_of_somebody_else_are_a_sentence(tmp_path, monkeypatch):
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(PermissionError, match=r"belongs to another user\. Delete it, or set TMPDIR"):
        Slots(tmp_path).take([Device("0", "0")], 1)


@pytest.mark.parametrize("route", ["sweep", "one run", "worker"])
def test_a_run_holds_a_gpu_while_it_trains_and_no_longer(route, tmp_path, monkeypatch):
    # Not above: the processes that contend import this file.
    from dgbench import application, composition, sweeper, train_command
    from dgbench.runner import Outcome

    monkeypatch.setenv(VISIBLE, "6,7")
    slots, on_7 = Slots(tmp_path / "locks"), [Device("7", "7")]
    process = Process(slots)
    monkeypatch.setattr(devices, "this_process", lambda: process)
    seen = []

    def execute(run, progress=None):
        seen.append((os.environ[VISIBLE], slots.take(on_7, 1)))
        return Outcome(tmp_path, "complete", None, 0.0)

    monkeypatch.setattr("dgbench.runner.execute", execute)
    lines = ["dataset=digits_color", "devices=[1]", f"runs_dir={tmp_path}"]
    if route == "sweep":
        sweeper.run_sweep([*lines, "test_domains=each"])
    else:
        monkeypatch.setattr(application, "_is_worker", lambda: route == "worker")
        composed = OmegaConf.create(composition.compose([*lines, "test_domains=[0]"]))
        with pytest.raises(SystemExit) if route == "one run" else contextlib.nullcontext():
            train_command.job(composed)
    assert seen == [("7", None)] * (3 if route == "sweep" else 1)
    assert slots.take(on_7, 1) is not None
