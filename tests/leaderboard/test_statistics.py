"""Paired differences over trials: the numbers by hand and by scipy, what is compared with what, what is said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from dgbench.leaderboard.statistics import holm, min_p, paired_differences
from dgbench.registry import UnknownName

FIVE = {
    "erm": (0.61, 0.58, 0.66, 0.63, 0.60),
    "near": (0.62, 0.57, 0.67, 0.62, 0.61),
    "far": (0.70, 0.66, 0.73, 0.74, 0.69),
}


def frame(numbers: dict[str, Any], domains: tuple[str, ...] = ("a",)) -> pl.DataFrame:
    """A method's number in a trial; on the domain at place k it is higher by k."""
    rows = [
        {"method": method, "trial": trial, "test_domain": domain, "value": None if value is None else value + place}
        for method, values in numbers.items()
        for trial, value in enumerate(values)
        for place, domain in enumerate(domains)
    ]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64})


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        # Four hypotheses: 4 * 0.005, 3 * 0.01, 2 * 0.03 and then not less than that.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.4, 0.9], [0.8, 0.9]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([], []),
    ],
)
def test_holm_is_as_by_hand(p: list[float], corrected: list[float]) -> None:
    assert holm(p) == pytest.approx(corrected)


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"p=1.2, expected between 0 and 1. Leave out hypotheses"):
        holm([0.1, 1.2])
    with pytest.raises(ValueError, match="p=nan, expected between 0 and 1"):
        holm([math.nan])


def test_differences_are_those_of_a_one_sample_test_on_the_differences() -> None:
    # Two domains a constant apart: the mean over them moves by it, the differences stay.
    made = {d.method: d for d in paired_differences(frame(FIVE, ("a", "b")), "erm")}
    assert list(made) == ["far", "near"]
    for method, found in made.items():
        d = np.subtract(FIVE[method], FIVE["erm"])
        se = d.std(ddof=1) / np.sqrt(5)
        low, high = stats.t.interval(0.95, 4, loc=d.mean(), scale=se)
        expected = (5, d.mean(), se, low, high, stats.ttest_1samp(d, 0).pvalue)
        got = (found.num_trials, found.mean, found.se, found.low, found.high, found.p)
        assert got == pytest.approx(expected, rel=1e-9)
        assert found.note is None
    # By hand: differences of near are 1, -1, 1, -1 and 1 hundredths, t = 0.2 / (sqrt(1.2) / sqrt(5)) = 0.408.
    assert made["near"].mean == pytest.approx(0.002)
    assert made["near"].p == pytest.approx(2 * stats.t.sf(1 / math.sqrt(6), 4))
    assert made["far"].holm_p == pytest.approx(2 * (made["far"].p or 0))
    assert made["near"].holm_p == made["near"].p
    assert (made["far"].verdict, made["near"].verdict) == ("differs", "not shown")


def test_the_replications_are_trials_and_not_domains() -> None:
    domains = tuple("abcdefgh")
    (few,), (many,) = (
        paired_differences(frame({name: FIVE[name] for name in ("erm", "far")}, names), "erm")
        for names in (domains[:1], domains)
    )
    assert (many.num_trials, many.p) == (5, pytest.approx(few.p))


def test_equal_columns_have_p_1_and_a_constant_difference_that_of_its_signs() -> None:
    made = paired_differences(frame({**FIVE, "same": FIVE["erm"], "shifted": [v + 0.25 for v in FIVE["erm"]]}), "erm")
    same, shifted = made[-2:]
    assert (same.mean, same.se, same.low, same.high, same.p, same.holm_p) == (0, 0, 0, 0, 1, 1)
    assert same.verdict == "not shown"
    assert shifted.mean == pytest.approx(0.25)
    assert shifted.p == min_p(5)
    assert shifted.note == "All its differences are equal: p is that of their signs."
    # Though these are equal but for their last digits.
    values = frame({"erm": (0.50, 0.52, 0.49), "far": (0.51, 0.53, 0.50)})
    (of_three,) = paired_differences(values, "erm")
    assert (of_three.p, of_three.verdict) == (min_p(3), "not shown")


def test_equal_numbers_in_another_order_of_domains_do_not_differ() -> None:
    values = frame({"erm": (0.1, 0.7), "same": (0.1, 0.7)}, ("a", "b", "c")).sample(fraction=1, shuffle=True, seed=3)
    assert [d.p for d in paired_differences(values, "erm")] == [1]


def test_methods_that_lack_a_trial_are_compared_on_the_common_ones() -> None:
    numbers = {**FIVE, "erm": (None, *FIVE["erm"][1:]), "near": (*FIVE["near"][:4], None)}
    far, near = paired_differences(frame(numbers), "erm")
    assert (far.num_trials, near.num_trials) == (4, 3)
    assert near.mean == pytest.approx(np.mean(np.subtract(FIVE["near"][1:4], FIVE["erm"][1:4])))
    assert near.note == "Compared on the 3 of 5 trials that both it and the baseline have in full."


def test_a_method_without_a_number_is_not_judged_by_its_other_trials() -> None:
    """They are those in which it did not; nor does another method's Holm count it."""
    numbers = {**FIVE, "near": (*FIVE["near"][:4], math.nan)}
    far, near = paired_differences(frame(numbers, ("a", "b")), "erm")
    assert (near.num_trials, near.mean, near.p, near.verdict) == (5, None, None, "not tested")
    assert near.note == "It, or the baseline, has no number in 1 of 5 trials (diverged): nothing is compared."
    assert far.holm_p == far.p is not None


def test_a_trial_that_lacks_a_domain_is_not_there() -> None:
    values = frame(FIVE, ("a", "b")).filter(
        ~((pl.col("method") == "near") & (pl.col("trial") == 2) & (pl.col("test_domain") == "b"))
    )
    assert [d.num_trials for d in paired_differences(values, "erm")] == [5, 4]


def test_too_few_trials_are_no_test() -> None:
    far, gone = paired_differences(frame({"erm": (0.5,), "far": (0.75,), "gone": (None,)}), "erm")
    assert (far.num_trials, far.mean, far.se, far.p, far.holm_p, far.verdict) == (
        1,
        0.25,
        None,
        None,
        None,
        "not tested",
    )
    assert far.note == "A test needs at least two trials."
    assert (gone.num_trials, gone.mean, gone.verdict) == (0, None, "not tested")
    (two,) = paired_differences(frame({"erm": (0.5, 0.6), "far": (0.75, 0.8)}), "erm")
    # One degree of freedom: t = 9, and Student's t is Cauchy's distribution.
    assert two.p == pytest.approx(1 - 2 / math.pi * math.atan(9))
    assert (two.verdict, two.p) == ("too few trials", two.holm_p)
    assert two.note == "Two trials leave one degree of freedom: the interval is ±12.7 standard errors."


def test_hypotheses_that_cannot_be_tested_do_not_count() -> None:
    far, _ = paired_differences(frame({"erm": FIVE["erm"], "far": FIVE["far"], "gone": (0.5, None)}), "erm")
    assert far.holm_p == far.p


def test_bad_values_are_sentences() -> None:
    with pytest.raises(UnknownName, match=r"'ermm' is not a known method \(baseline\). Did you mean 'erm'"):
        paired_differences(frame(FIVE), "ermm")
    twice = pl.concat([frame(FIVE), frame({"far": (0.5,)})])
    with pytest.raises(ValueError, match=r"2 values of far on a in trial 0, expected one\. Name runs of one sweep"):
        paired_differences(twice, "erm")
