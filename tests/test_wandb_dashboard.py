"""`dgbench wandb dashboard`: a workspace made of what the logger sends, saved on a server or printed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dgbench
from dgbench.adapt_runner import execute
from dgbench.adaptation import expand
from dgbench.cli import app
from dgbench.wandb_dashboard import dashboard, workspace
from tests import adapted
from tests.wandb_server import serving

# wandb-workspaces uses what pydantic is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path.parent / f"{tmp_path.name}_wandb") as begun:
        yield begun


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def dry(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["wandb", "dashboard", "--dry-run", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_dry_run_prints_what_would_be_sent_and_asks_nobody(server):
    made = dry("--project", "p", "--entity", "team")
    assert (made["entity"], made["project"], made["name"]) == ("team", "p", "dgbench")
    titles = [panel["config"]["chartTitle"] for panel in panels(made["spec"])]
    assert len(titles) == len(set(titles)) > 10
    assert not server.operations


def test_every_panel_finds_what_it_shows(server, tmp_path: Path):
    """On runs and an adaptation as they are sent: a metric nobody sends would be an empty panel."""
    for averaging in ("none", "ema"):
        dgbench.train(**{**adapted.RUN, "averaging": averaging}, runs_dir="out", logger="wandb")
    keys = ["runs_dir=adapted", "examples=16", "logger=wandb"]
    (adaptation,) = expand([f"runs={adapted.train(tmp_path / 'plain')}", *keys])
    execute(adaptation)
    config = {key for run in server.runs.values() for key in run["config"]}
    sent = {key for run in server.runs.values() for row in run["history"] for key in row}
    summary = {key for run in server.runs.values() for key in run["summary"]}
    spec = dry()["spec"]
    for panel in panels(spec):
        shown = panel["config"]
        if pattern := shown.get("metricRegex"):
            assert [key for key in sent if re.search(pattern, key)], pattern
            assert shown["xAxis"] in sent
        for axis in ("xAxis", "yAxis"):
            if str(shown.get(axis)).startswith("summary:"):
                assert shown[axis].removeprefix("summary:") in summary
        assert set(shown["metrics"] if panel["viewType"] == "Bar Chart" else []) <= summary
        assert shown.get("groupBy", "dataset.value").removesuffix(".value") in config
    (runs,) = spec["section"]["runSets"]
    assert {key["name"].removesuffix(".value") for key in runs["grouping"]} <= config
    for column in runs["runFeed"]["columnPinned"]:
        section, _, name = column.partition(":")
        assert name.removesuffix(".value") in {"run": {"displayName"}, "config": config, "summary": summary}[section]


def test_the_workspace_is_saved_as_a_view_of_the_project(server):
    result = CliRunner().invoke(app, ["wandb", "dashboard", "--project", "p"], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{server.url}/me/p?nw=" in result.stdout
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "p", "dgbench")
    assert len(panels(json.loads(view["spec"]))) == len(panels(dry()["spec"]))


def test_a_server_that_refuses_is_a_sentence(server):
    server.mood = 403
    with pytest.raises(ValueError, match=r"W&B does not take the dashboard of p \(.*\). Check the name"):
        dashboard("p", "team")


def test_a_missing_library_is_a_sentence_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    missing = "The dashboard is made by the library wandb-workspaces, which is not installed."
    with pytest.raises(ValueError, match=rf"{missing} Install it with pip install 'dgbench\[dashboard\]'."):
        workspace("p", "me")
