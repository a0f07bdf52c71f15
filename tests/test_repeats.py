"""Records taken to the letter or not: scores that differ in the last bit, steps that were recorded twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgbench import record
from dgbench.selection import criteria, selection
from tests.fabricate import make_run, make_scores

DOMAINS = ("a", "b", "c", "d")
# Their sums are equal, and as floats not: numpy adds the first up to the larger one.
HIGH, LOW = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)


def chosen(runs_dir: Path, criterion: str) -> list[tuple[int, int, float]]:
    made = selection(criterion).choose(record.read(runs_dir))
    return made.select("hparams_seed", "step", "value").rows()


def scores(held_out: tuple[float, float, float], value: float) -> dict[str, float]:
    return {"in/a": value, "out/a": 0.5, **{f"out/{name}": one for name, one in zip("bcd", held_out, strict=True)}}


@pytest.mark.parametrize(("literal", "expected"), [(True, (0, 0, 0.7)), (False, (1, 0, 0.6))])
def test_to_the_letter_a_tie_is_equal_to_the_last_bit(literal, expected, tmp_path) -> None:
    assert np.mean(HIGH) > np.mean(LOW)
    for draw, (held_out, value) in enumerate(((HIGH, 0.7), (LOW, 0.6))):
        lines = [(0, scores(held_out, value)), (9, scores(LOW, 0.1))]
        make_run(tmp_path / "single", lines, domains=DOMAINS, hparams_seed=draw, literal=literal)
        make_run(tmp_path / "pairs", [(0, {"in/a": value})], domains=DOMAINS, hparams_seed=draw, literal=literal)
        for name, one in zip("bcd", held_out, strict=True):
            of = {"domains": DOMAINS, "test": ["a", name], "hparams_seed": draw, "literal": literal}
            make_run(tmp_path / "pairs", [(0, {"in/a": 0.5, f"in/{name}": one})], **of)
    assert chosen(tmp_path / "single", "train_validation") == [expected]
    assert chosen(tmp_path / "pairs", "domain_cross_validation") == [expected]


# The better record of step 100 is the earlier one; that of step 0 comes after it.
TWICE = [
    (100, make_scores("a", 0.9, 0.9, oracle=0.9)),
    (0, make_scores("a", 0.8, 0.9, oracle=0.8)),
    (100, make_scores("a", 0.2, 0.1, oracle=0.2)),
]


@pytest.mark.parametrize(
    ("criterion", "to_the_letter", "otherwise"),
    [
        ("train_validation", (0, 100, 0.9), (0, 0, 0.8)),
        ("oracle_best", (0, 100, 0.9), (0, 0, 0.8)),
        ("oracle", (0, 100, 0.2), (0, 100, 0.2)),
        ("last_step", (0, 100, 0.2), (0, 100, 0.2)),
        ("domain_cross_validation", (0, 0, 0.8), (0, 100, 0.2)),
    ],
)
def test_a_step_recorded_twice(criterion, to_the_letter, otherwise, tmp_path) -> None:
    for literal, expected in ((True, to_the_letter), (False, otherwise)):
        runs_dir = tmp_path / str(literal)
        make_run(runs_dir, TWICE, literal=literal)
        for name in "bc":
            # Of the pairs' step 0 the later record counts, be it the worse.
            pair = [(step, {"in/a": 0.5, f"in/{name}": one}) for step, one in ((0, 0.9), (100, 0.8), (0, 0.6))]
            make_run(runs_dir, pair, test=["a", name], num_steps=101, literal=literal)
        assert chosen(runs_dir, criterion) == [expected]


def test_every_criterion_was_looked_at() -> None:
    asked = {"train_validation", "oracle_best", "oracle", "last_step", "domain_cross_validation"}
    assert set(criteria()) == asked
