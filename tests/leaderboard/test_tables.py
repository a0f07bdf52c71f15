from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import dgbench
from dgbench.registry import UnknownName
from tests.fabricate import DOMAINS, NUMBERS, make_run, make_runs, make_scores


def test_means_and_errors_are_those_made_by_hand(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path))
    found = {(row["algorithm"], row["column"]): row for row in made.cells.iter_rows(named=True)}
    golden = {
        # Standard deviation with n-1 = 2 over the three trials, over the square root of 3.
        ("erm", "a"): (0.6, math.sqrt(0.02 / 2 / 3)),
        ("erm", "b"): (0.8, 0.0),
        ("vrex", "a"): (0.7, math.sqrt(0.06 / 2 / 3)),
        # Averages of the trials: 0.5, 0.5, 0.6 and 0.6, 1.7/3, 2.2/3.
        ("erm", "Average"): (1.6 / 3, math.sqrt(0.02 / 3 / 2 / 3)),
        ("vrex", "Average"): (1.9 / 3, 0.0509175),
    }
    for key, (mean, se) in golden.items():
        assert found[key]["mean"] == pytest.approx(mean)
        assert found[key]["se"] == pytest.approx(se, abs=1e-7)
        assert (found[key]["num_trials"], found[key]["expected_trials"]) == (3, 3)


def test_text_ranks_the_best_first(tmp_path: Path) -> None:
    said = str(dgbench.table(make_runs(tmp_path, num_steps=300)))
    assert "toy: accuracy in %, selected by train_validation" in said
    assert "protocol dgbench (300 steps); network mlp; trained on all other domains; 3 trials" in said
    rows = [line.split() for line in said.splitlines() if re.match(r" *\d ", line)]
    assert rows == [
        ["1", "vrex", "70.0±10.0", "80.0±5.8", "40.0±10.0", "63.3±5.1", "9/9"],
        ["2", "erm", "60.0±5.8", "80.0±0.0", "20.0±5.8", "53.3±3.3", "9/9"],
    ]


def test_a_missing_trial_is_marked_and_does_not_shift_the_average(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path, skip=lambda *cell: cell == ("erm", "a", 2)))
    found = {(row["algorithm"], row["column"]): row for row in made.cells.iter_rows(named=True)}
    # Trials 0 and 1 alone have all domains: 0.5 and 0.5.
    assert found["erm", "Average"]["mean"] == pytest.approx(0.5)
    assert found["erm", "a"]["mean"] == pytest.approx(0.55)
    assert [found["erm", name]["num_trials"] for name in ("a", "b", "Average")] == [2, 3, 2]
    said = str(made)
    assert said.count("(2/3)") == 2
    assert "8/9" in said
    assert "Missing, no finished run: erm on a (trial 2)." in said


def test_a_missing_domain_leaves_no_average_and_no_rank(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path, skip=lambda *cell: cell[:2] == ("vrex", "b")))
    lines = {line.method: line for line in made.sheets[0].lines}
    assert [line.method for line in made.sheets[0].lines] == ["erm", "vrex"]
    assert (lines["erm"].rank, lines["vrex"].rank) == (1, None)
    assert lines["vrex"].cells[-1].mean is None
    row = next(line for line in str(made).splitlines() if "vrex" in line)
    assert row.split() == ["vrex", "70.0±10.0", "missing", "40.0±10.0", "—", "6/9"]
    assert made.cells.filter(algorithm="vrex", column="b")["is_missing"].item()


def test_domains_that_nobody_tested_are_missing(tmp_path: Path) -> None:
    numbers = {key: values for key, values in NUMBERS.items() if key[1] == "b"}
    assert dgbench.table(make_runs(tmp_path, numbers)).sheets[0].columns == ("a", "b", "c_long_name", "Average")


def test_one_trial_has_no_error(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path, {key: values[:1] for key, values in NUMBERS.items()}))
    said = str(made)
    assert "±" not in said
    assert "One trial: nothing is known about the spread." in said
    assert made.cells["se"].is_null().all()


def test_lower_rmse_is_better_and_has_three_decimals(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path, score="rmse"))
    assert [line.method for line in made.sheets[0].lines] == ["erm", "vrex"]
    assert "rmse (lower is better)" in str(made)
    assert "0.533±0.033" in str(made)


def test_equal_averages_share_a_rank(tmp_path: Path) -> None:
    numbers = {(name, test): NUMBERS["erm", test] for name in ("erm", "sam", "vrex") for test in DOMAINS}
    assert [line.rank for line in dgbench.table(make_runs(tmp_path, numbers)).sheets[0].lines] == [1, 1, 1]


def test_another_metric_is_ranked_by_itself(tmp_path: Path) -> None:
    made = dgbench.table(make_runs(tmp_path), metric="nll")
    assert "toy: nll (lower is better), selected by train_validation" in str(made)
    assert made.sheets[0].lines[0].cells[-1].mean == pytest.approx(1 - 1.9 / 3)


