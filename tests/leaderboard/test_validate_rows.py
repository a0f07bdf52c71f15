"""Every rejection of what stands in the payload, and of results that do not follow from it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.leaderboard.submitted_runs import drop, inside, put, refused, rows_of

RUNS, ROWS = "$.payload.runs", "$.payload.evaluations"
TABLES = {
    "unknown column": (put("runs", "x", to=[]), "$.payload.runs.x: got a field of that name, expected none."),
    "a step of text": (put("evaluations", "step", 3, to="0"), f"{ROWS}.step[3]: got '0', expected a valid integer."),
    "path for an id": (
        put("runs", "run_id", 0, to="../../secret"),
        f"{RUNS}.run_id[0]: got '../../secret', expected 16 hex",
    ),
    "unequal columns": (
        drop("evaluations", "n", 0),
        "$.payload.evaluations: got columns of lengths run 264, step 264,",
    ),
    "no such hyper-parameters": (put("runs", "hparams", 2, to=9), f"{RUNS}.hparams[2]: got 9, expected less than 1."),
    "no such environment": (
        put("runs", "environment", 1, to=1),
        f"{RUNS}.environment[1]: got 1, expected less than 1.",
    ),
    "no such run": (put("evaluations", "run", 7, to=8), f"{ROWS}.run[7]: got 8, expected less than 8."),
    "run id twice": (
        lambda t: t["runs"]["run_id"].__setitem__(1, t["runs"]["run_id"][0]),
        f"{RUNS}.run_id: got run ids",
    ),
    "unnamed dataset": (
        put("runs", "dataset", 0, to="pacs"),
        f"{RUNS}.dataset[0]: 'pacs' is not a known dataset of $.data",
    ),
    "no domain": (
        put("runs", "test_domains", 0, to=[]),
        f"{RUNS}.test_domains[0]: got '', expected domains, each once.",
    ),
    "unknown domain": (
        put("runs", "test_domains", 0, to=["mars"]),
        f"{RUNS}.test_domains[0]: 'mars' is not a known domain",
    ),
    "trained on the test domain": (
        lambda t: put("runs", "train_domains", 0, to=t["runs"]["test_domains"][0])(t),
        "which the run trained on too, expected another.",
    ),
    "other data_seed": (
        put("runs", "data_seed", 0, to=5),
        f"{RUNS}.data_seed[0]: got 5, expected one that has a finge",
    ),
    "two ways to divide": (
        lambda t: t["runs"]["train_domains"][0].pop(),
        "differ in trained_on, expected one way to div",
    ),
    "begun long ago": (
        put("runs", "begun", 0, to=1.0),
        f"{RUNS}.begun[0]: got 1.0, expected a time since 2020, in seconds",
    ),
    "finished before begun": (
        put("runs", "finished", 0, to=1.6e9),
        f"{RUNS}.finished[0]: got 1600000000.0, before the run",
    ),
    "begun after created": (
        put("runs", "begun", 0, to=1.8e9),
        f"{RUNS}.begun[0]: got a run later than $.created (2024-",
    ),
    "negative seconds": (put("runs", "seconds", 0, to=-1.0), f"{RUNS}.seconds[0]: got -1.0, expected at least 0."),
    "accuracy in percent": (put("evaluations", "value", 4, to=61.0), f"{ROWS}.value[4]: got 61.0 of n="),
    "negative accuracy": (put("evaluations", "value", 4, to=-0.5), f"{ROWS}.value[4]: got -0.5 of n="),
    "no whole count": (put("evaluations", "value", 4, to=0.123456), f"{ROWS}.value[4]: got 0.123456 of n="),
    "not a number": (put("evaluations", "value", 4, to=None), f"{ROWS}.value[4]: got nan of n="),
    "no examples": (put("evaluations", "n", 4, to=0), f"{ROWS}.n[4]: got 0, expected at least 1 example."),
    "another number of examples": (
        put("evaluations", "n", 0, to=10**6),
        f"{ROWS}.n[0]: got 1000000, expected 480, the size of in/",
    ),
    "step after the end": (
        put("evaluations", "step", 0, to=500),
        f"{ROWS}.step[0]: got 500, expected a step of the run,",
    ),
    "row twice": (
        lambda t: [column.append(column[5]) for column in t["evaluations"].values()],
        "expected each step of a run once for each split and domain (1 more such rows).",
    ),
    "a domain of nobody": (
        put("evaluations", "domain", 0, to="mars"),
        f"{ROWS}.domain[0]: got 'mars', expected a domain that",
    ),
    "rows of a failed run": (put("runs", "status", 0, to="failed"), f"{ROWS}.run[0]: got '"),
}
RESULTS = {
    "better value": (
        put("results", 0, "value", to=0.999),
        "$.results[0].value: got 0.999 for last_step / digits_color / ",
    ),
    "other step": (
        put("results", 0, "step", to=0),
        "$.results[0].step: got 0 for last_step / digits_color / plus80 / trial 0",
    ),
    "other run": (
        put("results", 0, "run_id", to="0" * 16),
        "$.results[0].run_id: got '0000000000000000' for last_step",
    ),
    "no value": (put("results", 0, "value", to=None), "$.results[0].value: got null for last_step / digits_color / "),
    "result missing": (
        drop("results", 0),
        "$.results: last_step / digits_color / plus80 / trial 0 is missing, expected an",
    ),
    "result twice": (
        lambda said: said["results"].append(said["results"][0]),
        "got last_step / digits_color / plus80 / trial 0 tw",
    ),
    "result of nothing": (
        put("results", 0, "trial_seed", to=7),
        "plus80 / trial 7, which no row is about, expected it left",
    ),
    "better mean": (
        put("aggregates", 0, "mean", to=0.99),
        "$.aggregates[0].mean: got 0.99 for last_step / digits_color / A",
    ),
    "smaller error": (
        put("aggregates", 0, "se", to=0.0),
        "$.aggregates[0].se: got 0.0 for last_step / digits_color / Aver",
    ),
    "more trials": (
        put("aggregates", 0, "num_trials", to=9),
        "$.aggregates[0].num_trials: got 9 for last_step / digits_",
    ),
    "results in another order": (
        lambda said: said["results"].reverse(),
        "$.results[0]: got train_validation / digits_rot / rot15 / trial 1, expected last_step / digits_color / plus80 "
        "/ trial 0, as entries are sorted by criterion, dataset, test_domain, trial_seed, data_seed.",
    ),
    "means in another order": (
        lambda said: said["aggregates"].reverse(),
        "$.aggregates[0]: got train_validation / digits_rot / ",
    ),
    "hyper-parameters of no run": (
        lambda said: said["hparams"].append(said["hparams"][0]),
        "$.hparams[1]: got an entry that no run has, expected it left out.",
    ),
    "an environment of no run": (
        lambda said: said["environments"].append(said["environments"][0]),
        "$.environments[1]: got an entry that no run has, expected it left out.",
    ),
    "mean missing": (
        drop("aggregates", 0),
        "$.aggregates: last_step / digits_color / Average is missing, expected an entry",
    ),
}
# These leave a dataset without its domains in `in` and `out`, or a run without rows, and so are more than one place.
CASES = {**{name: (inside(change), text) for name, (change, text) in TABLES.items()}, **RESULTS}


@pytest.mark.parametrize("case", CASES)
def test_one_change_of_a_valid_file_is_refused_with_its_place(case, small, tmp_path: Path):
    change, text = CASES[case]
    assert text in refused(tmp_path, small, change)


def test_a_better_row_is_seen_in_the_results(small, tmp_path: Path):
    """Rows that could be true, but give other results than those that are claimed."""
    rows = rows_of(small)["evaluations"]
    place = next(i for i in range(len(rows["run"])) if rows["split"][i] == "in" and rows["step"][i] == 499)
    assert rows["value"][place] < 1
    said = refused(tmp_path, small, inside(put("evaluations", "value", place, to=1.0)))
    assert "$.results[" in said
    assert "which follows from the rows" in said
    assert "$.aggregates[" in said


def test_a_dataset_without_runs_is_refused(small, tmp_path: Path):
    def take_away(tables):
        kept = [i for i, name in enumerate(tables["runs"]["dataset"]) if name == "digits_rot"]
        place = {old: new for new, old in enumerate(kept)}
        rows = pl.DataFrame(tables["evaluations"]).filter(pl.col("run").is_in(kept))
        rows = rows.with_columns(pl.col("run").replace_strict(place))
        tables["runs"] = {name: [column[i] for i in kept] for name, column in tables["runs"].items()}
        tables["evaluations"] = rows.to_dict(as_series=False)

    said = refused(tmp_path, small, inside(take_away))
    assert said.startswith("$.datasets: got digits_color without any run, expected runs on each dataset.")
