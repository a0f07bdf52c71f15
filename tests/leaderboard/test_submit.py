"""From runs to a submission: what it holds, that the same runs give the same bytes, and which runs make none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dgbench
from dgbench import record
from dgbench.leaderboard import submitted
from dgbench.leaderboard.submit import write
from dgbench.leaderboard.validate import as_submission, as_tables
from dgbench.registry import UnknownName
from tests import fabricate
from tests.leaderboard.submitted_runs import Json, judge, make_runs, rows_of, submit

FEW: Json = {"datasets": ["digits_color"], "trials": [0]}


def frames(said: Json) -> tuple[pl.DataFrame, pl.DataFrame]:
    submission = as_submission(said)
    return submitted.frames(submission, as_tables(submission.payload))


@pytest.mark.parametrize(
    "keys", [(), ("label=ours",), ("averaging=ema",), ("hparams_seed=3",), ("dataset.data_seed=2",)]
)
def test_its_frames_are_those_of_the_runs_folder(keys, tmp_path: Path):
    runs = make_runs(tmp_path, *keys, **FEW)
    name = {"label=ours": "ours", "averaging=ema": "erm + ema"}.get("".join(keys), "erm")
    found, rows = frames(submit(runs, name, suite=None))
    expected = record.runs(runs).sort("run_id")
    unknown = ["path", "reason", "group"]
    assert_frame_equal(found.drop(unknown), expected.drop(unknown), check_column_order=False)
    key = ["run_id", "step", "split", "domain"]
    weights = "ema" if "averaging=ema" in keys else "last"
    theirs = record.read(expected, {"accuracy"}).filter(pl.col("weights") == weights).drop(unknown).sort(key)
    assert_frame_equal(rows.drop(unknown).sort(key), theirs, check_column_order=False)


def test_results_and_aggregates_are_those_of_the_table(embedded_runs: Path, submission: Json):
    for criterion in ("train_validation", "oracle", "oracle_best", "last_step"):
        cells = dgbench.table(embedded_runs, criterion=criterion).cells
        theirs = {(row["dataset"], row["column"]): row for row in cells.iter_rows(named=True)}
        ours = [row for row in submission["aggregates"] if row["criterion"] == criterion]
        assert len(ours) == len(theirs) == 21 + 4
        for row in ours:
            expected = theirs[row["dataset"], row["column"]]
            assert (row["mean"], row["se"]) == pytest.approx((expected["mean"], expected["se"]))
    assert not [row for row in submission["results"] if row["criterion"] == "domain_cross_validation"]


def test_a_result_is_what_the_lines_of_the_run_say(embedded_runs: Path, submission: Json):
    """Selection by hand: the step with the best mean over the training domains' held-out examples."""
    result = next(
        r for r in submission["results"] if r["criterion"] == "train_validation" and r["test_domain"] == "rot45"
    )
    lines = record.RunFolder(embedded_runs / result["run_id"]).lines()
    others = ("rot0", "rot15", "rot30", "rot60", "rot75")
    scores = [np.mean([line["values"][f"out/{name}/accuracy"] for name in others]) for line in lines]
    best = lines[int(np.argmax(scores))]
    assert result["step"] == best["step"]
    assert result["value"] == best["values"]["in/rot45/accuracy"]
    assert result["n"] == best["n"]["in/rot45"] == 299 - 59
    assert result["selection_value"] == pytest.approx(max(scores))
    means = [
        r["value"] for r in submission["results"] if (r["criterion"], r["test_domain"]) == ("train_validation", "rot45")
    ]
    told = next(a for a in submission["aggregates"] if (a["criterion"], a["column"]) == ("train_validation", "rot45"))
    assert told["mean"] == pytest.approx(np.mean(means))
    assert told["se"] == pytest.approx(np.std(means, ddof=1) / math.sqrt(3))


def test_it_holds_what_was_run_and_nothing_of_where(submission: Json, embedded_runs: Path):
    assert submission["method"]["algorithm"] == "erm"
    assert [data["name"] for data in submission["datasets"]] == [
        "digits_color",
        "digits_rot",
        "digits_style",
        "texture_patches",
    ]
    assert submission["datasets"][0]["protocol"]["num_steps"] == 500
    assert [one["optim"]["batch_size"] for one in submission["hparams"]] == [16]
    assert submission["environments"][0]["versions"]["dgbench"] == dgbench.__version__
    assert set(rows_of(submission)["runs"]["status"]) == {"complete"}
    text = json.dumps(submission) + json.dumps(rows_of(submission))
    assert str(embedded_runs) not in text
    assert str(Path.home()) not in text
    assert len(json.dumps(submission)) < 200_000


