"""Methods ranked over datasets: mean ranks, whether they differ, and how sure a rank is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


def mean_ranks(values: np.ndarray, lower_is_better: bool = False) -> np.ndarray:
    """Mean over datasets of each method's rank, 1 the best; equal values share the mean of their ranks.

    Source: J. Demšar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, section 3.2.2.

    Args:
        values: (N datasets, k methods).
        lower_is_better: what is best.

    Returns:
        (k,).

    Raises:
        ValueError: a value that is not finite.

    >>> mean_ranks(np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.6]]))
    array([1.25, 2.5 , 2.25])
    """
    x = _table(values)
    return stats.rankdata(x if lower_is_better else -x, axis=1).mean(axis=0)


def _table(values: np.ndarray) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"Values of shape {x.shape}, expected (datasets, methods). Give a row per dataset.")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"The value of method {column} on dataset {row} is {x[row, column]}, expected a number. Leave out methods "
            "that lack a dataset: ranks need all."
        )
    return x


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of the hypothesis that all methods are equal."""

    chi2: float
    """Friedman's statistic, without correction for ties."""
    chi2_tie_corrected: float
    p_chi2: float
    """Of the tie-corrected statistic, by chi squared with k-1 degrees of freedom."""
    f: float
    """Iman and Davenport's statistic, from `chi2`; infinite where all datasets rank alike."""
    p_f: float
    """By F with k-1 and (k-1)(N-1) degrees of freedom; never below `min_p`."""
    min_p: float
    """The probability that N datasets rank k equal methods all alike, (k!)^(1-N): no p can be smaller."""


def friedman(values: np.ndarray) -> Friedman:
    """Friedman's test over datasets, with Iman and Davenport's less conservative F.

    `chi2 = 12 N / (k (k+1)) (sum of squared mean ranks - k (k+1)^2 / 4)`, `F = (N-1) chi2 / (N (k-1) - chi2)`.

    Source: J. Demšar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, section 3.2.2;
    R. Iman, J. Davenport. Approximations of the critical region of the Friedman statistic. Communications in
    Statistics 9, 1980.

    Args:
        values: (N datasets, k methods).

    Raises:
        ValueError: fewer than two datasets or three methods, or a value that is not finite.
    """
    x = _table(values)
    N, k = x.shape
    if N < 2 or k < 3:
        raise ValueError(
            f"{N} datasets and {k} methods, expected at least 2 and 3. Of two methods, test their paired differences."
        )
    least = math.factorial(k) ** (1.0 - N)
    squares = float((mean_ranks(x) ** 2).sum())
    chi2 = max(0.0, 12 * N / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4))
    if (x == x[:, :1]).all():
        return Friedman(0.0, 0.0, 1.0, 0.0, 1.0, least)  # The correction for ties would be 0 / 0.
    corrected = stats.friedmanchisquare(*x.T)
    left = N * (k - 1) - chi2
    f = (N - 1) * chi2 / left if left > 1e-9 else math.inf
    p_f = max(float(stats.f.sf(f, k - 1, (k - 1) * (N - 1))), least)
    return Friedman(chi2, float(corrected.statistic), float(corrected.pvalue), f, p_f, least)


@functools.cache
def nemenyi_cd(num_methods: int, num_datasets: int, level: float = 0.05) -> float:
    """Critical difference of Nemenyi's test: mean ranks at least so far apart differ, all pairs tested.

    `q sqrt(k (k+1) / (6 N))`, with q the studentised range's quantile divided by the root of 2.

    Source: J. Demšar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, section 3.2.2.

    Args:
        num_methods: k, at least 2.
        num_datasets: N.
        level: the probability that any pair of equal methods is called different.

    Raises:
        ValueError: fewer than two methods, or no dataset.

    >>> round(nemenyi_cd(14, 7), 3)
    7.499
    """
    if num_methods < 2 or num_datasets < 1:
        raise ValueError(
            f"{num_methods} methods and {num_datasets} datasets, expected at least 2 and 1. Name more runs."
        )
    q = float(stats.studentized_range.ppf(1 - level, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_datasets))


