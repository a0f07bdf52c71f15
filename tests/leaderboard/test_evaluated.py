"""Evaluations that no run leaves: other splits, sizes, steps or scores than there are, one trial for another.

What follows from the rows is computed again, so that only the rows betray the change.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

import dgbench
from tests.leaderboard.submitted_runs import (
    STEPS,
    Json,
    evaluations,
    forged,
    inside,
    judge,
    make_runs,
    put,
    refused,
    rows_of,
    submit,
)

ROWS = "$.payload.evaluations"
FEW: Json = {"datasets": ["digits_color"], "trials": [0]}
ERRORS = ("protocol.evaluate_every=100", "protocol.num_steps=500")
IS_IN = pl.col("split") == "in"


def added(split: str, n: int):
    """A test domain's rows once more, as those of another split."""
    return lambda rows: pl.concat(
        [rows, rows.filter(IS_IN).with_columns(split=pl.lit(split), n=pl.lit(n, pl.Int64), value=1.0)]
    )


def invented(rows: pl.DataFrame) -> pl.DataFrame:
    """98 steps more of every run."""
    first = rows.filter(step=0).drop("step")
    more = first.join(pl.DataFrame({"step": range(1, 99)}), how="cross").select(rows.columns)
    return pl.concat([rows, more])


def best_and_last(rows: pl.DataFrame) -> pl.DataFrame:
    """Of every run the step that is best on its test domain, and the last."""
    best = rows.filter(IS_IN).sort("value", descending=True).unique("run", keep="first").select("run", best="step")
    kept = rows.join(best, on="run").filter((pl.col("step") == pl.col("best")) | (pl.col("step") == 499))
    return kept.drop("best")


