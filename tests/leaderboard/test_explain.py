"""What is missing of a table: told from runs with holes, and made again by the commands that are named."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from dgbench import expansion, record
from dgbench.leaderboard.explain import SHOWN, Explanation, explain
from dgbench.record import RunFolder
from dgbench.registry import UnknownName
from tests.fabricate import DOMAINS, make_run, make_runs, make_scores
from tests.grids import make_grid


def told(made: Explanation) -> list[str]:
    return [str(gap) for gap in made.gaps]


def made_by(gap: Any) -> set[str]:
    """The runs that its command would make."""
    _, train, *asked = shlex.split(gap.command)
    assert train == "train"
    return {job.run.run_id for job in expansion.expand([key for key in asked if key != "-m"])}


def test_nothing_is_missing_of_a_whole_grid(tmp_path: Path) -> None:
    made = explain(make_runs(tmp_path))
    assert made.gaps == ()
    assert str(made) == "Nothing is missing of what train_validation needs.\n"


def test_cells_and_draws_that_are_missing_are_named(tmp_path: Path) -> None:
    make_runs(tmp_path, skip=lambda *cell: cell in [("erm", "a", 1), ("erm", "a", 2), ("vrex", "b", 0)])
    assert told(explain(tmp_path)) == [
        "missing: erm, test a, trials 1 2, draw 0 (2 runs)",
        "missing: vrex, test b, trial 0, draw 0",
    ]
    # A second draw of one cell is expected of all cells of its method.
    make_run(tmp_path, [(0, make_scores("b", 0.5, domains=DOMAINS))], domains=DOMAINS, test=["b"], hparams_seed=1)
    assert told(explain(tmp_path)) == [
        "missing: erm, test a, trial 0, draw 1",
        "missing: erm, test a, trials 1 2, draws 0 1 (4 runs)",
        "missing: erm, test b, trials 1 2, draw 1 (2 runs)",
        "missing: erm, test c_long_name, trials 0 1 2, draw 1 (3 runs)",
        "missing: vrex, test b, trial 0, draw 0",
    ]


def test_runs_that_did_not_finish_are_named_with_their_reason(tmp_path: Path) -> None:
    make_runs(tmp_path, skip=lambda *cell: cell[:2] == ("erm", "a"))
    for trial, status in enumerate(("failed", "interrupted", "diverged")):
        make_run(tmp_path, domains=DOMAINS, test=["a"], trial_seed=trial, status=status)
    (held,) = [run for run in record.runs(tmp_path).filter(status="interrupted")["path"]]
    assert told(explain(tmp_path)) == [
        "failed: erm, test a, trial 0, draw 0: ValueError: no.",
        "interrupted: erm, test a, trial 1, draw 0",
        "diverged: erm, test a, trial 2, draw 0",
    ]
    with RunFolder(held).lock.held():
        assert "running: erm, test a, trial 1, draw 0" in told(explain(tmp_path))
    # Runs of a protocol that uses them are there.
    make_runs(tmp_path / "two", skip=lambda *cell: cell == ("erm", "a", 0), use_unfinished=True)
    make_run(tmp_path / "two", domains=DOMAINS, status="failed", use_unfinished=True)
    assert told(explain(tmp_path / "two")) == []


def test_a_run_that_diverged_is_no_gap_beside_a_complete_one(tmp_path: Path) -> None:
    make_run(make_runs(tmp_path), domains=DOMAINS, status="diverged", hparams="other")
    assert explain(tmp_path).gaps == ()


def test_runs_on_named_training_domains_test_on_the_others_at_once(tmp_path: Path) -> None:
    def make(algorithm: str, trial: int, test: str) -> None:
        lines = [(0, {f"{split}/{name}": 0.5 for split in ("in", "out") for name in "abc"})]
        make_run(tmp_path, lines, train=["b"], test=list(test), trial_seed=trial, algorithm=algorithm)

    for algorithm, trial, test in (("erm", 0, "ac"), ("erm", 1, "a"), ("vrex", 0, "ac"), ("vrex", 2, "ac")):
        make(algorithm, trial, test)
    assert told(explain(tmp_path)) == [
        "missing: erm, test a+c, trial 2, draw 0",
        "missing: erm, test c, trial 1, draw 0",
        "missing: vrex, test a+c, trial 1, draw 0",
    ]


def test_pairs_are_missing_for_cross_validation_only(tmp_path: Path) -> None:
    for test in (["a"], ["b"], ["c"], ["a", "b"]):
        make_run(tmp_path, [(0, {f"in/{name}": 0.5 for name in test})], test=test)
    make_run(tmp_path, test=["a", "c"], status="failed")
    assert explain(tmp_path).gaps == ()
    assert told(explain(tmp_path, "domain_cross_validation")) == [
        "missing: erm, test b+c, trial 0, draw 0",
        "failed: erm, test a+c, trial 0, draw 0: ValueError: no.",
    ]


def test_many_gaps_are_counted_not_listed(tmp_path: Path) -> None:
    for number in range(15):
        make_runs(tmp_path, {(f"method{number:02}", test): (0.5, 0.5) for test in DOMAINS[:2]})
        make_runs(tmp_path, {(f"method{number:02}", "c_long_name"): (0.5,)})
    made = explain(tmp_path)
    said = str(made).splitlines()
    assert len(made.gaps) == 15
    assert said[0] == "toy: what is missing of what train_validation needs"
    assert said[1] == "  missing: method00, test c_long_name, trial 1, draw 0"
    assert len(said) == 1 + SHOWN + 1
    assert said[-1] == "And 3 more, of 3 runs."


def test_the_commands_make_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    at = make_grid(tmp_path / "runs", "plus90", "plus80", "minus90")
    gone = {label: path for label, path in at.items() if "vrex" in label and "minus90" in label}
    gone |= {label: path for label, path in at.items() if "erm" in label and "h2 t1" in label}
    for path in gone.values():
        shutil.rmtree(path)
    made = explain(tmp_path / "runs")
    assert told(made) == [
        "missing: erm, test minus90 plus80 plus90, trial 1 of data 0, draw 2 (3 runs)",
        "missing: vrex, test minus90, trials 0 1 of data 0, draws 0 to 3 (8 runs)",
    ]
    assert set().union(*map(made_by, made.gaps)) == {path.name for path in gone.values()}
    assert all(gap.command and " -m " in gap.command for gap in made.gaps)


def test_commands_make_failed_runs_and_pairs_again(tmp_path: Path) -> None:
    at = make_grid(tmp_path / "runs", "each,pairs", asked=["algorithm=erm", "dataset=digits_color"])
    (failed,) = [path for label, path in at.items() if "test plus90," in label]
    (gone,) = [path for label, path in at.items() if "plus90+minus90" in label or "minus90+plus90" in label]
    RunFolder(failed).write(status="failed", reason="ValueError: no.")
    shutil.rmtree(gone)
    made = explain(tmp_path / "runs", "domain_cross_validation")
    by_kind = {gap.kind: gap for gap in made.gaps}
    assert made_by(by_kind["failed"]) == {failed.name}
    assert "retry=true" in shlex.split(by_kind["failed"].command or "")
    assert by_kind["failed"].command in str(made)


def test_runs_that_do_not_say_how_they_were_made_have_no_command(tmp_path: Path) -> None:
    make_runs(tmp_path, skip=lambda *cell: cell == ("erm", "a", 1))
    assert "config" not in json.loads(next(tmp_path.glob("*/run.json")).read_text())
    assert explain(tmp_path).gaps[0].command is None


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No runs under .*Name the runs_dir of a sweep"):
        explain(tmp_path)
    with pytest.raises(UnknownName, match="'best' is not a known criterion"):
        explain(tmp_path, "best")
