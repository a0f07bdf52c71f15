"""Whatever wandb's own service does, a run goes on with its numbers, soon ends, and says so once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench import wandb_logger
from dgbench.evaluation import Evaluation
from dgbench.record import RunFolder
from dgbench.wandb_logger import WandbLogger, logged
from tests.fabricate import make_run, make_scores
from tests.wandb_server import FEW, serving
from tests.wandb_service import halt, halted_ones_end, services

SAID = "W&B is out of reach ("
# To give up, to leave the service behind and to train, on shared cores.
ENOUGH_SECONDS = 40
SOON_SECONDS = 0.5

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the service by /proc"),
    # Python's remark on a service that does not answer and was left behind.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_logger, "FINISH_SECONDS", 2)
    monkeypatch.setattr(wandb_logger, "GRACE_SECONDS", 5)
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun, halted_ones_end():
        yield begun


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, wait for a moment: for what will not answer. Before, on shared cores, an answer may take longer."""
    for name in ("FINISH_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(wandb_logger, name, SOON_SECONDS)


def fabricated(num_lines: int) -> RunFolder:
    folder = RunFolder(Path("out") / make_run(Path("out"), [(i, make_scores("a", 0.5)) for i in range(num_lines)]))
    folder.write(identity=folder.read()["columns"], label="fabricated")  # type: ignore[index]
    return folder


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_service_that_fails_in_the_middle_costs_nothing_but_its_copy(how, mode, server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", mode)
    usual = Evaluation.on_train_batch_start

    def fail(self, trainer, algorithm, *args):
        if algorithm.step == 1:
            halt(how)
            impatient(patch)
        return usual(self, trainer, algorithm, *args)

    started = time.perf_counter()
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_train_batch_start", fail)
        outcomes = [dgbench.train(**FEW, runs_dir="out", logger="wandb", trial_seed=0)]
    outcomes.append(dgbench.train(**FEW, runs_dir="out", logger="wandb", trial_seed=1))
    assert time.perf_counter() - started < ENOUGH_SECONDS
    said = capfd.readouterr().err
    assert said.count(SAID) == 1
    assert "What it got of this run, and would get of later ones, is kept beside each: send it with wandb sync" in said
    for seed, outcome in enumerate(outcomes):
        assert outcome.status == "complete", outcome.reason
        plain = dgbench.train(**FEW, runs_dir="plain", trial_seed=seed).folder
        for name in ("evaluations.jsonl", "checkpoints"):
            assert contents(outcome.folder / name) == contents(plain / name)
    # The second has a service of its own, and waits for nobody.
    (kept,) = outcomes[1].folder.glob("wandb/offline-run-*/*.wandb")
    assert kept.stat().st_size > 1000


def contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def test_a_stopped_service_is_given_up_as_soon_as_it_takes_nothing_more(server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    row = {f"train/{i}": 0.5 for i in range(1000)}
    with logged(fabricated(1)) as logger:
        logger.log_metrics(row, step=0)
        halt(signal.SIGSTOP)
        impatient(monkeypatch)
        started = time.perf_counter()
        step = 0
        while logger.experiment is not None:
            step += 1
            logger.log_metrics(row, step=step)
        # What the system holds for it; then one wait, and another for it to end.
        assert step < 1000
        assert SOON_SECONDS <= time.perf_counter() - started < ENOUGH_SECONDS
        assert f"{SAID}no answer within {SOON_SECONDS} s)" in capfd.readouterr().err
        started = time.perf_counter()
        for step in range(1000):
            logger.log_metrics(row, step=step)
        assert time.perf_counter() - started < 1
    assert SAID not in capfd.readouterr().err


def test_a_process_ends_soon_though_its_service_is_stopped(tmp_path):
    code = f"""
import os, signal
import dgbench
from dgbench import wandb_logger
from dgbench.evaluation import Evaluation
from tests.wandb_service import halt

usual = Evaluation.on_train_batch_start

def stop(self, trainer, algorithm, *args):
    if algorithm.step == 1:
        halt(signal.SIGSTOP)
        wandb_logger.FINISH_SECONDS = wandb_logger.GRACE_SECONDS = {SOON_SECONDS}
    return usual(self, trainer, algorithm, *args)

Evaluation.on_train_batch_start = stop
outcome = dgbench.train(**{FEW!r}, runs_dir="out", logger="wandb")
print(outcome.status, flush=True)
"""
    surroundings = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(Path(__file__).parent.parent)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=surroundings, **pipes) as process:
        assert process.stdout is not None
        left: set[int] = set()
        try:
            assert process.stdout.readline() == "complete\n"
            started = time.perf_counter()
            left = services(process.pid)
            process.wait(timeout=ENOUGH_SECONDS)
            assert time.perf_counter() - started < 10
        finally:
            process.kill()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 0, said
    assert said.count(SAID) == 1
    assert "Traceback" not in said


def test_all_of_it_arrives_in_order(server):
    folder = fabricated(300)
    with logged(folder) as logger:
        for line in folder.lines():
            logger.log_metrics(line["values"], step=line["step"])
    (run,) = server.runs.values()
    assert [row["_step"] for row in run["history"]] == list(range(300))
    assert all("in/a/accuracy" in row for row in run["history"])


@pytest.mark.parametrize("file", ["run.json", "evaluations.jsonl"])
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_what_only_the_logger_reads_cannot_fail_a_run(file, mode, server, monkeypatch, capfd):
    monkeypatch.setattr(WandbLogger, "mode", mode)
    folder = fabricated(1)
    with logged(folder) as logger:
        (folder.path / file).write_text(json.dumps([1]) + "\n")
        logger.log_metrics({"in/a/accuracy": 0.5}, step=0)
    assert capfd.readouterr().err.count(SAID) == (mode == "offline")
