"""`logger=wandb`: a copy of what is recorded, to a server or under the run's folder, that decides nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import wandb

import dgbench
from dgbench import record
from dgbench.algorithms.erm import ERM
from dgbench.evaluation import Evaluation
from dgbench.record import Interrupted
from dgbench.selection import selection
from tests.wandb_answers import ENTITY
from tests.wandb_server import FEW, KEY, serving


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun:
        yield begun


def train(runs_dir: str, **keys: Any) -> Any:
    return dgbench.train(**{**FEW, "runs_dir": runs_dir, **keys})


def files(runs_dir: str, pattern: str) -> dict[str, bytes]:
    found = {str(path.relative_to(runs_dir)): path.read_bytes() for path in Path(runs_dir).glob(pattern)}
    assert found
    return found


def test_a_sweep_gives_each_run_its_own_and_the_same_numbers(server, tmp_path):
    keys = {**FEW, "algorithm": ["erm", "vrex"]}
    assert dict(dgbench.sweep(**keys, runs_dir="out", logger="wandb").counts) == {"complete": 2}
    assert dict(dgbench.sweep(**keys, runs_dir="plain").counts) == {"complete": 2}
    for pattern in ("*/evaluations.jsonl", "*/checkpoints/*"):
        assert files("out", pattern) == files("plain", pattern)
    assert set(server.runs) == {path.parent.name for path in Path("out").glob("*/run.json")}
    assert all(run["complete"] and run["exitcode"] == 0 for run in server.runs.values())
    assert {run["groupName"] for run in server.runs.values()} == {"out"}
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]
    assert wandb.run is None


def test_what_is_sent_is_what_is_recorded(server):
    outcome = train("out", algorithm="vrex", averaging="ema", logger="wandb", group="mine")
    said = json.loads((outcome.folder / "run.json").read_text())
    run = server.by_name(said["label"])
    assert (run["id"], run["project"], run["entity"]) == (said["run_id"], "dgbench", ENTITY)
    assert (run["groupName"], run["jobType"]) == ("mine", "train")
    assert run["tags"] == ["digits_color", "plus90", "vrex"]
    config = {key: value["value"] for key, value in run["config"].items() if key != "_wandb"}
    # As text, so that no number comes back with another type.
    assert json.loads(config.pop("record")) == said
    sizes = config.pop("n")
    assert config == {**said["columns"], "kind": "train", "identity": said["identity"]}
    lines = [json.loads(line) for line in (outcome.folder / "evaluations.jsonl").read_text().splitlines()]
    assert {line["weights"] for line in lines} == {"last", "ema"}
    for line in lines:
        assert line["n"] == sizes
        (row,) = [row for row in run["history"] if row["_step"] == line["step"]]
        prefix = "" if line["weights"] == "last" else f"{line['weights']}/"
        assert {key: row[prefix + key] for key in line["values"]} == line["values"]
    assert run["history"][0]["_step"] == 0
    assert {"train/loss", "train/variance"} <= run["history"][0].keys() or "train/penalty" in run["history"][0]
    assert KEY not in json.dumps(run)


def test_the_summary_has_what_a_dashboard_ranks_by(server):
    outcome = train("out", logger="wandb", protocol={"num_steps": 5, "evaluate_every": 1})
    said = json.loads((outcome.folder / "run.json").read_text())
    (run,) = server.runs.values()
    summary = run["summary"]
    for key, value in {**said["columns"], "status": "complete", "seconds": said["seconds"]}.items():
        assert summary[key] == value
    lines = [json.loads(line) for line in (outcome.folder / "evaluations.jsonl").read_text().splitlines()]
    scores = [(sum(x["values"][f"out/{d}/accuracy"] for d in ("plus80", "minus90")) / 2, -x["step"]) for x in lines]
    best, step = max(scores)
    assert summary["train_validation/step"] == -step
    assert summary["train_validation/validation"] == pytest.approx(best, abs=1e-11)
    assert summary["train_validation/test"] == lines[-step]["values"]["in/plus90/accuracy"]
    assert summary["oracle/step"] == 4
    assert summary["oracle/validation"] == pytest.approx(lines[4]["values"]["out/plus90/accuracy"], abs=1e-11)
    assert summary["last_step/test"] == lines[4]["values"]["in/plus90/accuracy"]
    assert not {"last_step/validation", "domain_cross_validation/test"} & summary.keys()


def test_a_run_that_tests_on_two_domains_has_a_choice_for_each(server):
    outcome = train("out", logger="wandb", test_domains=["plus90", "plus80"])
    (run,) = server.runs.values()
    for row in selection("oracle_best").choose(record.read(outcome.folder)).iter_rows(named=True):
        assert run["summary"][f"oracle_best/{row['test_domain']}/test"] == row["value"]
        assert run["summary"][f"oracle_best/{row['test_domain']}/step"] == row["step"]
    assert "oracle_best/test" not in run["summary"]


def test_the_run_of_wandb_ends_also_where_ours_fails(server, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("the sensor fell off")

    monkeypatch.setattr(ERM, "loss", loss)
    assert train("out", logger="wandb").status == "failed"
    (run,) = server.runs.values()
    assert (run["complete"], run["exitcode"]) == (True, 1)
    assert (run["summary"]["status"], run["summary"]["reason"]) == ("failed", "RuntimeError: the sensor fell off")
    assert "train_validation/test" not in run["summary"]


def test_a_continued_run_is_continued(server, monkeypatch):
    def stop(self, trainer, algorithm, *args):
        if algorithm.step == 1:
            raise Interrupted("SIGINT")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_train_batch_start", stop)
        with pytest.raises(Interrupted):
            train("out", logger="wandb")
    (run,) = server.runs.values()
    assert (run["exitcode"], run["summary"]["status"]) == (1, "interrupted")
    assert train("out", logger="wandb").status == "complete"
    assert [row["_step"] for row in run["history"] if "in/plus90/accuracy" in row] == [0, 2]
    assert (len(server.runs), run["exitcode"], run["summary"]["status"]) == (1, 0, "complete")


def test_offline_all_of_it_is_kept_beside_the_run(server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = train("out", logger="wandb")
    (own,) = outcome.folder.glob("wandb/offline-run-*")
    (kept,) = own.glob("*.wandb")
    assert kept.stat().st_size > 1000
    assert outcome.folder.name in kept.name
    assert not server.runs
    assert "W&B is out of reach" not in capfd.readouterr().err


def test_nobody_is_asked_for_a_key_in_the_middle_of_a_run(server, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", "nothing_there")
    assert train("out", logger="wandb").status == "complete"
    assert not server.runs
    assert "no API key: run wandb login" in capfd.readouterr().err
