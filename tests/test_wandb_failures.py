"""Whatever a W&B server does, a run goes on with its numbers, soon ends, and says so once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

import dgbench
from dgbench import wandb_logger
from tests.wandb_server import FEW, KEY, serving

SAID = "W&B is out of reach ("
REMEDY = "send it with wandb sync out/*/wandb/*run-*"
# To give up, to shut wandb's service down and to train, on shared cores; the server hangs for 60.
ENOUGH_SECONDS = 40
MOODS = (403, 500, "hang", "gone")


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_logger, "FINISH_SECONDS", 2)
    monkeypatch.setattr(wandb_logger, "GRACE_SECONDS", 5)
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun:
        yield begun


def train(runs_dir: str, seed: int, **keys: Any) -> Path:
    outcome = dgbench.train(**FEW, runs_dir=runs_dir, trial_seed=seed, **keys)
    assert outcome.status == "complete", outcome.reason
    return outcome.folder


def equals_a_plain_run(folder: Path, seed: int) -> bool:
    plain = train("plain", seed)
    return (folder / "evaluations.jsonl").read_bytes() == (plain / "evaluations.jsonl").read_bytes()


@pytest.mark.parametrize("mood", MOODS)
def test_a_server_that_fails_from_the_start_is_waited_for_once(mood, server, monkeypatch, capfd):
    monkeypatch.setattr(wandb_logger, "INIT_SECONDS", 2)
    server.mood = mood
    if mood == "gone":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.perf_counter()
    folders = [train("out", seed, logger="wandb") for seed in (0, 1)]
    assert time.perf_counter() - started < ENOUGH_SECONDS
    said = capfd.readouterr().err
    assert said.count(SAID) == 1
    assert f"What it would get is kept beside each run: {REMEDY}" in said
    assert KEY not in said
    for seed, folder in enumerate(folders):
        assert equals_a_plain_run(folder, seed)
        (kept,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert kept.stat().st_size > 1000
    assert not server.runs


@pytest.mark.parametrize("mood", MOODS)
def test_a_server_that_fails_in_the_middle_costs_nothing_but_its_copy(mood, server, capfd):
    server.mood_once_begun = mood
    started = time.perf_counter()
    folders = [train("out", seed, logger="wandb") for seed in (0, 1)]
    assert time.perf_counter() - started < ENOUGH_SECONDS
    said = capfd.readouterr().err
    assert said.count(SAID) == 1
    assert REMEDY in said
    assert (f"{SAID}the server refused what was sent)" in said) == (mood == 403)
    for seed, folder in enumerate(folders):
        assert equals_a_plain_run(folder, seed)
        (kept,) = folder.glob("wandb/*run-*/*.wandb")
        # The first was on its way when the server failed, the second waits for nobody.
        assert kept.parent.name.startswith("offline-run-") == (seed == 1)
    assert set(server.runs) == {folders[0].name}


def test_without_a_service_nothing_is_sent_and_the_run_is_whole(server, monkeypatch, capfd):
    # wandb finds no program that sends.
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(wandb.util, "get_core_path", lambda: "nowhere/wandb-core")
    monkeypatch.setattr("wandb.sdk.lib.service.service_process.get_core_path", lambda: "nowhere/wandb-core")
    wandb.teardown()
    for seed in (0, 1):
        assert equals_a_plain_run(train("out", seed, logger="wandb"), seed)
    said = capfd.readouterr().err
    assert said.count(SAID) == 1
    assert "Nothing is sent to it or kept for it; the records are whole." in said
    assert wandb_logger.WandbLogger.mode == "disabled"


def test_a_process_ends_soon_where_the_server_hangs(server, tmp_path):
    server.mood_once_begun = "hang"
    code = f"""
import dgbench
from dgbench import wandb_logger

wandb_logger.FINISH_SECONDS = 2
outcome = dgbench.train(**{FEW!r}, runs_dir="out", logger="wandb")
print(outcome.status, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "complete\n"
        started = time.perf_counter()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert time.perf_counter() - started < ENOUGH_SECONDS
    assert said.count(SAID) == 1
    assert "Traceback" not in said
