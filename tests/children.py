"""Child processes that train and may be killed; forked from a server that has imported everything once."""

import contextlib
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["dgbench.api", "dgbench.datasets.digits_rot", "dgbench.algorithms.erm"])


def _child(keys: dict[str, Any], before: str, log: str) -> None:
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        os.dup2(file.fileno(), 2)
        exec(before, {"__name__": "before"})
        import dgbench

        outcome = dgbench.train(**keys)
        sys.exit(0 if outcome.status in ("complete", "diverged") else 3)


def start(keys: dict[str, Any], log: Path, before: str = "") -> BaseProcess:
    """A process that executes `before` and then trains one run."""
    process = _CONTEXT.Process(target=_child, args=(keys, before, str(log)))
    process.start()
    return process


def train(keys: dict[str, Any], log: Path, before: str = "") -> int | None:
    """As `start`, to the end; the exit code, negative for a signal."""
    process = start(keys, log, before)
    process.join(120)
    return process.exitcode
