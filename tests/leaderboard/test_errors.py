"""Errors, intervals and summaries, and differences stratified over datasets: by hand, by scipy, by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dgbench.leaderboard.statistics import (
    interquartile_mean,
    min_p,
    standard_error,
    stratified_difference,
    t_interval,
    worst,
)
from tests.leaderboard.domainbed_averages import TRAIN_VALIDATION, table

TWO = {
    "first": {"erm": {0: 0.5, 1: 0.6, 2: 0.7}, "far": {0: 0.6, 1: 0.8, 2: 0.73}},
    "second": {"erm": {0: 0.2, 1: 0.3, 2: 0.1, 3: 0.2}, "far": {0: 0.2, 1: 0.35, 2: 0.1, 3: 0.29}},
}


def test_the_standard_error_has_divisor_n_minus_1() -> None:
    # Deviations -1, 0, 0, 1: variance 2 / 3.
    assert standard_error([1, 2, 2, 3]) == pytest.approx(math.sqrt(2 / 3 / 4))
    values = np.random.default_rng(0).normal(size=9)
    assert standard_error(values) == pytest.approx(stats.sem(values))
    assert standard_error([3.0]) is None
    assert standard_error([]) is None


@pytest.mark.parametrize(("n", "reach"), [(3, 2.48), (5, 1.24), (10, 0.715)])
def test_intervals_reach_as_far_as_students_t_does(n: int, reach: float) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = t_interval(values) or (0, 0)
    assert (high - low) / 2 / values.std(ddof=1) == pytest.approx(reach, abs=0.005)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values)))
    assert t_interval(values, 0.5) == pytest.approx(stats.t.interval(0.5, n - 1, values.mean(), stats.sem(values)))
    assert t_interval(values[:1]) is None


@pytest.mark.parametrize("n", range(2, 11))
def test_no_test_by_signs_has_a_smaller_p(n: int) -> None:
    assert stats.wilcoxon(np.arange(1.0, n + 1)).pvalue == pytest.approx(min_p(n))
    assert min_p(0) == min_p(1) == 1


@pytest.mark.parametrize(("method", "num_unequal", "p"), [("CORAL", 5, 0.062), ("MTL", 7, 0.016), ("MMD", 5, 0.062)])
def test_seven_datasets_show_little_against_erm(method: str, num_unequal: int, p: float) -> None:
    names, means, _ = table(TRAIN_VALIDATION)
    d = np.round(means[names.index(method)] - means[names.index("ERM")], 6)
    d = d[d != 0]
    # All of one sign: nothing smaller was possible.
    assert (len(d), abs(np.sign(d).sum())) == (num_unequal, num_unequal)
    assert stats.wilcoxon(d, method="exact").pvalue == pytest.approx(min_p(num_unequal))
    assert min_p(num_unequal) == pytest.approx(p, abs=6e-4)


def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side() -> None:
    assert interquartile_mean([9, 1, 4, 2]) == 3
    # Of ten values, two on either side.
    assert interquartile_mean([100, 8, 7, 6, 5, 4, 3, 2, 1, -100]) == pytest.approx((7 + 6 + 5 + 4 + 3 + 2) / 6)
    assert interquartile_mean([1, 2, 9]) == 4
    values = np.random.default_rng(0).random((4, 8))
    assert interquartile_mean(values) == pytest.approx(np.sort(values.ravel())[8:24].mean())


def test_the_worst_depends_on_the_direction() -> None:
    assert worst([0.5, 0.2, 0.9]) == 0.2
    assert worst([0.5, 0.2, 0.9], lower_is_better=True) == 0.9
    assert math.isnan(worst([0.5, math.nan]))


def test_a_stratified_difference_counts_each_dataset_once() -> None:
    found = stratified_difference(TWO, "far", "erm")
    first, second = (0.1 + 0.2 + 0.03) / 3, (0 + 0.05 + 0 + 0.09) / 4
    assert (found.num_trials, found.fewest_trials) == (7, 3)
    assert found.mean == pytest.approx((first + second) / 2)


def test_its_interval_is_that_of_all_draws_there_are() -> None:
    found = stratified_difference(TWO, "far", "erm", num_draws=200_000)
    a, b = ([m["far"][t] - m["erm"][t] for t in m["erm"]] for m in TWO.values())
    # Two of three, and three of four, with replacement: 9 * 64 equally likely means.
    every = [
        (np.mean(x) + np.mean(y)) / 2 for x in itertools.product(a, repeat=2) for y in itertools.product(b, repeat=3)
    ]
    # The mean of two means is, halved, the difference of one from the other's negative: Welch's test.
    welch = stats.ttest_ind(a, np.negative(b), equal_var=False)
    reach = np.quantile(every, [0.025, 0.975]) - np.mean(every)
    widened = np.mean(every) + reach * stats.t.ppf(0.975, welch.df) / stats.norm.ppf(0.975)
    assert (found.low, found.high) == pytest.approx(widened, abs=4e-3)
    assert found.p == pytest.approx(welch.pvalue)


def test_it_depends_on_no_order_and_on_the_seed() -> None:
    turned = {name: {m: dict(reversed(t.items())) for m, t in of.items()} for name, of in reversed(TWO.items())}
    for n in (7, 2000):
        found = [stratified_difference(given, "far", "erm", num_draws=n) for given in (turned, TWO)]
        assert found[0] == found[1]
    few = [stratified_difference(TWO, "far", "erm", num_draws=7, seed=seed).low for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


def test_equal_methods_have_p_1() -> None:
    found = stratified_difference(TWO, "erm", "erm")
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_where_trials_are_missing_there_is_less_to_say() -> None:
    one = {**TWO, "second": {"erm": {0: 0.2, 1: 0.4}, "far": {1: 0.3, 2: 0.5}}}
    found = stratified_difference(one, "far", "erm")
    assert found.mean == pytest.approx((0.11 - 0.1) / 2)
    assert (found.num_trials, found.fewest_trials, found.low, found.high, found.p) == (4, 1, None, None, None)
    gone = {**TWO, "second": {"erm": {0: 0.2}, "far": {0: math.nan}}}
    found = stratified_difference(gone, "far", "erm")
    assert (found.num_trials, found.fewest_trials, found.mean, found.p) == (3, 0, None, None)
    assert stratified_difference(TWO, "unknown", "erm").mean is None
    assert stratified_difference({}, "far", "erm").mean is None


@pytest.mark.parametrize("spreads", [(1, 1, 1, 1), (1, 1, 2, 4), (1, 8)])
def test_intervals_cover_and_p_errs_about_as_often_as_they_say(spreads: tuple[float, ...]) -> None:
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((1000, len(spreads), 3)) * np.array(spreads)[:, None]
    covered, wrong = 0, 0
    for experiment in draws:
        runs = {
            str(n): {"erm": dict.fromkeys(range(3), 0.0), "far": dict(enumerate(d))} for n, d in enumerate(experiment)
        }
        found = stratified_difference(runs, "far", "erm", num_draws=300)
        covered += (found.low or 0) <= 0 <= (found.high or 0)
        wrong += (found.p or 0) < 0.05
    # As drawn, the intervals would cover 91, 87 and 79 %.
    assert 0.91 < covered / 1000 < 0.98
    assert 0.03 < wrong / 1000 < 0.08


def test_what_varies_nowhere_is_judged_by_its_signs() -> None:
    runs = {"one": {"erm": {0: 0.5, 1: 0.52, 2: 0.49}, "far": {0: 0.51, 1: 0.53, 2: 0.5}}}
    assert stratified_difference(runs, "far", "erm").p == min_p(3)