def resample(values: np.ndarray, generator: np.random.Generator, num_draws: int) -> np.ndarray:
    """Means of bootstrap samples of trials, for several methods at once, paired where they have all trials.

    Of n trials n-1 are drawn, with replacement: then the means spread with the variance of a mean with divisor n-1,
    where n draws would spread by a factor (n-1)/n less, a third at three trials.

    Source: J. Rao, C. Wu. Resampling inference with complex survey data. Journal of the American Statistical
    Association 83, 1988, section 2.

    Args:
        values: (k methods, T trials), NaN where missing; at least two of each method.
        generator: of the draws.
        num_draws: S.

    Returns:
        (k, S).
    """
    shared = generator.random((num_draws, values.shape[1] - 1))  # (S, T-1)
    made = np.empty((len(values), num_draws))
    for place, row in enumerate(values):
        own = row[np.isfinite(row)]
        # Equal positions where nothing is missing: what a split does to all methods stays paired. Elsewhere it does
        # not, and ranks are less sure than they could be.
        made[place] = own[(shared[:, : len(own) - 1] * len(own)).astype(int)].mean(axis=1)
    return made


def rank_intervals(
    trials: np.ndarray, *, lower_is_better: bool = False, num_draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """95 % intervals of the methods' ranks by their mean over datasets, by a bootstrap of trials in each dataset.

    Source: R. Agarwal et al. Deep reinforcement learning at the edge of the statistical precipice. NeurIPS 2021,
    section 4.1; `resample` says how it draws.

    Args:
        trials: (k methods, N datasets, T trials), each the mean over test domains, NaN where missing. In a dataset,
            the same place is the same trial, or methods would not be paired; nor are they where some are missing.
        lower_is_better: what is best.
        num_draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        (k, 2), the lowest and the highest rank, 1 the best; NaN for methods with fewer than two trials on some
        dataset, which do not take part.
    """
    x = np.asarray(trials, float)
    has_all = (np.isfinite(x).sum(axis=2) >= 2).all(axis=1)
    generator = np.random.default_rng(seed)
    means = np.zeros((has_all.sum(), num_draws))
    for dataset in range(x.shape[1] if has_all.any() else 0):
        means += resample(x[has_all, dataset], generator, num_draws)
    return _intervals(means, has_all, lower_is_better)


def rank_intervals_from_errors(
    means: np.ndarray, errors: np.ndarray, *, lower_is_better: bool = False, num_draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """The same where only means and standard errors are known: independent normal means.

    Args:
        means: (k methods, N datasets), NaN where missing.
        errors: their standard errors, with divisor n-1: those printed with divisor n need a factor sqrt(n/(n-1)).
        lower_is_better: what is best.
        num_draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        (k, 2), the lowest and the highest rank, 1 the best; NaN for methods that lack a number, which do not take
        part.
    """
    m, s = np.asarray(means, float), np.asarray(errors, float)
    has_all = np.isfinite(m + s).all(axis=1)
    noise = np.random.default_rng(seed).standard_normal((num_draws, *m[has_all].shape))  # (S, k, N)
    return _intervals((m[has_all] + noise * s[has_all]).mean(axis=2).T, has_all, lower_is_better)


def _intervals(drawn: np.ndarray, has_all: np.ndarray, lower_is_better: bool) -> np.ndarray:
    """Intervals (k, 2) from the means of those methods that take part, (their number, S)."""
    made = np.full((len(has_all), 2), np.nan)
    if has_all.any():
        # Sums in another order must still tie.
        x = np.round(drawn if lower_is_better else -drawn, 12)
        ranks = stats.rankdata(x, method="min", axis=0)
        # A rank that was drawn, not one between two.
        made[has_all] = np.quantile(ranks, [0.025, 0.975], axis=1, method="inverted_cdf").T
    return made
