"""The service that wandb starts for a process, found by /proc and halted."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

# A test whose logger waits without end fails after that.
TOO_LONG_SECONDS = 80
HALTED: set[int] = set()


def services(parent: int) -> set[int]:
    """The processes of wandb's service that a process started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if (told := re.match(r"(\d+) \(wandb-core\) [^Z] (\d+) ", stat.read_text())) and int(told[2]) == parent:
                found.add(int(told[1]))
    return found


def end_halted_ones() -> None:
    for pid in HALTED & services(os.getpid()):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def halted_ones_end() -> Iterator[None]:
    """Within, what `halt` stopped ends with the block, or when all of it takes too long."""
    timer = threading.Timer(TOO_LONG_SECONDS, end_halted_ones)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        end_halted_ones()
        HALTED.clear()
        gc.collect()  # while Python's remark on them is passed over


def halt(how: int) -> None:
    """Send a signal to the services of this process."""
    found = services(os.getpid())
    assert found
    HALTED.update(found)
    for pid in found:
        os.kill(pid, how)
