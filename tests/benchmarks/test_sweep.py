"""What a sweep costs beyond its runs, and what it costs when all of them are done."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from dgbench import expansion, record, sweeper
from dgbench.description import header
from dgbench.splits import wanted_splits
from tests.benchmarks.timing import row, seconds, show

pytestmark = pytest.mark.bench

PLANNED = 12_000


def test_sixty_short_runs(tmp_path):
    asked = ["dataset=digits_rot", "test_domains=each", "trial_seed=range(10)"]
    asked += ["protocol.num_steps=400", f"runs_dir={tmp_path}"]
    began = time.time()
    total = seconds(lambda: sweeper.run_sweep(asked, console=Console(file=io.StringIO())))

    runs = sorted([folder.read() or {} for folder in record.find(tmp_path)], key=lambda said: said["finished"])
    assert [said["status"] for said in runs] == ["complete"] * 60
    spent = [said["seconds"] for said in runs]
    ends = [began, *(said["finished"] for said in runs)]
    around = [1e3 * (end - start - run) for start, end, run in zip(ends, ends[1:], spent, strict=False)]
    show(
        "60 runs of erm on digits_rot, one after the other in one process",
        row("training and evaluating, a run", spent, "{:.2f} s"),
        row("everything around it, a run", around, "{:.0f} ms"),
        row("the sum of the runs", [sum(spent)], "{:.1f} s"),
        row("the sweep", [total], "{:.1f} s"),
        row("ratio", [total / sum(spent)], "{:.3f}"),
    )


def complete(job: expansion.Job, said: dict) -> None:
    """Write a run as if it had been done."""
    job.run.folder.path.mkdir(parents=True)
    evaluated = sorted("/".join(pair) for pair in wanted_splits(job.run))
    job.run.folder.run_file.write_text(json.dumps({**said, "status": "complete", "evaluated": evaluated}))


def test_nothing_to_do(tmp_path):
    asked = ["algorithm=erm,vrex,coral,dann", "dataset=digits_rot,digits_color", "test_domains=each"]
    asked += ["hparams_seed=range(20)", "trial_seed=range(3)", f"runs_dir={tmp_path}"]
    jobs = expansion.expand(asked)
    for job in jobs:
        complete(job, header(jobs[0].run))

    said = io.StringIO()
    times = [seconds(lambda: sweeper.run_sweep(asked, console=Console(file=said))) for _ in range(5)]
    assert said.getvalue().count(f"Nothing to do: {len(jobs)} of {len(jobs)}") == len(times)
    command = seconds(lambda: _run_command(tmp_path, "train", "-m", *asked))
    each = [value / len(jobs) for value in times]
    all_planned = [command + (PLANNED - len(jobs)) * value for value in each]
    show(
        f"Nothing to do: a sweep of {len(jobs):,} runs that are done",
        row("in this process", times, "{:.2f} s"),
        row("a run", [1e3 * value for value in each], "{:.2f} ms"),
        row("the command, start-up included", [command], "{:.2f} s"),
        row(f"the command for {PLANNED:,} runs, at that rate", all_planned, "{:.1f} s", "< 60 s"),
    )


def _run_command(cwd: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "dgbench", *arguments]
    subprocess.run(command, check=True, cwd=cwd, capture_output=True, timeout=300)
