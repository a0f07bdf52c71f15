"""What claims a suite has all its cells, once each, and its settings."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.leaderboard.submitted_runs import (
    drop,
    evaluations,
    forged,
    inside,
    make_runs,
    put,
    refused,
    repack,
    rows_of,
    submit,
)

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
        "$.hparams[0].algorithm.a: got 1, expected nothing",
    ),
    "no value for a parameter too many": (
        put("hparams", 0, "algorithm", to={"bogus": None}),
        "$.hparams[0].algorithm.bogus: got null, expected nothing, as suite embedded has it.",
    ),
    "a parameter too few": (
        drop("hparams", 0, "optim", "weight_decay"),
        "$.hparams[0].optim.weight_decay: got nothing, expected 0.0",
    ),
    "a count as a fraction": (
        put("hparams", 0, "optim", "num_steps", to=500.0),
        "$.hparams[0].optim.num_steps: got 500.0, expected 500, as",
    ),
    "a switch as a number": (
        put("datasets", 2, "options", "exclude_invert", to=0),
        "$.datasets[2].options.exclude_invert: got 0, expected false",
    ),
    "a number as a switch": (
        put(*DATA, "trainer", "devices", to=True),
        "$.datasets[0].trainer.devices: got true, expected 1",
    ),
    "a depth as a fraction": (
        put(*DATA, "network", "depth", to=1.0),
        "$.datasets[0].network.depth: got 1.0, expected 1",
    ),
    "another version of the method": (
        put("method", "version", to=0),
        "$.method.version: got 0, expected 1, as this dgbench has it. Make the runs again, or leave out --suite.",
    ),
    "another draw": (
        inside(put("runs", "hparams_seed", to=[7] * 63)),
        "$.payload.runs.hparams_seed[0]: got 7, expected 0, the defaults, in suite embedded.",
    ),
    "runs that diverged": (
        inside(lambda tables: tables["runs"]["status"].__setitem__(slice(3, 5), ["diverged"] * 2)),
        "$.payload.runs.status[3]: got 2 runs that diverged, expected none in suite embedded, as they ended before",
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


def test_a_run_has_the_name_that_follows_from_what_it_is(submission, tmp_path: Path):
    first = rows_of(submission)["runs"]["run_id"][0]
    other = first[:-1] + ("0" if first[-1] == "f" else "f")
    said = refused(tmp_path, submission, inside(put("runs", "run_id", 0, to=other)), forged)
    assert said.startswith(f"$.payload.runs.run_id[0]: got {other}, expected {first}, which follows from its settings")


def test_a_run_that_lacks_a_split_is_none_of_a_suite(submission, tmp_path: Path):
    domain = rows_of(submission)["runs"]["test_domains"][0][0]
    is_out = (pl.col("run") == 0) & (pl.col("split") == "out") & (pl.col("domain") == domain)
    said = refused(tmp_path, submission, evaluations(lambda rows: rows.filter(~is_out)), forged)
    assert said.startswith("$.payload.evaluations: run ")
    assert f"was not evaluated on out/{domain}, expected it in suite embedded. Make the run without criteria." in said


OWN = """
from dgbench.algorithms.erm import ERM as _ERM
from dgbench.hparams import hparam, uniform
from dataclasses import dataclass


@dataclass(kw_only=True)
class HParams:
    penalty: float = hparam(3.0, uniform(0, 9), "of nothing")


class MyRisk(_ERM):
    HParams = HParams
"""


def test_a_method_of_ones_own_has_one_setting_and_the_settings_of_the_suite(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    (tmp_path / "my_risk.py").write_text(OWN)
    own = submit(make_runs(tmp_path / "r", f"plugins=[{tmp_path / 'my_risk.py'}]", algorithm="my_risk"), "my_risk")
    monkeypatch.setenv("DGBENCH_PLUGINS", "")
    assert own["hparams"][0]["algorithm"] == {"penalty": 3.0}
    text = "$.hparams[0].optim.batch_size: got 64, expected 16, as suite embedded has it."
    assert text in refused(tmp_path, own, put("hparams", 0, "optim", "batch_size", to=64))
    unsaid = "$.hparams[0].optim.num_steps: got nothing, expected 500"
    assert unsaid in refused(tmp_path, own, drop("hparams", 0, "optim", "num_steps"))

    def tune(said):
        said["hparams"].append({**said["hparams"][0], "algorithm": {"penalty": 9.0}})
        repack(said, put("runs", "hparams", 0, to=1))

    tuned = refused(tmp_path, own, tune, forged)
    assert "$.hparams[1]: got 2 settings of the method on digits_" in tuned
    assert ", expected one, its defaults, in suite embedded. Leave out --suite." in tuned


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"datasets": ["digits_color"]}, "$.datasets: digits_rot is missing, expected all datasets of suite embedded."),
        (
            {"datasets": ["digits_color"], "test": [[0]]},
            "$.payload.runs: digits_color / minus90 / trial 0 is missing,",
        ),
        (
            {"datasets": ["digits_color"], "trials": [0, 3]},
            "digits_color / minus90 / trial 3, which is no cell of suite embedded.",
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
    text = "$.payload.runs: got 2 runs for digits_color / plus90 / trial 0, expected one in suite embedded."
    said = submit(runs, suite=None)
    assert text in refused(tmp_path, said, put("suite", to={"name": "embedded", "version": 1}))
