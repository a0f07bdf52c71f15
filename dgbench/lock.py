"""Two processes never write one run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgbench.writing import replace_file, writable

HEARTBEAT_SECONDS = 10.0
# A lock from another machine counts as abandoned when its heartbeat is this old.
STALE_SECONDS = 120.0


class RunIsLocked(RuntimeError):
    """Another live process is writing this run."""


class RunLock:
    """A lock file that says which process holds it, with a heartbeat for other machines to see.

    Args:
        path: the lock file, in the folder that it locks.
    """

    def __init__(self, path: Path):
        self.path = path
        self._me: dict[str, Any] | None = None

    def is_held(self) -> bool:
        """Whether a live process holds the lock."""
        holder = self._holder()
        if holder is None:
            return False
        age = time.time() - holder["heartbeat"]
        if holder["host"] == socket.gethostname():
            return _is_alive(holder["pid"], holder.get("started"))
        return age < STALE_SECONDS

    def _holder(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.path.read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run: nobody else writes it, and a heartbeat tells other machines so.

        Raises:
            RunIsLocked: a live process holds it.
        """
        with writable(self.path.parent), _exclusive(self.path.parent):
            if self.is_held():
                holder = self._holder() or {}
                raise RunIsLocked(
                    f"{self.path.parent} is being written by process {holder.get('pid')} on {holder.get('host')}. "
                    "Wait for it, or stop it first."
                )
            self._me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
            self._beat()
        stop = threading.Event()
        heart = threading.Thread(target=self._beat_until, args=(stop,), daemon=True)
        heart.start()
        try:
            yield
        finally:
            stop.set()
            heart.join()
            if self._is_mine():
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self._me = None

    def confirm(self) -> None:
        """Make sure that a lock taken here is still ours.

        Raises:
            RunIsLocked: another process took it over while this one was held up.
        """
        if self._me is not None and not self._is_mine():
            raise RunIsLocked(
                f"{self.path.parent} was taken over by another process while this one was held up. "
                "Leave it to that one."
            )

    def _is_mine(self) -> bool:
        holder = self._holder() or {}
        return self._me is not None and all(holder.get(key) == value for key, value in self._me.items())

    def _beat(self) -> None:
        holder = {**(self._me or {}), "heartbeat": time.time()}
        replace_file(self.path, lambda file: file.write(json.dumps(holder).encode("utf-8")))

    def _beat_until(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            # A full disk must not end the run from here: the writer of the next line will say so.
            with contextlib.suppress(OSError):
                if not self._is_mine():
                    return
                self._beat()


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One process at a time looks at the lock and takes it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_alive(pid: int, started: float | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The number may belong to another process by now, or to one that is dead but not yet buried.
    return _started(pid) == started and not _is_zombie(pid)


def _started(pid: int) -> float | None:
    """When a process started, in clock ticks since boot; None where the system does not say."""
    facts = _facts(pid)
    return float(facts[19]) if facts else None


def _is_zombie(pid: int) -> bool:
    return bool(facts := _facts(pid)) and facts[0] in "ZX"


def _facts(pid: int) -> list[str]:
    """What Linux says of a process, from its state on; empty elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
