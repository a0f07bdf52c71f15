from __future__ import annotations

import json
import math
import random
from pathlib import Path

import polars as pl
import pytest

from dgbench import record
from dgbench.cells import CELL, coverage
from dgbench.record import RunFolder
from dgbench.registry import UnknownName
from dgbench.selection import selection
from tests.fabricate import add_lines, make_run, make_scores

DATASETS = {"toy": ("accuracy", ("a", "b", "c", "d")), "line": ("rmse", ("x", "y", "z"))}
STATUSES = ["complete"] * 6 + ["diverged", "failed", "interrupted", "running"]


def choose(runs_dir: Path, criterion: str = "train_validation", metric: str | None = None) -> dict:
    """The only cell that there is."""
    chosen = selection(criterion).choose(record.read(runs_dir), metric)
    assert len(chosen) == 1
    return chosen.row(0, named=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with ties, holes, NaN and all statuses."""
    runs_dir = tmp_path_factory.mktemp("runs")
    draw = random.Random(0)

    def scores(keys: list[str]) -> dict[str, float]:
        # A coarse grid, so that means tie; thirds, so that they tie in no exact way.
        return {key: math.nan if draw.random() < 0.04 else draw.randrange(4) / 3 for key in keys}

    for dataset, (score, domains) in DATASETS.items():
        for algorithm, averaging in (("erm", "none"), ("vrex", "none"), ("sam", "ema")):
            for test in [*([name] for name in domains), list(domains[:2])]:
                for trial in range(3):
                    for seed in range(4):
                        if draw.random() < 0.3:
                            continue
                        keys = [f"out/{name}" for name in domains] + [f"in/{name}" for name in test]
                        run_id = make_run(
                            runs_dir,
                            [(step, scores(keys)) for step in (0, 100, 200)],
                            domains=domains,
                            test=test,
                            status=draw.choice(STATUSES),
                            dataset=dataset,
                            score=score,
                            algorithm=algorithm,
                            averaging=averaging,
                            hparams_seed=seed,
                            trial_seed=trial,
                        )
                        if averaging != "none":
                            lines = [(step, scores(keys)) for step in (100, 200)]
                            add_lines(RunFolder(runs_dir / run_id), lines, score, averaging)
    return runs_dir


def naively(runs_dir: Path, criterion: str) -> dict[tuple, tuple]:
    """The rules once more, one run after the other."""
    best: dict[tuple, tuple] = {}
    for folder in sorted(runs_dir.iterdir()):
        said = json.loads((folder / "run.json").read_text())
        columns, status = said["columns"], said["status"]
        test = columns["test_domains"].split()
        if status not in ("complete", "diverged") or len(test) > 1:
            continue
        weights = "last" if columns["averaging"] == "none" else columns["averaging"]
        lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        lines = [line for line in lines if line["weights"] == weights]
        names = [f"out/{name}" for name in columns["train_domains"].split()]
        if criterion != "train_validation":
            names = [f"out/{test[0]}"]
        winner: tuple | None = None
        for line in lines[-1:] if criterion == "oracle" else lines:
            values = [line["values"][f"{name}/{columns['score']}"] for name in names]
            if None in values:
                value = -math.inf
            else:
                value = float(f"{math.fsum(values) / len(values):.12g}")
                value = -value if columns["score"] == "rmse" else value
            if winner is None or value > winner[0]:
                winner = value, line["step"], line["values"][f"in/{test[0]}/{columns['score']}"]
        assert winner is not None
        cell = (columns["dataset"], columns["algorithm"], test[0], columns["trial_seed"])
        rank = (status == "complete", winner[0], columns["hparams_seed"])
        if cell not in best or rank > best[cell][0]:
            best[cell] = rank, said["run_id"], winner[1], winner[2]
    return {cell: found[1:] for cell, found in best.items()}


@pytest.mark.parametrize("criterion", ["train_validation", "oracle", "oracle_best"])
def test_choice_is_that_of_the_rules_applied_run_by_run(many: Path, criterion: str) -> None:
    chosen = selection(criterion).choose(record.read(many))
    found = {
        (row["dataset"], row["algorithm"], row["test_domain"], row["trial_seed"]): (
            row["run_id"],
            row["step"],
            None if math.isnan(row["value"]) else row["value"],
        )
        for row in chosen.iter_rows(named=True)
    }
    assert found == naively(many, criterion)
    assert len(found) > 50
    assert chosen["n"].unique().to_list() == [100]


def test_order_of_the_rows_does_not_matter(many: Path) -> None:
    rows = record.read(many)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    chooser = selection("train_validation")
    assert chooser.choose(rows).equals(chooser.choose(shuffled))


def test_coverage_counts_every_cell(many: Path) -> None:
    covered = coverage(record.runs(many))
    assert len(covered) == 3 * 3 * (4 + 3)
    for row in covered.iter_rows(named=True):
        statuses = [
            said["status"]
            for folder in many.iterdir()
            for said in [json.loads((folder / "run.json").read_text())]
            if all(said["columns"][key] == row[key] for key in ("dataset", "algorithm", "trial_seed"))
            and said["columns"]["test_domains"] == row["test_domain"]
        ]
        for name in ("complete", "diverged", "failed"):
            assert row[name] == statuses.count(name)
        assert row["unfinished"] == statuses.count("running") + statuses.count("interrupted")
        assert row["is_missing"] == (not {"complete", "diverged"} & set(statuses))


def test_first_step_and_largest_hparams_seed_win_ties(tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        lines = [(step, make_scores("a", seed + step / 1000)) for step in (0, 100)]
        make_run(tmp_path, lines, hparams_seed=seed)
    row = choose(tmp_path)
    assert (row["hparams_seed"], row["step"], row["value"]) == (2, 0, 2.0)


def test_sums_that_differ_by_rounding_tie(tmp_path: Path) -> None:
    assert (0.1 + 0.2 + 0.3) / 3 > (0.3 + 0.2 + 0.1) / 3
    first = {"out/b": 0.3, "out/c": 0.2, "out/d": 0.1, "in/a": 1.0}
    second = {"out/b": 0.1, "out/c": 0.2, "out/d": 0.3, "in/a": 0.0}
    make_run(tmp_path, [(0, first), (100, second)], domains=("a", "b", "c", "d"))
    assert choose(tmp_path)["step"] == 0


def test_nan_loses_against_any_number(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, make_scores("a", 0.9, math.nan)), (100, make_scores("a", 0.1, 0.0))])
    make_run(tmp_path, [(0, make_scores("a", 0.8, math.nan))], hparams_seed=1)
    assert choose(tmp_path)["value"] == 0.1


def test_a_cell_of_nan_alone_still_has_a_choice(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, make_scores("a", 0.9, math.nan)), (100, make_scores("a", 0.1, math.nan))])
    row = choose(tmp_path)
    assert row["value"] == 0.9
    assert math.isnan(row["selection_value"])


def test_diverged_runs_come_last(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, make_scores("a", 0.9, 0.9))], status="diverged", hparams_seed=1)
    assert choose(tmp_path)["status"] == "diverged"
    make_run(tmp_path, [(0, make_scores("a", 0.1, math.nan))], hparams_seed=0)
    assert (choose(tmp_path)["status"], choose(tmp_path)["value"]) == ("complete", 0.1)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_unfinished_runs_are_never_chosen(tmp_path: Path, status: str) -> None:
    make_run(tmp_path, [(0, make_scores("a", 0.9, 0.9))], status=status, hparams_seed=1)
    assert selection("oracle").choose(record.read(tmp_path)).is_empty()
    make_run(tmp_path, [(0, make_scores("a", 0.1, 0.1))])
    assert choose(tmp_path)["value"] == 0.1


def test_oracle_sees_the_last_step_and_oracle_best_all(tmp_path: Path) -> None:
    lines = [(0, make_scores("a", 0.7, oracle=0.9)), (100, make_scores("a", 0.2, oracle=0.4))]
    make_run(tmp_path, lines)
    assert choose(tmp_path, "oracle")["value"] == 0.2
    assert choose(tmp_path, "oracle_best")["value"] == 0.7


def test_validation_domains_come_before_training_domains(tmp_path: Path) -> None:
    lines = [
        (0, {"out/c": 0.9, "in/b": 0.1, "in/a": 0.3, "out/a": 0.5}),
        (100, {"out/c": 0.1, "in/b": 0.9, "in/a": 0.4, "out/a": 0.5}),
    ]
    make_run(tmp_path, lines, val=["b"])
    row = choose(tmp_path)
    assert (row["value"], row["selection_value"], row["trained_on"]) == (0.4, 0.9, "all other domains")


def test_official_splits_come_before_random_ones(tmp_path: Path) -> None:
    official = [
        (0, {"out/b": 0.9, "out/c": 0.9, "val/b": 0.1, "val/c": 0.1, "in/a": 0.3, "test/a": 0.5}),
        (100, {"out/b": 0.1, "out/c": 0.1, "val/b": 0.8, "val/c": 0.9, "in/a": 0.4, "test/a": 0.6}),
    ]
    make_run(tmp_path, official)
    row = choose(tmp_path)
    assert (row["split"], row["value"], row["selection_value"]) == ("test", 0.6, 0.85)


def test_a_step_without_all_domains_does_not_compete(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, {"out/b": 0.9, "in/a": 0.1}), (100, make_scores("a", 0.4, 0.2))])
    assert choose(tmp_path)["step"] == 100


def test_rmse_is_minimised(tmp_path: Path) -> None:
    lines = [(0, make_scores("a", 3.0, 2.0)), (100, make_scores("a", 4.0, 1.0))]
    make_run(tmp_path, lines, score="rmse")
    assert (choose(tmp_path)["value"], choose(tmp_path)["selection_value"]) == (4.0, -1.0)


def test_another_metric_is_reported_of_the_same_choice(tmp_path: Path) -> None:
    lines = [(0, make_scores("a", 0.25, 0.9)), (100, make_scores("a", 0.75, 0.1))]
    run_id = make_run(tmp_path, lines)
    row = choose(tmp_path, metric="nll")
    assert (row["run_id"], row["step"], row["value"], row["selection_value"]) == (run_id, 0, 0.75, 0.9)


def test_cells_differ_by_what_was_trained_on(tmp_path: Path) -> None:
    for train in (["b", "c"], ["b"], ["c"]):
        make_run(tmp_path, [(0, make_scores("a", 0.5))], train=train)
    chosen = selection("train_validation").choose(record.read(tmp_path))
    assert chosen["trained_on"].to_list() == ["all other domains", "b", "c"]
    covered = coverage(record.runs(tmp_path)).filter(trained_on="b")
    assert covered["test_domain"].to_list() == ["a"]


def test_a_run_in_two_folders_counts_once(tmp_path: Path) -> None:
    for name, status in (("one", "interrupted"), ("two", "complete"), ("three", "complete")):
        make_run(tmp_path / name, [(0, make_scores("a", 0.5))], status=status)
    runs = record.runs([tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    assert runs["path"].to_list() == [str(tmp_path / "two" / runs["run_id"].item())]
    assert len(record.read(runs)) == len(record.read(tmp_path / "two")) == 8


def test_read_keeps_the_metrics_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path, [(0, make_scores("a", math.nan))])
    rows = record.read(tmp_path, ["nll"])
    assert rows["metric"].unique().to_list() == ["nll"]
    assert rows.filter(split="in")["value"].is_nan().all()
    assert rows.equals(record.read(tmp_path).filter(metric="nll"))
    assert record.read(tmp_path, []).schema == rows.schema


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, test=["a", "b"])
    assert selection("oracle").choose(record.read(tmp_path)).is_empty()
    assert coverage(record.runs(tmp_path)).columns[: len(CELL)] == list(CELL)
    assert isinstance(coverage(record.runs(tmp_path)), pl.DataFrame)


def test_unknown_criterion_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"'oracel' is not a known criterion\. Did you mean 'oracle'"):
        selection("oracel")
