"""GPUs shared by runs: each run waits for a free one, takes it before CUDA starts, and gives it back.

Who has taken what is kept in lock files, one per slot, in a folder of this user and host under the system's temporary
directory. The system itself drops the locks of a process that ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
# How often a run that waits looks whether a slot has become free.
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Device:
    """One GPU."""

    name: str
    """What its lock files are called: its UUID where the driver tells it, so that all processes mean the same GPU."""
    visible: str
    """What CUDA_VISIBLE_DEVICES must say for this GPU to be the only one."""


def check_devices(devices: Any, runs_per_device: int) -> None:
    """Refuse what `devices` and `runs_per_device` cannot mean.

    Raises:
        ValueError: another value than null, `auto` or distinct numbers; less than one run per device.
    """
    is_list = isinstance(devices, list | tuple) and len(devices) > 0 and len(set(map(str, devices))) == len(devices)
    are_numbers = is_list and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in devices)
    if not (devices is None or devices == "auto" or are_numbers):
        raise ValueError(
            f"devices={devices}, expected auto, or a list of different GPUs such as [0,1]. "
            "Leave it null for a run that takes no GPU in turn."
        )
    if runs_per_device < 1:
        raise ValueError(f"runs_per_device={runs_per_device}, expected at least 1.")


def listed() -> list[Device]:
    """The GPUs of this machine: those that CUDA_VISIBLE_DEVICES names if it is set, else all that nvidia-smi lists."""
    by_index = _by_index()
    if (visible := os.environ.get(VISIBLE)) is None:
        # By UUID: CUDA may number the GPUs of a machine otherwise than nvidia-smi does.
        return [Device(uuid, uuid) for uuid in by_index.values()]
    found = []
    for entry in map(str.strip, visible.split(",")):
        # CUDA ignores what follows an entry that names no device.
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", entry):
            break
        # A UUID may be cut short.
        whole = next((uuid for uuid in by_index.values() if uuid.startswith(entry)), entry)
        found.append(Device(by_index.get(entry, whole), entry))
    return found


def _by_index() -> dict[str, str]:
    """Number and UUID of each GPU, as nvidia-smi says; empty if there is no such command or no driver."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"^(\d+), *(GPU-\S+)", said, re.M))


class Slots:
    """The slots of all GPUs, as lock files in a folder.

    Args:
        folder: where they lie; None: in a folder of this user and host under the system's temporary directory.
    """

    def __init__(self, folder: Path | None = None):
        if folder is None:
            folder = Path(tempfile.gettempdir()) / f"dgbench-{os.getuid()}" / socket.gethostname()
        self.folder = folder

    def take(self, devices: Sequence[Device], per_device: int) -> tuple[Device, int] | None:
        """A free slot of the device on which the fewest are taken, and the handle that holds it; None: all are taken.

        Raises:
            PermissionError: the folder belongs to another user.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise PermissionError(
                f"{self.folder}, which holds the locks of GPUs, belongs to another user. Delete it, or set TMPDIR to "
                "a folder of your own."
            )
        with self._mutex():
            free = {device: self._free(device, per_device) for device in devices}
            emptiest = max(devices, key=lambda device: len(free[device]))
            taken = free[emptiest].pop() if free[emptiest] else None
            for handle in (handle for handles in free.values() for handle in handles):
                os.close(handle)
        return None if taken is None else (emptiest, taken)

    def _free(self, device: Device, per_device: int) -> list[int]:
        """Handles that now hold the free slots of a device."""
        handles = []
        for slot in range(per_device):
            handle = os.open(self.folder / f"{device.name.replace('/', '_')}.{slot}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
            else:
                # What cleans up temporary folders goes by age.
                os.utime(handle)
                handles.append(handle)
        return handles

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        """One process at a time looks for a slot, so that none sees a slot taken that is only being looked at."""
        handle = os.open(self.folder / "looking", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Process:
    """What one process has taken.

    CUDA reads once which GPUs there are, so a process stays with the GPU that it took first. Between runs it gives
    back the slot, so that processes which wait are served, and takes its next one on the same GPU.
    """

    def __init__(self, slots: Slots):
        self.slots = slots
        self.bound: Device | None = None
        self._known: list[Device] = []
        self._handle: int | None = None
        # A process that is forked, to read images say, would keep the lock of a parent that is killed.
        os.register_at_fork(after_in_child=self._let_go)

    @contextlib.contextmanager
    def taken(self, devices: Any, per_device: int) -> Iterator[None]:
        """Hold a slot; wait while none is free. Within, further calls change nothing.

        Args:
            devices: None (do nothing), `auto` (all that `listed` finds) or positions among those.
            per_device: slots of each GPU.

        Raises:
            ValueError: there is no such GPU, or this process cannot use another any more.
        """
        if devices is None or self._handle is not None:
            yield
            return
        candidates = self._candidates(devices)
        self.bound, self._handle = self._wait(candidates, per_device)
        os.environ[VISIBLE] = self.bound.visible
        try:
            yield
        finally:
            if torch := _torch_with_cuda():
                # Memory that this process keeps for later is the next one's now.
                torch.cuda.empty_cache()
            self._let_go()

    def _candidates(self, devices: Any) -> list[Device]:
        if self.bound is None:
            if _torch_with_cuda():
                raise ValueError(
                    f"devices={devices}: this process uses CUDA already and cannot change its GPU. "
                    "Start a new process, or leave devices out."
                )
            self._known = listed()
        known = self._known
        if not known:
            said = f"{VISIBLE}={os.environ[VISIBLE]!r}" if VISIBLE in os.environ else "nvidia-smi lists none"
            raise ValueError(f"devices={devices}: no GPU found ({said}). Leave devices out to run on the CPU.")
        if devices != "auto" and max(devices) >= len(known):
            raise ValueError(
                f"devices={devices}: there is no GPU {max(devices)}, expected 0 to {len(known) - 1}. "
                "Name others, or set devices=auto."
            )
        chosen = known if devices == "auto" else [known[index] for index in devices]
        if self.bound is not None and self.bound not in chosen:
            raise ValueError(
                f"devices={devices}: this process has used GPU {known.index(self.bound)} and cannot change to another. "
                "Start a new process."
            )
        return chosen if self.bound is None else [self.bound]

    def _wait(self, candidates: list[Device], per_device: int) -> tuple[Device, int]:
        has_said = False
        while (found := self.slots.take(candidates, per_device)) is None:
            if not has_said:
                names = ", ".join(device.visible for device in candidates)
                logging.getLogger("dgbench").warning(
                    "Waiting for a free GPU of %s (runs_per_device=%d).", names, per_device
                )
                has_said = True
            time.sleep(WAIT_SECONDS)
        return found

    def _let_go(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _torch_with_cuda() -> Any:
    """torch, if this process has started CUDA."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


@functools.cache
def this_process() -> Process:
    """What this process has taken."""
    return Process(Slots())


def taken(devices: Any, runs_per_device: int) -> contextlib.AbstractContextManager[None]:
    """Hold a GPU for a run, as its keys `devices` and `runs_per_device` ask; see `Process.taken`."""
    return this_process().taken(devices, runs_per_device)
