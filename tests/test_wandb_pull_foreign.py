"""`dgbench wandb pull` where somebody changed one thing that a project holds: that run is left out, the rest comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import dgbench
from dgbench.adapt_runner import execute
from dgbench.adaptation import expand
from dgbench.cli import app
from dgbench.leaderboard.adaptation import adaptations
from dgbench.record import RunFolder
from dgbench.task import Task
from dgbench.wandb_check import BOUNDS
from dgbench.wandb_logger import logged
from tests import adapted
from tests.fabricate import make_run, make_scores
from tests.wandb_changes import PROJECT, Run, check_that_all_are_left_out, renamed
from tests.wandb_server import serving


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun:
        yield begun


def send(trial: int, value: float = 0.25) -> str:
    scored = [(step, make_scores("a", value)) for step in (0, 1)]
    folder = RunFolder(Path("out") / make_run(Path("out"), scored, trial_seed=trial))
    folder.write(identity=folder.read()["columns"], label="by hand")  # type: ignore[index]
    with logged(folder) as logger:
        for line in folder.lines():
            logger.log_metrics(line["values"], step=line["step"])
    return folder.path.name


def said(change: Callable[[dict[str, Any]], Any]) -> Callable[[Run], None]:
    """A change of the run.json, after which its name is the hash of its identity again."""

    def changed(run: Run) -> None:
        record = json.loads(run["config"]["record"]["value"])
        change(record)
        run["config"]["record"]["value"] = json.dumps(record)

    return changed


def columns(**changes: Any) -> Callable[[Run], None]:
    return said(lambda record: record["columns"].update(changes))


def row(**changes: Any) -> Callable[[Run], None]:
    return lambda run: run["history"][0].update(changes)


def n(**changes: Any) -> Callable[[Run], None]:
    return lambda run: run["config"]["n"]["value"].update({key.replace("_", "/"): v for key, v in changes.items()})


def text(value: str) -> Callable[[Run], None]:
    return lambda run: run["config"]["record"].update(value=value)


def nested(depth: int) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


CHANGES: dict[str, tuple[Callable[[Run], Any], str]] = {
    "no record": (lambda run: run["config"].pop("record"), "lacks 'record'"),
    "no text": (lambda run: run["config"]["record"].update(value=7), "must be str"),
    "deep text": (text("[" * 100_000 + "]" * 100_000), "recursion"),
    "many digits": (text("9" * 10_000), "digits"),
    "a key self": (said(lambda record: record.update(self=1)), "its layout is not that of a record"),
    "deep": (said(lambda record: record.update(more=nested(200))), "its layout is not that of a record"),
    "half a character": (said(lambda record: record.update(more="\ud800")), "surrogates not allowed"),
    "another name": (said(lambda record: record.update(run_id="../../x")), "another hash than its name"),
    "schema is text": (said(lambda record: record.update(schema="2")), "its layout is not that of a record"),
    "schema is true": (said(lambda record: record.update(schema=True)), "its layout is not that of a record"),
    "kind is a list": (said(lambda record: record.update(kind=["x"])), "'kind': Input should be 'train'"),
    "status": (said(lambda record: record.update(status="done")), "'status': Input should be 'running'"),
    "seconds": (said(lambda record: record.update(seconds="long")), "'seconds': Input should be a valid number"),
    "columns is a number": (said(lambda record: record.update(columns=1)), "'columns': Input should be"),
    "a column is missing": (said(lambda record: record["columns"].pop("data")), "'columns.data': Field required"),
    "a column is null": (columns(algorithm=None), "'columns.algorithm': Input should be a valid string"),
    "a column is a list": (columns(algorithm=["erm"]), "'columns.algorithm': Input should be a valid string"),
    "a column is true": (columns(trial_seed=True), "'columns.trial_seed': Input should be a valid integer"),
    "a column is huge": (columns(trial_seed=2**63), "'columns.trial_seed': Input should be less than"),
    "n is infinite": (n(in_a=float("inf")), "'n.in/a': Input should be"),
    "n is negative": (n(in_a=-1), "'n.in/a': Input should be greater than or equal to 0"),
    "n is no mapping": (lambda run: run["config"]["n"].update(value=3), "not iterable"),
    "a step is true": (row(_step=True), "'step': Input should be a valid integer"),
    "an accuracy of 7": (row(**{"in/a/accuracy": 7}), "'in/a/accuracy' is 7.0, expected 0.0 to 1.0"),
    "an accuracy below 0": (row(**{"in/a/accuracy": -0.1}), "'in/a/accuracy' is -0.1, expected 0.0 to 1.0"),
    "an accuracy in words": (row(**{"in/a/accuracy": "a lot"}), "'a lot' is no number"),
    "an accuracy that is true": (row(**{"in/a/accuracy": True}), "True is no number"),
    "a metric of nobody": (row(**{"in/a/dataset": 1}), "'in/a/dataset' is no split/domain/metric of it"),
}


def test_a_run_that_was_changed_is_left_out_and_the_rest_is_pulled(server, monkeypatch):
    whole, other = send(0), send(1, 0.75)
    check_that_all_are_left_out(server, whole, CHANGES, monkeypatch)
    assert {path.name for path in Path("pulled").iterdir()} == {whole, other}
    assert "50.0" in str(dgbench.table("pulled"))


def test_a_record_of_another_version_is_named_as_such(server):
    of = server.runs[send(0)]
    said(lambda record: record.update(schema=1))(of)
    result = CliRunner().invoke(app, ["wandb", "pull", PROJECT, "--out", "pulled"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 left out, as another version of dgbench made them (expected schema 2)." in result.stdout
    assert not Path("pulled").exists()


def line(**changes: Any) -> Callable[[Run], None]:
    """A change of the first line of an adaptation."""

    def changed(run: Run) -> None:
        (first, *_) = [row for row in run["history"] if "line" in row]
        first["line"] = json.dumps({**json.loads(first["line"]), **changes})

    return changed


def test_an_adaptation_that_was_changed_is_left_out(server, tmp_path, monkeypatch):
    trained = adapted.train(tmp_path / "trained")
    keys = [f"runs={trained}", "runs_dir=adapted", "logger=wandb", "examples=16", "batch_size=8"]
    ids = []
    for name in ("source", "bn_adapt"):
        (adaptation,) = expand([*keys, f"adapter={name}"])
        execute(adaptation)
        ids.append(adaptation.run_id)
    changes: dict[str, Callable[[Run], None]] = {
        "'columns.stream_key': Field required": said(lambda record: record["columns"].pop("stream_key")),
        "'columns.more': Extra inputs are not permitted": columns(more=1),
        "'answers': Input should be 'before' or 'after'": said(lambda record: record.update(answers="never")),
        "'seconds_per_batch': Field required": said(lambda record: record.pop("seconds_per_batch")),
        "'identity.adapter': Field required": renamed(lambda identity: identity.pop("adapter")),
        "'phase': Input should be 'stream' or 'source_after'": line(phase="x"),
        "'round': Input should be a valid integer": line(round="x"),
        "'n.plus90.[key]': String should match pattern": line(n={"plus90": 16}),
        "'stream/x' has no accuracy": line(n={"stream/plus90": 16, "stream/x": 16}),
        "'curve': Value error, its lists differ in length": line(curve={"n": [8, 8], "seconds": [0.1], "correct": [1]}),
        "'curve.n.0': Input should be greater than or equal to 1": line(curve={"n": [0], "seconds": [0.1]}),
        "recursion": lambda run: run["history"][-1].update(line="[" * 100_000 + "]" * 100_000),
    }
    by_reason = {reason: (change, reason) for reason, change in changes.items()}
    check_that_all_are_left_out(server, ids[1], by_reason, monkeypatch)
    assert {path.name for path in Path("pulled/adapt").iterdir()} == set(ids)
    assert str(adaptations("pulled/adapt")) == str(adaptations("adapted"))


def test_every_metric_of_a_task_has_its_bounds():
    made = Task("classification", 2).metrics(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    made |= Task("regression", 1).metrics(torch.zeros(4, 1), torch.ones(4, 1))
    assert made.keys() == BOUNDS.keys()
