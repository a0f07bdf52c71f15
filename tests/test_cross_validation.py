"""Leave-one-domain-out cross-validation: its arithmetic, and what is said where a run is missing."""

from __future__ import annotations

import itertools
import json
import random
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench import record
from dgbench.cells import missing_pairs
from dgbench.composition import compose
from dgbench.config import resolve
from dgbench.runner import execute
from dgbench.selection import selection
from tests.fabricate import make_run

DOMAINS = ("a", "b", "c", "d")
STEPS = (0, 100, 200)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All single and pair runs of two methods, three draws and two trials, with holes."""
    runs_dir, rng = tmp_path_factory.mktemp("runs"), random.Random(3)
    tests = [(name,) for name in DOMAINS] + list(itertools.combinations(DOMAINS, 2))
    for algorithm, trial, draw, test in itertools.product(("erm", "irm"), range(2), range(3), tests):
        if rng.random() < 0.03:
            continue
        scores = {f"{split}/{name}": rng.randrange(4) / 3 for split in ("in", "out") for name in DOMAINS}
        kept = {key: v for key, v in scores.items() if key.startswith("out") or key[3:] in test}
        steps = [step for step in STEPS if rng.random() > 0.05]
        lines = [(step, {key: (value + step / 500) % 1 for key, value in kept.items()}) for step in steps]
        columns: dict[str, Any] = {"algorithm": algorithm, "trial_seed": trial, "hparams_seed": draw, "num_steps": 201}
        make_run(runs_dir, lines, domains=DOMAINS, test=test, **columns)
    return runs_dir


def naively(runs_dir: Path) -> dict[tuple[str, str, int], tuple[int, int, float]]:
    """The rules, transcribed with loops: (method, domain, trial) to (draw, step, value)."""
    accuracy: dict[tuple, dict[int, dict[str, float]]] = {}
    for folder in runs_dir.iterdir():
        columns = json.loads((folder / "run.json").read_text())["columns"]
        key = (columns["algorithm"], columns["trial_seed"], columns["hparams_seed"], columns["test_domains"])
        lines = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
        accuracy[key] = {line["step"]: line["values"] for line in lines}
    best = {}
    for algorithm, trial, test in itertools.product(("erm", "irm"), range(2), DOMAINS):
        found = []
        for draw in range(3):
            own = accuracy.get((algorithm, trial, draw, test), {})
            scores = []
            for step in own:
                left_out = []
                for other in set(DOMAINS) - {test}:
                    pair = " ".join(sorted((test, other)))
                    line = accuracy.get((algorithm, trial, draw, pair), {}).get(step)
                    if line is not None:
                        left_out.append(line[f"in/{other}/accuracy"])
                if len(left_out) == len(DOMAINS) - 1:
                    scores.append((float(f"{sum(left_out) / 3:.12g}"), -step))
            if scores:
                value, negative = max(scores)
                found.append((value, draw, -negative, own[-negative][f"in/{test}/accuracy"]))
        if found:
            best[algorithm, test, trial] = max(found, key=lambda one: one[:2])[1:]
    return best


def test_the_choice_is_that_of_the_rules_applied_run_by_run(sweep: Path) -> None:
    chosen = selection("domain_cross_validation").choose(record.read(sweep))
    found = {
        (row["algorithm"], row["test_domain"], row["trial_seed"]): (row["hparams_seed"], row["step"], row["value"])
        for row in chosen.iter_rows(named=True)
    }
    assert found == naively(sweep)
    assert 10 < len(found) <= 16


def test_pairs_need_the_same_hyper_parameters_trial_and_data(tmp_path: Path) -> None:
    def single_and_pairs(**odd):
        make_run(tmp_path, [(0, {"in/a": 0.4})], test=["a"], num_steps=1)
        make_run(tmp_path, [(0, {"in/a": 0.1, "in/b": 0.9})], test=["a", "b"], num_steps=1)
        make_run(tmp_path, [(0, {"in/a": 0.1, "in/c": 0.7})], test=["a", "c"], num_steps=1, **odd)
        return selection("domain_cross_validation").choose(record.read(tmp_path))

    for odd in ({"hparams": "other"}, {"trial_seed": 1}, {"data": "other"}, {"data_seed": 1}, {"label": "mine"}):
        assert single_and_pairs(**odd).is_empty()
    (row,) = single_and_pairs().iter_rows(named=True)
    assert (row["test_domain"], row["value"], row["selection_value"]) == ("a", 0.4, 0.8)


def test_missing_pairs_are_named_once_for_both_of_their_domains(tmp_path: Path) -> None:
    for test in (["a"], ["b"], ["c"], ["a", "b"], ["a", "c"]):
        make_run(tmp_path, [(0, {f"in/{name}": 0.5 for name in test})], test=test, num_steps=1)
    (row,) = missing_pairs(record.runs(tmp_path)).iter_rows(named=True)
    assert {row["test_domain"], row["domain"]} == {"b", "c"}
    said = " ".join(str(dgbench.table(tmp_path, "domain_cross_validation")).split())
    assert "Missing: erm on toy, test b+c, h0 t0" in said


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over digits_color that asks for the criterion."""
    runs_dir = tmp_path_factory.mktemp("real")
    dgbench.sweep(
        algorithm=["erm", "vrex"],
        dataset="digits_color",
        test_domains="each",
        criteria=["domain_cross_validation"],
        hparams_seed=[0, 1],
        optim={"batch_size": 8},
        protocol={"num_steps": 6, "evaluate_every": 3},
        network={"width": 4},
        runs_dir=str(runs_dir),
    )
    return runs_dir


def test_a_real_sweep_with_pairs_is_selected(real: Path) -> None:
    runs = record.runs(real)
    assert len(runs) == 2 * 2 * (3 + 3)
    chosen = selection("domain_cross_validation").choose(record.read(real))
    assert len(chosen) == 2 * 3
    assert missing_pairs(runs).is_empty()
    assert "Missing" not in str(dgbench.table(real, "domain_cross_validation"))
    assert set(record.read(real)["split"]) == {"in"}  # nothing else was evaluated


def test_without_one_pair_the_table_names_it_and_the_command_makes_it(real: Path) -> None:
    runs = record.runs(real).filter(algorithm="vrex", test_domains="plus90 minus90", hparams_seed=1)
    (path,) = map(Path, runs["path"])
    before = (path / "evaluations.jsonl").read_text()
    path.rename(aside := path.parent.parent / "aside")
    try:
        said = " ".join(str(dgbench.table(real, "domain_cross_validation")).split())
        assert "Missing: vrex on digits_color, test minus90+plus90, h1 t0: dgbench train" in said
        overrides = shlex.split(said.split("h1 t0: dgbench train ")[1])
        assert execute(resolve(compose(overrides))).folder == path
        assert (path / "evaluations.jsonl").read_text() == before
    finally:
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
