"""`dgbench wandb pull`: what was sent to a server, as records that tables read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench import record, wandb_pull
from dgbench.adapt_runner import execute
from dgbench.adaptation import expand
from dgbench.algorithms.erm import ERM
from dgbench.console import sentences
from dgbench.leaderboard.adaptation import adaptations
from dgbench.record import RunFolder
from dgbench.wandb_logger import logged
from dgbench.wandb_pull import Pulled, lines, pull
from tests import adapted
from tests.fabricate import make_run, make_scores
from tests.wandb_server import FEW, KEY, serving

PROJECT = "me/dgbench"
LOGGED = {**FEW, "logger": "wandb"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun:
        yield begun


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "wandb" not in p.parts
    }


def said(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads((folder / "run.json").read_text()).items() if key != "pulled"}


def test_pulled_runs_are_the_runs_and_are_pulled_once(server):
    dgbench.sweep(**{**LOGGED, "algorithm": ["erm", "vrex"], "averaging": ["none", "swad"]}, runs_dir="out")
    assert pull(PROJECT, "pulled") == Pulled(written=4)
    for folder in record.find("out"):
        copy = RunFolder(Path("pulled") / folder.path.name)
        assert copy.lines() == folder.lines()
        assert said(copy.path) == said(folder.path)
    assert str(dgbench.table("pulled")) == str(dgbench.table("out"))
    before = contents(Path("pulled"))
    asked = server.operations.count("HistoryPage")
    assert pull(PROJECT, "pulled") == Pulled(unchanged=4)
    assert contents(Path("pulled")) == before
    assert server.operations.count("HistoryPage") == asked
    assert sorted(os.listdir()) == ["out", "pulled"]


def test_what_was_made_here_stays_and_what_changed_there_is_fetched_again(server):
    outcome = dgbench.train(**LOGGED, runs_dir="out")
    before = contents(outcome.folder)
    assert pull(PROJECT, "out") == Pulled(made_here=1)
    assert contents(outcome.folder) == before
    pull(PROJECT, "pulled")
    again = dgbench.train(**LOGGED, runs_dir="out", overwrite=True)
    assert again.folder == outcome.folder
    assert pull(PROJECT, "pulled") == Pulled(written=1)
    assert said(Path("pulled") / outcome.folder.name) == said(outcome.folder)


def test_a_failed_run_and_a_killed_one_are_counted_not_read(server, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("the sensor fell off")

    dgbench.train(**LOGGED, runs_dir="out")
    (run,) = server.runs.values()
    # Of a killed run W&B knows what was sent at its start, and its history.
    first = json.loads(run["upserts"][0]["config"])
    run["config"]["record"], run["complete"], run["summary"] = first["record"], False, {}
    monkeypatch.setattr(ERM, "loss", loss)
    dgbench.train(**{**LOGGED, "trial_seed": 1}, runs_dir="out")
    assert pull(PROJECT, "pulled") == Pulled(written=2)
    assert sorted(record.runs("pulled")["status"]) == ["failed", "interrupted"]
    killed = RunFolder(Path("pulled") / run["id"])
    assert killed.lines() == RunFolder(Path("out") / run["id"]).lines()


def test_every_float_comes_back_and_so_does_nan(server):
    numbers = [0.1 + 0.2, 1 / 3, 1.0, 0.0, 5e-324, 1.7976931348623157e308, 2.0**60, float("nan"), 1e22]
    scored = [(step, make_scores("a", value)) for step, value in enumerate(numbers)]
    folder = RunFolder(Path("out") / make_run(Path("out"), scored, score="rmse"))
    # A run whose identity is its columns, as far as its name goes.
    folder.write(identity=folder.read()["columns"], label="all numbers")  # type: ignore[index]
    with logged(folder) as logger:
        for line in folder.lines():
            nan_again = {key: float("nan") if value is None else value for key, value in line["values"].items()}
            logger.log_metrics(nan_again, step=line["step"])
    assert pull(PROJECT, "pulled") == Pulled(written=1)
    copy = RunFolder(Path("pulled") / folder.path.name)
    assert [line["values"] for line in copy.lines()] == [line["values"] for line in folder.lines()]
    assert copy.lines()[numbers.index(5e-324)]["values"]["in/a/rmse"] == 5e-324
    order = ["step", "split", "domain", "metric"]
    pulled, kept = (record.read(where).drop("path").sort(order) for where in ("pulled", "out"))
    assert pulled.equals(kept, null_equal=True)


def test_an_adaptation_comes_with_its_curves(server, tmp_path):
    trained = adapted.train(tmp_path / "out")
    for name in ("source", "tent"):
        keys = ["runs_dir=adapted", "logger=wandb", "examples=24", "batch_size=8", f"adapter={name}"]
        (adaptation,) = expand([f"runs={trained}", *keys])
        execute(adaptation)
    run = server.runs[adaptation.run_id]
    assert (run["jobType"], run["groupName"]) == ("adapt", "adapted")
    assert run["tags"] == ["digits_color", "erm", "online", "plus90", "tent"]
    stream, *_ = adaptation.folder.lines()
    curve = [row["curve/plus90/accuracy"] for row in run["history"] if "curve/plus90/accuracy" in row]
    assert curve == [correct / n for correct, n in zip(stream["curve"]["correct"], stream["curve"]["n"], strict=True)]
    assert [row["position"] for row in run["history"] if "position" in row] == [0, 1, 2]
    assert run["summary"]["stream/accuracy"] == stream["values"]["stream/plus90/accuracy"]
    assert pull(PROJECT, "pulled") == Pulled(written=2)
    for folder in record.find("adapted"):
        copy = RunFolder(Path("pulled/adapt") / folder.path.name)
        assert copy.lines() == folder.lines()
        assert said(copy.path) == said(folder.path)
    assert str(adaptations("pulled/adapt")) == str(adaptations("adapted"))


def test_what_is_no_record_is_left_out(server):
    dgbench.train(**LOGGED, runs_dir="out")
    (run,) = server.runs.values()
    name, config = run["id"], run["config"]
    whole = json.loads(config["record"]["value"])
    for record_ in (
        "no JSON",
        json.dumps({**whole, "run_id": "../../escaped"}),
        json.dumps({**whole, "identity": {**whole["identity"], "seed": 1}}),
        json.dumps([whole]),
    ):
        run["config"] = {**config, "record": {"value": record_}}
        assert pull(PROJECT, "pulled") == Pulled(foreign=1)
    run["config"] = {key: value for key, value in config.items() if key != "record"}
    assert pull(PROJECT, "pulled") == Pulled(foreign=1)
    run["config"] = config
    run["history"][0]["in/plus90/accuracy"] = "a lot"
    assert pull(PROJECT, "pulled") == Pulled(foreign=1)
    assert not Path("pulled").exists()
    assert name in server.runs


def test_rows_of_other_metrics_are_no_evaluations():
    rows = [{"_step": 4, "train/in/a": 1.0, "in/a/accuracy": "NaN", "in/b/accuracy": 1, "swad/in/a/accuracy": 0.5}]
    assert lines(rows, {"in/a": 7}) == [
        {"step": 4, "weights": "last", "values": {"in/a/accuracy": None}, "n": {"in/a": 7}},
        {"step": 4, "weights": "swad", "values": {"in/a/accuracy": 0.5}, "n": {"in/a": 7}},
    ]


@pytest.mark.parametrize("name", ["dgbench", "me/", "a/b/c"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' names no project of W&B, expected ENTITY/PROJECT"):
        pull(name, "pulled")


def test_a_project_that_cannot_be_read_is_a_sentence(server, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"W&B does not give the runs of me/nothing \(.*\). Check the name"):
        pull("me/nothing", "pulled")
    server.mood = 403
    assert sentences(lambda: pull(PROJECT, "pulled")) == 1
    assert KEY not in capsys.readouterr().err
    monkeypatch.setattr(wandb_pull, "TIMEOUT_SECONDS", 1)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", "nothing_there")
    with pytest.raises(ValueError, match="wandb login"):
        pull(PROJECT, "pulled")
