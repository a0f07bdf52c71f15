"""Runs compared with a baseline: what is compared with what, on each dataset and over datasets, and what is said."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from dgbench import cli
from dgbench.leaderboard.compare import compare
from dgbench.registry import UnknownName
from tests.fabricate import NUMBERS, make_run, make_runs, make_scores


def test_runs_are_compared_by_what_the_criterion_chooses(tmp_path: Path) -> None:
    made = compare(make_runs(tmp_path), "erm")
    ((vrex,),) = [part.differences for part in made.parts]
    # Averages of the trials: erm 1.5/3, 1.5/3, 1.8/3, and vrex 1.8/3, 1.7/3, 2.2/3.
    d = [0.3 / 3, 0.2 / 3, 0.4 / 3]
    assert (vrex.method, vrex.num_trials, vrex.mean) == ("vrex", 3, pytest.approx(0.1))
    assert vrex.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    said = str(made)
    assert "toy: accuracy in %, selected by train_validation; differences from erm" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith(" vrex")]
    assert row == ["vrex", "3", "+10.0", "[+1.7,", "+18.3]", "0.035", "0.035", "differs"]


def test_another_metric_is_compared(tmp_path: Path) -> None:
    ((vrex,),) = [part.differences for part in compare(make_runs(tmp_path), "erm", metric="nll").parts]
    assert vrex.mean == pytest.approx(-0.1)
    assert "nll (lower is better)" in str(compare(tmp_path, "erm", metric="nll"))


def test_notes_say_what_is_not_there(tmp_path: Path) -> None:
    make_runs(tmp_path, skip=lambda *cell: cell == ("vrex", "a", 2))
    make_run(tmp_path, status="failed", domains=("a", "b", "c_long_name"), algorithm="irm")
    make_run(tmp_path, [(0, make_scores("a", 0.5))], dataset="second", algorithm="sam")
    said = " ".join(str(compare(tmp_path, "erm")).split())
    assert "vrex: Compared on the 2 of 3 trials that both it and the baseline have in full. Two trials leave" in said
    assert "irm: Compared on the 0 of 3 trials that both it and the baseline have in full. A test needs" in said
    assert "Left out, as erm is not there: second." in said
    # Of two trials nothing is claimed, by any test.
    assert "2 trials can show a difference" not in said


def test_data_seeds_are_trials_and_diverged_runs_are_counted(tmp_path: Path) -> None:
    for seed, status in enumerate(("complete", "diverged", "complete")):
        for label, value in (("base", 0.5), ("other", 0.5 + 0.1 * seed)):
            make_run(tmp_path, [(0, make_scores("a", value))], status=status, label=label, data_seed=seed, train=["b"])
    made = compare(tmp_path, "base", "last_step")
    assert [d.num_trials for d in made.parts[0].differences] == [3]
    assert "Numbers of runs that diverged are among them: 2 of 6." in str(made)


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No runs under .*Name the runs_dir"):
        compare(tmp_path, "erm")
    make_runs(tmp_path)
    with pytest.raises(UnknownName, match=r"'vrx' is not a known method \(baseline\). Did you mean 'vrex'"):
        compare(tmp_path, "vrx")
    with pytest.raises(UnknownName, match="'best' is not a known criterion"):
        compare(tmp_path, "erm", "best")
    with pytest.raises(UnknownName, match="'nl' is not a known metric of toy"):
        compare(tmp_path, "erm", metric="nl")


def test_adaptations_are_compared_elsewhere(tmp_path: Path) -> None:
    run = tmp_path / make_run(tmp_path, [(0, make_scores("a", 0.5))])
    file = run / "run.json"
    file.write_text(file.read_text().replace('"kind": "train"', '"kind": "adapt"'))
    with pytest.raises(ValueError, match=r"are adaptations, no trained runs\. dgbench table ranks them, in Python"):
        compare(tmp_path, "erm")


def test_a_baseline_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, make_scores("a", 0.5))], designated_domains="a")
    with pytest.raises(ValueError, match="There is nothing to compare with erm: no other method has runs"):
        compare(tmp_path, baseline="erm")


def test_what_three_trials_cannot_show_is_said_once(tmp_path: Path) -> None:
    make_runs(tmp_path)
    make_runs(tmp_path, dataset="second")
    said = " ".join(str(compare(tmp_path, "erm")).split())
    assert said.count("3 trials can show a difference only if differences are normal") == 1
    assert "by their signs (Wilcoxon) the smallest p is 0.25." in said


def test_datasets_compared_alike_have_a_table_over_them(tmp_path: Path) -> None:
    make_runs(tmp_path)
    make_runs(tmp_path, dataset="second")
    made = compare(tmp_path, "erm")
    assert len(made.parts) == 2
    (whole,) = made.over_datasets
    assert whole.title == "2 datasets: accuracy in %, selected by train_validation; differences from erm"
    assert whole.subtitle == "second, toy; protocol dgbench; trained on all other domains"
    vrex, erm = whole.standings
    assert (vrex.method, vrex.mean_rank, erm.mean_rank) == ("vrex", 1, 2)
    assert vrex.difference is not None
    # On either dataset vrex is 0.3, 0.2 and 0.4 thirds better: see above.
    assert (vrex.difference.mean, vrex.difference.num_trials) == (pytest.approx(0.1), 6)
    lower = compare(tmp_path, "erm", metric="nll").over_datasets[0]
    assert [(s.method, s.mean_rank) for s in lower.standings] == [("vrex", 1), ("erm", 2)]
    assert lower.standings[0].worst_domain == pytest.approx(1 - vrex.worst_domain)


def test_one_dataset_has_no_table_over_datasets(tmp_path: Path) -> None:
    made = compare(make_runs(tmp_path), "erm")
    assert made.over_datasets == ()
    assert "over datasets" not in str(made)


def test_datasets_that_would_count_twice_or_share_no_method_are_named(tmp_path: Path) -> None:
    make_runs(tmp_path / "a")
    make_runs(tmp_path / "a", network_key="network1")
    said = " ".join(str(compare(tmp_path / "a", "erm")).split())
    assert "No table over datasets: toy, of which some were compared in several ways, count twice." in said
    make_runs(tmp_path / "b")
    make_runs(tmp_path / "b", dataset="second", skip=lambda name, *_: name == "vrex")
    said = " ".join(str(compare(tmp_path / "b", "erm")).split())
    assert (
        "No table over datasets: fewer than two methods have full trials and only numbers on all of second, toy."
        in said
    )


def test_units_of_datasets_are_warned_of(tmp_path: Path) -> None:
    for dataset in ("first", "second"):
        make_runs(tmp_path, dataset=dataset, score="rmse")
    said = " ".join(str(compare(tmp_path, "erm")).split())
    assert "rmse is in each dataset's own unit" in said
    assert "The mean rank does not." in said


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut_or_broken_at_usual_widths(tmp_path: Path, width: int) -> None:
    numbers = {("erm" if name == "erm" else "caus_irl_coral", test): v for (name, test), v in NUMBERS.items()}
    for dataset in ("texture_patches", "digits_color"):
        make_runs(tmp_path, numbers, dataset=dataset)
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(compare(tmp_path, "erm"))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if line.startswith(" caus_irl_coral")]
    assert [row[1:3] for row in rows] == [["3", "+10.0"], ["3", "+10.0"], ["1.00", "1"]]
    assert "…" not in captured.get()


def test_the_command_prints_the_comparison_and_refuses_in_a_sentence(tmp_path: Path) -> None:
    make_runs(tmp_path)
    said = CliRunner().invoke(cli.app, ["compare", str(tmp_path), "--baseline", "vrex", "--criterion", "last_step"])
    assert (said.exit_code, "toy: accuracy in %, selected by last_step; differences from vrex" in said.output) == (
        0,
        True,
    )
    said = CliRunner().invoke(cli.app, ["compare", str(tmp_path), "--baseline", "vrx"])
    assert isinstance(said.exception, UnknownName)
