"""How long a large sweep takes from its files to printed tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from dgbench import record
from dgbench.leaderboard.tables import make_tables
from dgbench.selection import selection
from tests.benchmarks.sweeps import RUNS, make_sweep
from tests.benchmarks.timing import processor_time, row, seconds, show

pytestmark = pytest.mark.bench

EVALUATIONS = 200_000
CRITERIA = ("train_validation", "oracle", "domain_cross_validation")
ROUNDS = 5


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 runs: ten methods on two datasets of four domains, single and in pairs, 20 draws, 3 trials."""
    runs_dir = tmp_path_factory.mktemp("tables") / "runs"
    assert make_sweep(runs_dir, RUNS, EVALUATIONS) == EVALUATIONS
    return runs_dir


def read(runs_dir: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    found = record.runs(runs_dir)
    return found, record.read(found, set(found["score"]))


def select(runs: pl.DataFrame, rows: pl.DataFrame) -> str:
    return "".join(str(make_tables(runs, rows, selection(criterion))) for criterion in CRITERIA)


def forget(runs_dir: Path) -> None:
    shutil.rmtree(runs_dir / ".index", ignore_errors=True)


def test_tables_of_a_large_sweep(sweep: Path) -> None:
    said, first, second, parts, busy = set(), [], [], [], []
    for _ in range(ROUNDS):
        forget(sweep)
        first.append(seconds(lambda: said.add(select(*read(sweep)))))
        busy.append(seconds(lambda: said.add(select(*read(sweep))), processor_time))
        second.append(seconds(lambda: said.add(select(*read(sweep)))))
        parts.append(seconds(lambda: read(sweep)))
    assert len(said) == 1, "an index changes no table"
    forget(sweep)
    command = [seconds(lambda: _run_command("table", str(sweep))) for _ in range(2)]
    show(
        f"{RUNS:,} runs with {EVALUATIONS:,} evaluations: read, selected by three criteria, printed",
        row("first reading, that makes the index", first, "{:.2f} s", "< 3 s"),
        row("second reading, with the index", second, "{:.2f} s", "< 3 s"),
        row("of it reading", parts, "{:.2f} s"),
        row("processor time of the second, all threads", busy, "{:.2f} s"),
        row("dgbench table, one criterion, the first time", command[:1], "{:.2f} s"),
        row("dgbench table, one criterion, again", command[1:], "{:.2f} s"),
    )


def _run_command(*arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "dgbench", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