MADE = "expected out of train_domains, in of val_domains, in or out of test_domains, as protocol.splits=random makes"
FORGERIES = {
    "one image for the test set": (
        lambda r: r.with_columns(
            split=pl.when(IS_IN).then(pl.lit("test")).otherwise("split"),
            n=pl.when(IS_IN).then(1).otherwise("n"),
            value=pl.when(IS_IN).then(1.0).otherwise("value"),
        ),
        (f"{ROWS}.split[0]: got 'test', {MADE}",),
    ),
    "a better test set": (added("test", 7), (".split[264]: got 'test', expected", "(23 more such rows)")),
    "no split": (added("html", 5), ("got 'html', expected",)),
    "unlabelled examples": (added("uda", 5), ("got 'uda', expected",)),
    "training examples": (
        lambda r: pl.concat([r, r.filter(~IS_IN).with_columns(split=pl.lit("in"))]).unique(
            ["run", "step", "split", "domain"], keep="first", maintain_order=True
        ),
        ("got 'in', expected out of train_domains",),
    ),
    "fewer examples": (
        lambda r: r.with_columns(n=pl.when(IS_IN).then(1).otherwise("n"), value=pl.col("value").round()),
        (f"{ROWS}.n[0]: got 1, expected 480, the size of in/",),
    ),
    "the best step alone": (best_and_last, ("got 2 evaluations of in/", ", expected 6: with protocol.evaluate_every")),
    "steps between": (invented, (f"{ROWS}.step[264]: got 1, expected a step after which protocol.evaluate_every=100",)),
    "one split less often": (
        lambda r: r.filter(~IS_IN | (pl.col("step") != 200)),
        (f"{ROWS}.run[0]: got 5 evaluations of in/", "expected 6: with"),
    ),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_rows_that_no_run_leaves_are_refused_though_all_follows_from_them(case, small, tmp_path: Path):
    change, texts = FORGERIES[case]
    said = refused(tmp_path, small, evaluations(change), forged)
    assert all(text in said for text in texts), said


def test_a_sweep_of_fewer_criteria_is_valid_without_a_suite(small, tmp_path: Path):
    fewer = forged(small, evaluations(lambda rows: rows.filter(IS_IN)))
    assert {row["criterion"] for row in fewer["results"]} == {"last_step"}
    assert judge(tmp_path, fewer).problems == ()


def test_rows_of_an_unfinished_run_are_refused(small, tmp_path: Path):
    assert ", expected evaluations of finished runs only (" in refused(
        tmp_path, small, inside(put("runs", "status", 0, to="interrupted"))
    )


def test_a_trial_copied_from_another_is_refused(small, tmp_path: Path):
    def copy(tables):
        runs = pl.DataFrame(tables["runs"]).with_row_index("run").with_columns(pl.col("test_domains").list.first())
        key = ["dataset", "test_domains"]
        other = runs.filter(trial_seed=0).join(runs.filter(trial_seed=1), on=key)
        rows = pl.DataFrame(tables["evaluations"])
        kept = rows.join(other, on="run", how="semi")
        place = dict(other.select("run", "run_right").iter_rows())
        copies = kept.with_columns(pl.col("run").replace_strict(place))
        tables["evaluations"] = pl.concat([kept, copies]).to_dict(as_series=False)

    said = refused(tmp_path, small, inside(copy), forged).splitlines()
    assert [line.partition(" Make")[0] for line in said] == [
        f"{ROWS}: got the same evaluations in trials 0 (data_seed 0) and 1 (data_seed 0) of {name}, expected each "
        "trial to have its own."
        for name in ("digits_color", "digits_rot")
    ]


@pytest.mark.parametrize("rate", ["1e30", "0.0"])
def test_trials_of_official_splits_may_be_alike_where_nothing_was_learned(rate, tmp_path: Path):
    keys: Json = {"algorithm": "erm", "dataset": "iut_2", "trial_seed": [0, 1]}
    dgbench.sweep(**keys, **{"optim.lr": float(rate), "protocol.num_steps": 2}, runs_dir=tmp_path / "runs")
    for folder in (tmp_path / "runs").glob("*/evaluations.jsonl"):
        # As a network does that gives every example one answer.
        folder.write_text(re.sub(r'(/accuracy": )[0-9.e-]+', r"\g<1>0.5", folder.read_text()))
    assert len(rows_of(submit(tmp_path / "runs", suite=None, created=None))["runs"]["trial_seed"]) == 2


@pytest.mark.parametrize(
    ("keys", "method", "pairs", "every"),
    [
        (("averaging=ema",), "erm + ema", 4 * 6, "protocol.evaluate_every=100"),
        (("averaging=swad",), "erm + swad", 4, "averaging=swad"),
        (("protocol.uda_holdout_fraction=0.5",), "erm", 4 * 6, "protocol.evaluate_every=100"),
        (("val_domains=[plus80]",), "erm", 4 * 6, "protocol.evaluate_every=100"),
    ],
)
def test_what_other_settings_evaluate_is_valid_and_not_less(keys, method, pairs, every, tmp_path: Path):
    said = submit(make_runs(tmp_path / "r", *keys, **FEW, test=[[0]]), method, suite=None)
    assert len(rows_of(said)["evaluations"]["run"]) == pairs
    assert judge(tmp_path, said).problems == ()
    earlier = evaluations(lambda r: r.with_columns(pl.col("step").replace(499, 450)))
    expected = f"{ROWS}.step[{pairs - 4}]: got 450, expected a step after which "
    assert f"{expected}{every}" in refused(tmp_path, said, earlier, forged)


def test_a_run_that_diverged_ends_where_it_did(tmp_path: Path):
    runs = make_runs(tmp_path / "r", **FEW, test=[[0]], status="diverged", steps=(0, 100, 137))
    make_runs(runs, **FEW, test=[[1]], status="diverged", steps=(0, 100, 200))
    said = submit(runs, suite=None)
    skipped = refused(tmp_path, said, evaluations(lambda r: r.filter(pl.col("step") != 100)), forged)
    assert "got 2 evaluations of" in skipped
    assert "expected 3: with protocol.evaluate_every=100, those until step 137." in skipped
    off = refused(tmp_path, said, evaluations(lambda r: r.with_columns(pl.col("step").replace(100, 99))), forged)
    assert "got 99, expected a step after which protocol.evaluate_every=100 evaluates, or where the run diverged" in off


def test_right_answers_are_counted_in_a_run_that_diverged_too(tmp_path: Path):
    said = submit(make_runs(tmp_path / "r", **FEW, test=[[0]], status="diverged", steps=STEPS), suite=None)
    none = refused(tmp_path, said, inside(put("evaluations", "value", 0, to=None)), forged)
    assert f"{ROWS}.value[0]: got nan of n=480, expected an accuracy: right answers are counted in a run that" in none


def test_errors_are_not_negative_and_may_be_none_where_a_run_diverged(tmp_path: Path):
    few: Json = {"datasets": ["wine_cultivar"], "trials": [0, 1], "test": [[0]]}
    runs = make_runs(tmp_path / "r", *ERRORS, **few, status="diverged")
    for file in runs.glob("*/evaluations.jsonl"):
        *lines, last = file.read_text().splitlines()
        file.write_text("\n".join([*lines, re.sub(r'(/rmse": )[0-9.e-]+', r"\1null", last), ""]))
    said = submit(runs, suite=None)
    assert rows_of(said)["evaluations"]["value"].count(None) == 2 * 4
    nothing = forged(said, evaluations(lambda r: r.with_columns(value=pl.lit(None, pl.Float64))))
    assert judge(tmp_path, nothing).problems == ()  # two trials alike, but none copied
    negative = refused(tmp_path, said, inside(put("evaluations", "value", 0, to=-0.5)), forged)
    assert f"{ROWS}.value[0]: got -0.5 of n=" in negative
    assert ", expected an error of at least 0. Write the file anew" in negative


def test_there_is_one_zero(tmp_path: Path):
    """An error of 0 is chosen by as -0, and must not be told so."""
    said = submit(
        make_runs(tmp_path / "r", *ERRORS, **{**FEW, "datasets": ["wine_cultivar"], "test": [[0]]}), suite=None
    )
    zero = forged(said, evaluations(lambda r: r.with_columns(value=pl.lit(0.0))))
    assert {str(row["selection_value"]) for row in zero["results"] if row["criterion"] != "last_step"} == {"0.0"}
    assert judge(tmp_path, zero).problems == ()
    text = f"{ROWS}.value[3]: got -0.0, expected 0.0, which is the same number."
    assert text in refused(tmp_path, zero, inside(put("evaluations", "value", 3, to=-0.0)))
    assert "$.results[0].value: got -0.0, expected 0.0" in refused(tmp_path, zero, put("results", 0, "value", to=-0.0))