def test_notes_tell_what_is_odd(tmp_path: Path) -> None:
    make_runs(tmp_path, skip=lambda *cell: cell == ("erm", "a", 0))
    lines = [(0, make_scores("a", 0.5, domains=DOMAINS))]
    odd = {"domains": DOMAINS, "test": ["a"]}
    make_run(tmp_path, lines, status="diverged", version="0.2.0", **odd)  # type: ignore[arg-type]
    make_run(tmp_path, status="failed", hparams_seed=1, **odd)  # type: ignore[arg-type]
    make_run(tmp_path, lines, status="interrupted", hparams_seed=2, **odd)  # type: ignore[arg-type]
    make_run(tmp_path, lines, domains=DOMAINS, test=["a", "b"])
    made = dgbench.table(tmp_path)
    said = " ".join(str(made).split())
    assert "Runs: 17 complete, 1 diverged, 1 failed, 1 unfinished." in said
    assert "† with a run that diverged, where no other was finished: erm on a (trial 0)." in said
    assert "Runs of several versions of dgbench stand in this table: 0.1.0, 0.2.0." in said
    assert "Methods had unequal numbers of hparams draws: erm 3, vrex 1." in said
    assert "1 to 3 hparams draws" in said
    assert "Left out: 1 runs that leave out two domains, for domain_cross_validation." in said
    assert "60.0±5.8†" in said
    assert made.cells.filter(algorithm="erm", column="a")["num_diverged"].item() == 1


def test_a_method_that_only_failed_has_its_row(tmp_path: Path) -> None:
    make_run(make_runs(tmp_path), status="failed", domains=DOMAINS, algorithm="irm")
    made = dgbench.table(tmp_path)
    assert made.sheets[0].lines[-1].method == "irm"
    assert made.sheets[0].lines[-1].found == "0/9"
    assert "and 2 more" not in str(made)


def test_many_missing_cells_are_counted_not_listed(tmp_path: Path) -> None:
    make_runs(tmp_path, {("erm", "a"): (0.5,)})
    for name in ("irm", "sam", "vrex"):
        make_run(tmp_path, status="failed", domains=DOMAINS, algorithm=name)
    assert "; and 5 more." in " ".join(str(dgbench.table(tmp_path)).split())


def test_averaged_weights_are_a_method_of_their_own(tmp_path: Path) -> None:
    make_runs(tmp_path)
    make_run(
        tmp_path,
        [(0, make_scores("a", 0.5, domains=DOMAINS))],
        domains=DOMAINS,
        averaging="ema",
        weights="ema",
    )
    assert "erm + ema" in [line.method for line in dgbench.table(tmp_path).sheets[0].lines]


def test_what_is_not_comparable_stands_in_tables_of_its_own(tmp_path: Path) -> None:
    make_runs(tmp_path)
    make_runs(tmp_path, protocol_key="other")
    make_runs(tmp_path, network="resnet18", network_key="other")
    titles = [sheet.title for sheet in dgbench.table(tmp_path).sheets]
    assert len(titles) == 3
    assert sum("(protocol other)" in title for title in titles) == 1
    assert sum("(protocol protoc)" in title for title in titles) == 1


def test_several_datasets_get_a_table_of_averages(tmp_path: Path) -> None:
    make_runs(tmp_path, dataset="first")
    make_runs(tmp_path, {key: values for key, values in NUMBERS.items() if key[0] == "erm"}, dataset="second")
    make_runs(tmp_path, dataset="third", score="rmse")
    sheets = dgbench.table(tmp_path).sheets
    assert len(sheets) == 4
    overall = sheets[-1]
    assert overall.columns == ("first", "second", "Average")
    assert overall.title == "2 datasets: average accuracy in %, selected by train_validation"
    erm, vrex = overall.lines
    assert (erm.method, erm.rank, erm.found) == ("erm", 1, "18/18")
    assert erm.cells[-1].mean == pytest.approx(1.6 / 3)
    assert erm.cells[-1].se == pytest.approx(math.sqrt(2 * (0.02 / 3 / 2 / 3)) / 2)
    assert (vrex.rank, vrex.found, vrex.cells[1].mean, vrex.cells[-1].mean) == (None, "9/18", None, None)


def test_two_tables_of_one_dataset_are_not_averaged(tmp_path: Path) -> None:
    for dataset, network in (("first", "one"), ("second", "one"), ("second", "two")):
        make_runs(tmp_path, dataset=dataset, network_key=network)
    assert len(dgbench.table(tmp_path).sheets) == 3


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    make_runs(tmp_path)
    with pytest.raises(UnknownName, match=r"'markdwn' is not a known format\. Did you mean 'markdown'"):
        dgbench.table(tmp_path, format="markdwn")
    with pytest.raises(UnknownName, match="'best' is not a known criterion"):
        dgbench.table(tmp_path, criterion="best")
    with pytest.raises(UnknownName, match=r"'nl' is not a known metric of toy\. Did you mean 'nll'"):
        dgbench.table(tmp_path, metric="nl")


def test_nothing_to_make_a_table_of_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No runs under .*Name the runs_dir"):
        dgbench.table(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder of runs"):
        dgbench.table(tmp_path / "nowhere")


def test_runs_of_which_none_is_finished_are_all_missing(tmp_path: Path) -> None:
    make_run(tmp_path, status="failed")
    said = str(dgbench.table(tmp_path))
    assert said.count("missing") == 3
    assert "Runs: 0 complete, 1 failed." in said
