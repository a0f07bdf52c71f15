"""How long a user waits for an answer that needs no computation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.benchmarks.timing import alternate, row, seconds, show

pytestmark = pytest.mark.bench


def test_start_up():
    commands = {"dgbench --help": ["--help"], "dgbench list algorithms": ["list", "algorithms"]}
    times = alternate({name: _started(arguments) for name, arguments in commands.items()}, rounds=7)
    show("Start-up", *(row(name, values, "{:.2f} s", "< 1 s") for name, values in times.items()))


def _started(arguments: list[str]) -> Callable[[], float]:
    command = [sys.executable, "-m", "dgbench", *arguments]
    return lambda: seconds(lambda: subprocess.run(command, check=True, capture_output=True, timeout=60))
