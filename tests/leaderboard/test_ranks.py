"""Ranks over datasets: DomainBed's published averages, second computations, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dgbench.leaderboard.ranks import (
    friedman,
    mean_ranks,
    nemenyi_cd,
    rank_intervals,
    rank_intervals_from_errors,
    resample,
)
from tests.leaderboard.domainbed_averages import CROSS_VALIDATION, ORACLE, TRAIN_VALIDATION, table

# Critical values of the two-tailed Nemenyi test at 0.05, for 2 to 20 methods.
Q = [1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164, 3.219]
Q += [3.268, 3.313, 3.354, 3.391, 3.426, 3.458, 3.489, 3.517, 3.544]


@pytest.mark.parametrize(
    ("published", "chi2", "f", "ranks", "is_any_pair_apart"),
    [
        (TRAIN_VALIDATION, 26.441, 2.457, {"CORAL": 3.50, "SagNet": 3.64, "ERM": 6.14, "MMD": 10.43}, False),
        (CROSS_VALIDATION, 23.743, 2.118, {"CORAL": 3.00, "VREx": 11.07}, True),
        (ORACLE, 21.665, 1.875, {"CORAL": 3.86, "IRM": 12.00}, True),
    ],
)
def test_domainbeds_averages_give_the_known_statistics(published, chi2, f, ranks, is_any_pair_apart) -> None:
    names, means, _ = table(published)
    assert means.shape == (14, 7)
    found, test = mean_ranks(means.T), friedman(means.T)
    assert {name: round(found[names.index(name)], 2) for name in ranks} == ranks
    assert (test.chi2, test.f) == (pytest.approx(chi2, abs=5e-4), pytest.approx(f, abs=5e-4))
    assert (np.ptp(found) > nemenyi_cd(14, 7)) == is_any_pair_apart


def test_p_and_the_correction_for_ties_are_the_known_ones() -> None:
    test = friedman(table(TRAIN_VALIDATION)[1].T)
    assert test.p_f == pytest.approx(0.0075, abs=5e-5)
    assert test.chi2_tie_corrected == pytest.approx(27.113, abs=5e-4)
    assert test.p_chi2 == pytest.approx(0.0120, abs=5e-5)


def test_mean_ranks_are_as_counted() -> None:
    values = np.random.default_rng(0).integers(0, 5, (6, 4)).astype(float)
    counted = [
        np.mean(
            [
                1 + sum(other > row[k] for other in row) + (sum(other == row[k] for other in row) - 1) / 2
                for row in values
            ]
        )
        for k in range(4)
    ]
    assert mean_ranks(values) == pytest.approx(counted)
    assert mean_ranks(values, lower_is_better=True) == pytest.approx(5 - np.array(counted))


def test_f_is_that_of_an_analysis_of_variance_of_the_ranks() -> None:
    values = np.random.default_rng(1).random((8, 5))
    ranks = stats.rankdata(values, axis=1)
    between = 8 * ((ranks.mean(axis=0) - 3) ** 2).sum()
    left = ((ranks - 3) ** 2).sum() - between
    test = friedman(values)
    assert test.f == pytest.approx((between / 4) / (left / (4 * 7)))
    assert test.p_f == pytest.approx(stats.f.sf(test.f, 4, 28))
    # Without ties the correction changes nothing.
    assert test.chi2 == pytest.approx(test.chi2_tie_corrected)


def test_agreement_of_few_datasets_is_no_certainty() -> None:
    values = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    test = friedman(values)
    orders = list(itertools.product(itertools.permutations(range(3)), repeat=2))
    alike = sum(a == b for a, b in orders) / len(orders)
    assert (test.f, test.p_f, test.min_p) == (math.inf, pytest.approx(alike), pytest.approx(1 / 6))


def test_methods_that_are_equal_everywhere_do_not_differ() -> None:
    test = friedman(np.full((4, 3), 0.5))
    assert (test.chi2, test.p_chi2, test.f, test.p_f) == (0, 1, 0, 1)


def test_the_critical_difference_has_the_tables_quantiles() -> None:
    found = [nemenyi_cd(k, 10) / math.sqrt(k * (k + 1) / 60) for k in range(2, 21)]
    assert found == pytest.approx(Q, abs=6e-4)
    assert nemenyi_cd(14, 7) == pytest.approx(7.499, abs=5e-4)


def test_its_quantile_is_that_of_the_range_of_normal_numbers() -> None:
    drawn = np.ptp(np.random.default_rng(0).standard_normal((100_000, 5)), axis=1)
    assert nemenyi_cd(5, 5) == pytest.approx(np.quantile(drawn, 0.95) / math.sqrt(2), rel=0.01)


def test_rank_intervals_of_domainbeds_averages_are_the_known_ones() -> None:
    names, means, errors = table(TRAIN_VALIDATION)
    # Its errors have divisor n, of three trials.
    found = dict(zip(names, rank_intervals_from_errors(means, errors * math.sqrt(1.5)).tolist(), strict=True))
    known = {"CORAL": [1, 3], "SagNet": [1, 3], "Mixup": [2, 6], "MLDG": [2, 7], "ERM": [2, 9], "MTL": [4, 11]}
    assert {name: found[name] for name in known} == known
    assert found["MMD"] == [5, 14]


def test_of_n_trials_means_spread_with_divisor_n_minus_1() -> None:
    values = np.array([[0.1, 0.5, 0.3, 0.9], [0.2, 0.6, 0.4, 1.0], [0.3, math.nan, 0.7, 0.5]])
    drawn = resample(values, np.random.default_rng(0), 100_000)
    variances = [values[0].var(ddof=1) / 4, values[1].var(ddof=1) / 4, np.array([0.3, 0.7, 0.5]).var(ddof=1) / 3]
    assert drawn.var(axis=1) == pytest.approx(variances, rel=0.02)
    assert drawn.mean(axis=1) == pytest.approx([0.45, 0.55, 0.5], abs=0.005)
    # The same trials for both: a constant difference stays constant.
    assert np.ptp(drawn[1] - drawn[0]) < 1e-12


def test_rank_intervals_by_trials_agree_with_those_by_errors() -> None:
    generator = np.random.default_rng(0)
    trials = generator.normal(np.array([0.50, 0.51, 0.52, 0.60])[:, None, None], 0.03, (4, 3, 40))
    found = rank_intervals(trials)
    assert (
        found.tolist() == rank_intervals_from_errors(trials.mean(axis=2), trials.std(axis=2, ddof=1) / 40**0.5).tolist()
    )
    assert found[3].tolist() == [1, 1]
    assert found[0, 1] > found[0, 0]
    reverse = rank_intervals(-trials, lower_is_better=True)
    assert reverse.tolist() == found.tolist()


def test_what_a_split_does_to_all_methods_does_not_blur_their_ranks() -> None:
    split = np.random.default_rng(0).normal(0, 1, (1, 2, 5))
    trials = np.array([0.0, 0.1, 0.2])[:, None, None] + split
    assert rank_intervals(trials).tolist() == [[3, 3], [2, 2], [1, 1]]
    # Three equal methods share the first place.
    assert rank_intervals(np.repeat(split, 3, axis=0)).tolist() == [[1, 1]] * 3


def test_methods_without_two_trials_everywhere_have_no_rank() -> None:
    trials = np.random.default_rng(0).normal(0, 1, (3, 2, 4)) + np.array([0, 100, 200])[:, None, None]
    trials[2, 1, 1:] = math.nan
    trials[0, 0, 2] = math.nan
    found = rank_intervals(trials)
    assert found[:2].tolist() == [[2, 2], [1, 1]]
    assert np.isnan(found[2]).all()
    assert np.isnan(rank_intervals(trials[:, :, :1])).all()
    without = rank_intervals_from_errors(np.array([[1.0], [math.nan], [3.0]]), np.full((3, 1), 0.1))
    assert without[[0, 2]].tolist() == [[2, 2], [1, 1]]
    assert np.isnan(without[1]).all()


def test_what_has_no_ranks_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"Values of shape \(3,\), expected \(datasets, methods\). Give a row"):
        mean_ranks(np.ones(3))
    with pytest.raises(ValueError, match=r"The value of method 1 on dataset 0 is nan, expected a number. Leave out"):
        friedman(np.array([[1.0, math.nan, 2.0], [1.0, 2.0, 3.0]]))
    with pytest.raises(ValueError, match=r"3 datasets and 2 methods, expected at least 2 and 3. Of two methods"):
        friedman(np.arange(6.0).reshape(3, 2))
    with pytest.raises(ValueError, match=r"1 methods and 4 datasets, expected at least 2 and 1. Name more runs"):
        nemenyi_cd(1, 4)