def test_the_same_runs_give_the_same_bytes(embedded_runs: Path, submission: Json, tmp_path: Path):
    write(submission, tmp_path / "a.json")
    write(submit(embedded_runs), tmp_path / "new/b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "new/b.json").read_bytes()
    later = submit(embedded_runs, created="2024-01-02T00:00:00Z")
    differing = {key for key in later if later[key] != submission[key]}
    assert differing == {"created", "checksum"}


def test_pairs_of_domains_serve_cross_validation(tmp_path: Path):
    runs = make_runs(tmp_path / "r", **FEW)
    make_runs(runs, **FEW, test=[[0, 1], [0, 2], [1, 2]])
    said = submit(runs, suite=None)
    assert judge(tmp_path, said).problems == ()
    chosen = [row for row in said["results"] if row["criterion"] == "domain_cross_validation"]
    assert [row["test_domain"] for row in chosen] == ["minus90", "plus80", "plus90"]


def test_runs_that_make_no_submission_are_refused_in_a_sentence(tmp_path: Path):
    runs = make_runs(tmp_path / "r", **FEW)
    with pytest.raises(
        UnknownName, match=r"'irm' is not a known method in these runs\. Did you mean 'erm'\? Known: erm\."
    ):
        submit(runs, "irm", suite=None)
    with pytest.raises(UnknownName, match="'imbedded' is not a known suite"):
        submit(runs, suite="imbedded")
    with pytest.raises(ValueError, match=r"^The runs make no valid submission\. \$\.datasets: digits_rot is missing"):
        submit(runs, suite="embedded")
    with pytest.raises(ValueError, match=r"^\$\.created: got 'now', expected a time in UTC"):
        submit(runs, suite=None, created="now")
    make_runs(runs, "protocol.evaluate_every=50", **FEW)
    with pytest.raises(
        ValueError, match=r"Runs of erm on digits_color differ in protocol\.evaluate_every \(.*50.*\)\. Name"
    ):
        submit(runs, suite=None)


def test_unfinished_and_strange_runs_are_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match="Got 3 runs of erm, of which none is finished"):
        submit(make_runs(tmp_path / "failed", **FEW, status="failed"), suite=None)
    fabricate.make_runs(tmp_path / "foreign")
    with pytest.raises(ValueError, match="does not say its created, identity, sources, versions, expected a run that"):
        submit(tmp_path / "foreign", suite=None)
    fabricate.make_runs(tmp_path / "tuned", tuned="oracle in first")
    with pytest.raises(UnknownName, match="Known: erm \\(tuned\\)"):
        submit(tmp_path / "tuned", suite=None)
    with pytest.raises(
        ValueError, match=r"hyper-parameters of erm \(tuned\) were chosen by oracle in first, whose runs"
    ):
        submit(tmp_path / "tuned", "erm (tuned)", suite=None)
    runs = make_runs(tmp_path / "running", **FEW, status="running")
    folders = record.find(runs)
    with folders[0].lock.held(), pytest.raises(ValueError, match="Got 1 runs of erm that are still running"):
        submit(runs, suite=None)


def test_runs_of_other_data_or_divisions_are_refused_in_a_sentence(tmp_path: Path):
    runs = make_runs(tmp_path / "r", **FEW)
    folder = record.find(runs)[0]
    identity = (folder.read() or {})["identity"]
    folder.write(identity={**identity, "dataset": {**identity["dataset"], "fingerprint": "0" * 16}})
    with pytest.raises(ValueError, match=r"Runs on digits_color saw different data of one data_seed \(fingerprints"):
        submit(runs, suite=None)
    runs = make_runs(tmp_path / "s", **FEW)
    make_runs(runs, "train_domains=[1]", datasets=["digits_color"], trials=[0], test=[[0]])
    with pytest.raises(ValueError, match="Runs of erm on digits_color differ in trained_on"):
        submit(runs, suite=None)


def test_failed_and_interrupted_runs_are_told_but_have_no_rows(tmp_path: Path):
    runs = make_runs(tmp_path / "r", datasets=["digits_color"], trials=[0])
    make_runs(runs, datasets=["digits_color"], trials=[1], status="failed")
    make_runs(runs, datasets=["digits_color"], trials=[2], status="interrupted")
    said = submit(runs, suite=None)
    tables = rows_of(said)
    assert sorted(tables["runs"]["status"]) == ["complete"] * 3 + ["failed"] * 3 + ["interrupted"] * 3
    assert {tables["runs"]["status"][run] for run in tables["evaluations"]["run"]} == {"complete"}
    assert judge(tmp_path, said).problems == ()
