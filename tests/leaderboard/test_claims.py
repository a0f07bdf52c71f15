"""What claims a suite has all its cells, once each, and its settings."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.leaderboard.submitted_runs import changed, inside, judge, make_runs, put, refused, submit

DATA = ("datasets", 0)
CLAIMS = {
    "unknown suite": (
        put("suite", "name", to="imbedded"),
        "$.suite.name: 'imbedded' is not a known suite. Did you mean",
    ),
    "suite of the future": (
        put("suite", "version", to=2),
        "$.suite.version: got 2, expected 1, which this dgbench has.",
    ),
    "other steps": (
        put(*DATA, "protocol", "evaluate_every", to=50),
        "$.datasets[0].protocol.evaluate_every: got 50, expec",
    ),
    "other network": (
        put(*DATA, "network", "width", to=999),
        "$.datasets[0].network.width: got 999, expected 128, as suite",
    ),
    "other precision": (
        put(*DATA, "trainer", "precision", to="16-mixed"),
        "$.datasets[0].trainer.precision: got '16-mixed'",
    ),
    "other data": (
        put(*DATA, "fingerprints", "0", to="0" * 16),
        "$.datasets[0].fingerprints['0']: got '0000000000000000',",
    ),
    "other option of data": (
        put(*DATA, "options", "target_scale", to="minmax"),
        "$.datasets[0].options.target_scale: got",
    ),
    "tuned learning rate": (
        put("hparams", 0, "optim", "lr", to=0.5),
        "$.hparams[0].optim.lr: got 0.5, expected 0.001, as",
    ),
    "a parameter too many": (
        put("hparams", 0, "algorithm", to={"a": 1}),
        "$.hparams[0].algorithm.a: got 1, expected null",
    ),
    "other error bar": (
        put("protocol", "error_bar", to="n"),
        "$.protocol.error_bar: got 'n', expected 'n-1', as suite",
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_one_change_of_a_complete_suite_is_refused_with_its_place(case, submission, tmp_path: Path):
    change, text = CLAIMS[case]
    assert text in refused(tmp_path, submission, change)


def test_what_a_criterion_lacks_is_missing_in_a_suite(submission, tmp_path: Path):
    def take_away(tables):
        rows = pl.DataFrame(tables["evaluations"])
        domain = tables["runs"]["test_domains"][0][0]
        is_out = (pl.col("run") == 0) & (pl.col("split") == "out") & (pl.col("domain") == domain)
        tables["evaluations"] = rows.filter(~is_out).to_dict(as_series=False)

    said = refused(tmp_path, submission, inside(take_away))
    assert "$.payload.evaluations: nothing that oracle chooses by for " in said
    assert "expected it in suite embedded" in said


def test_a_method_of_ones_own_keeps_its_hyper_parameters_and_the_settings_of_the_suite(submission, tmp_path: Path):
    def change(said):
        said["method"].update(algorithm="my_risk", name="my_risk", source="0" * 16)
        said["hparams"][0]["algorithm"] = {"penalty": 3.0}

    own = changed(submission, change)
    assert judge(tmp_path, own).problems == ()
    text = "$.hparams[0].optim.batch_size: got 64, expected 16, as suite embedded has it."
    assert text in refused(tmp_path, own, put("hparams", 0, "optim", "batch_size", to=64))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datasets": ["digits_color"]}, "$.datasets: digits_rot is missing, expected all datasets of suite embedded."),
        (
            {"datasets": ["digits_color"], "test": [[0]]},
            "$.payload.runs: digits_color, test minus90, trial 0 is missing,",
        ),
        (
            {"datasets": ["digits_color"], "trials": [0, 3]},
            "test minus90, trial 3, which is no cell of suite embedded.",
        ),
        (
            {"datasets": ["wine_cultivar"], "test": [[0]]},
            "$.datasets[0].name: got wine_cultivar, expected datasets of suite",
        ),
    ],
)
def test_what_is_no_suite_is_valid_without_the_claim_only(options, text, tmp_path: Path):
    said = submit(make_runs(tmp_path / "runs", **options), suite=None)
    assert text in refused(tmp_path, said, put("suite", to={"name": "embedded", "version": 1}))


def test_a_suite_takes_one_run_per_cell(tmp_path: Path):
    runs = make_runs(tmp_path / "runs", datasets=["digits_color"], test=[[0]], trials=[0])
    make_runs(runs, "hparams_seed=1", datasets=["digits_color"], test=[[0]], trials=[0])
    text = "$.payload.runs: got 2 runs for digits_color, test plus90, trial 0, expected one in suite embedded."
    said = submit(runs, suite=None)
    assert text in refused(tmp_path, said, put("suite", to={"name": "embedded", "version": 1}))
