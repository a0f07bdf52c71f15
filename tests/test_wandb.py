"""`logger=wandb`: a copy of what is recorded, under the run's folder, that decides nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import wandb

import dgbench
from dgbench import wandb_logger
from dgbench.algorithms.erm import ERM
from dgbench.evaluation import Evaluation
from dgbench.record import Interrupted
from dgbench.wandb_logger import WandbLogger

FEW = {
    "dataset": "digits_color",
    "protocol": {"num_steps": 3, "evaluate_every": 2},
    "optim.batch_size": 4,
    "network.width": 8,
}


class FakeRun:
    """Stands in for a wandb run."""

    def __init__(self, **given: Any):
        self.given, self.id = given, given["id"]
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.exit_codes: list[int] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        raise wandb.errors.CommError("the network is gone")  # what is recorded stays complete


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path.parent / f"{tmp_path.name}_wandb"))
    monkeypatch.setattr(WandbLogger, "mode", None)


@pytest.fixture
def fake_runs(monkeypatch) -> list[FakeRun]:
    """The wandb runs that are begun."""
    begun: list[FakeRun] = []

    def init(**given):
        begun.append(FakeRun(**given))
        return begun[-1]

    monkeypatch.setattr(wandb, "init", init)
    return begun


def train(runs_dir: str, **keys: Any) -> Any:
    return dgbench.train(test_domains=["plus90"], runs_dir=runs_dir, **{**FEW, **keys})


def test_a_sweep_offline_gives_each_run_its_own_and_the_same_numbers(tmp_path):
    keys = {**FEW, "algorithm": ["erm", "vrex"], "test_domains": ["plus90"]}
    assert dict(dgbench.sweep(**keys, runs_dir="out", logger="wandb").counts) == {"complete": 2}
    assert dict(dgbench.sweep(**keys, runs_dir="plain").counts) == {"complete": 2}
    folders = sorted(path.parent for path in Path("out").glob("*/run.json"))
    assert len(folders) == 2
    for folder in folders:
        (own,) = folder.glob("wandb/offline-run-*")
        assert own.name.endswith(folder.name)
        assert list(own.glob("*.wandb"))
        plain = Path("plain") / folder.name / "evaluations.jsonl"
        assert (folder / "evaluations.jsonl").read_bytes() == plain.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]
    assert wandb.run is None


def test_metrics_are_paths_and_the_run_says_what_it_is(fake_runs):
    outcome = train("out", algorithm="vrex", logger="wandb", group="mine")
    (run,) = fake_runs
    said = json.loads((outcome.folder / "run.json").read_text())
    given = run.given
    assert (given["project"], given["group"], given["id"]) == ("dgbench", "mine", said["run_id"])
    assert json.loads(json.dumps(given["config"])) == {**said["identity"], "label": said["label"]}
    assert (given["name"], given["dir"], given["resume"]) == (said["label"], outcome.folder, None)
    train_rows = [(step, row) for step, row in run.rows if any(key.startswith("train/") for key in row)]
    assert train_rows[0][0] == 0
    assert "train/loss" in train_rows[0][1]
    assert len(train_rows[0][1]) > 1
    assert all(key.startswith("train/") for key in train_rows[0][1])
    rows = [(step, row) for step, row in run.rows if "in/plus90/accuracy" in row]
    lines = [json.loads(line) for line in (outcome.folder / "evaluations.jsonl").read_text().splitlines()]
    assert rows == [(line["step"], line["values"]) for line in lines]
    assert all(len(key.split("/")) == 3 for _, row in rows for key in row)
    assert run.exit_codes == [0]


def test_the_run_of_wandb_ends_also_where_ours_fails(fake_runs, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("the sensor fell off")

    monkeypatch.setattr(ERM, "loss", loss)
    assert train("out", logger="wandb").status == "failed"
    assert fake_runs[0].exit_codes == [1]


def test_a_continued_run_is_continued(fake_runs, monkeypatch):
    def stop(self, trainer, algorithm, *args):
        if algorithm.step == 1:
            raise Interrupted("SIGINT")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_train_batch_start", stop)
        with pytest.raises(Interrupted):
            train("out", logger="wandb")
    assert train("out", logger="wandb").status == "complete"
    first, second = fake_runs
    assert (first.exit_codes, second.exit_codes) == ([1], [0])
    assert (first.given["resume"], second.given["resume"]) == (None, "allow")
    assert first.id == second.id
    assert [step for step, row in second.rows if "in/plus90/accuracy" in row] == [2]


def test_a_server_out_of_reach_is_waited_for_once(monkeypatch, capsys):
    asked = []

    def init(**given):
        asked.append(given["mode"])
        if given["mode"] != "offline":
            raise wandb.errors.CommError("no route to host")
        return FakeRun(**given)

    monkeypatch.setattr(wandb, "init", init)
    for seed in (0, 1):
        assert train("out", logger="wandb", trial_seed=seed).status == "complete"
    assert asked == [None, "offline", "offline"]
    assert capsys.readouterr().err.count("W&B is out of reach (no route to host). What it would get is kept") == 1


def test_nobody_is_asked_for_a_key_in_the_middle_of_a_run(monkeypatch, capsys):
    opened: list[str] = []

    def init(**given):
        opened.append(given["mode"])
        return FakeRun(**given)

    monkeypatch.setattr(wandb_logger, "_has_key", lambda: False)
    monkeypatch.setattr(wandb, "setup", lambda: type("Setup", (), {"settings": wandb.Settings(mode="online")}))
    monkeypatch.setattr(wandb, "init", init)
    assert train("out", logger="wandb").status == "complete"
    assert opened == ["offline"]
    assert "no API key: run wandb login" in capsys.readouterr().err
