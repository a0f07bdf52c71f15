"""Whether methods differ, and how sure that is: errors, intervals and tests.

The unit of replication is the trial: within it all methods see the same split of the data. Its value is the mean over
the test domains, which are no replications of each other: they share training data.
What ranks methods over datasets is in `ranks`, and to be had here too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy import stats

from dgbench.registry import UnknownName

from . import ranks
from .ranks import Friedman, friedman, mean_ranks, nemenyi_cd, rank_intervals, rank_intervals_from_errors  # noqa: F401
from .trials import trial_means

LEVEL = 0.05
# Of fewer trials nothing is claimed, however small p is.
MIN_TRIALS = 3


def is_shown(holm_p: float | None, fewest_trials: int) -> bool:
    """Whether a difference is claimed.

    Args:
        holm_p: after Holm's correction; None: not tested.
        fewest_trials: that it rests on, in any dataset.
    """
    return holm_p is not None and holm_p < LEVEL and fewest_trials >= MIN_TRIALS


def standard_error(values: ArrayLike) -> float | None:
    """Standard error of the mean of independent values (n,), with divisor n-1; None for fewer than two.

    >>> standard_error([1.0, 2.0, 3.0])
    0.5773502691896258
    """
    x = np.asarray(values, float)
    return float(x.std(ddof=1) / math.sqrt(x.size)) if x.size > 1 else None


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of independent normal values (n,), by Student's t; None for fewer than two.

    Args:
        values: in any unit, which the interval has too.
        level: the share of such experiments in which it covers the true mean.
    """
    x = np.asarray(values, float)
    if (se := standard_error(x)) is None:
        return None
    reach = float(stats.t.ppf((1 + level) / 2, x.size - 1)) * se
    return float(x.mean()) - reach, float(x.mean()) + reach


def min_p(num_pairs: int) -> float:
    """Smallest two-sided p that signs of paired differences can give: 2 / 2^n.

    It bounds Wilcoxon's signed-rank test and the sign-flip test, and so what n pairs can show without the assumption
    that differences are normal.

    >>> min_p(3), min_p(6)
    (0.25, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - num_pairs))


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of what is left without the lowest and the highest quarter of some values of any shape.

    Of n values, floor(n / 4) are left out on either side.

    Source: R. Agarwal et al. Deep reinforcement learning at the edge of the statistical precipice. NeurIPS 2021,
    section 4.3.
    """
    return float(stats.trim_mean(np.asarray(values, float), 0.25, axis=None))


def worst(values: ArrayLike, lower_is_better: bool = False) -> float:
    """The worst of some values, of test domains say; NaN if one is."""
    x = np.asarray(values, float)
    return float(x.max() if lower_is_better else x.min())


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, over the trials that both have."""

    method: str
    num_trials: int
    mean: float | None
    """In the units of the values; None without a common trial, or where one is no number."""
    se: float | None = None
    """Standard error of the mean (n-1); None for fewer than two trials, as are the interval and p."""
    low: float | None = None
    """Of the interval that covers the true difference in 95 % of such experiments, by Student's t."""
    high: float | None = None
    p: float | None = None
    """Of the paired, two-sided t test; of the signs where all differences are equal."""
    holm_p: float | None = None
    """Corrected for the number of methods."""
    note: str | None = None
    """What a reader must know, a sentence."""

    @property
    def verdict(self) -> str:
        """What follows at the level of 5 %, after Holm's correction."""
        if self.holm_p is None:
            return "not tested"
        if self.num_trials < MIN_TRIALS:
            return "too few trials"
        return "differs" if is_shown(self.holm_p, self.num_trials) else "not shown"


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: p values that may each be compared with the level, though there are several.

    Source: S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6,
    1979.

    Args:
        p: one per hypothesis, in any order.

    Raises:
        ValueError: a number that is no probability.

    >>> holm([0.25, 0.0625, 0.03125])
    [0.25, 0.125, 0.09375]
    """
    for value in p:
        if not 0 <= value <= 1:
            raise ValueError(f"p={value}, expected between 0 and 1. Leave out hypotheses that were not tested.")
    order = sorted(range(len(p)), key=lambda place: p[place])
    corrected, largest = [0.0] * len(p), 0.0
    for done, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - done) * p[place]))
        corrected[place] = largest
    return corrected


def paired_differences(values: pl.DataFrame, baseline: str) -> list[Difference]:
    """Each method's differences from a baseline over common trials, in order of the methods' names.

    A trial in which a method lacks one of the test domains is none of that method's. One in which it has no number,
    as a regression that diverged, is, and then nothing is compared: the other trials are those in which it did not.

    Args:
        values: columns method, trial, test_domain and value, one row per number; null is missing, NaN no number.
        baseline: a method.

    Raises:
        UnknownName: no such method.
        ValueError: two numbers for one place.
    """
    by_method = trial_means(values)
    if baseline not in by_method:
        raise UnknownName("method (baseline)", baseline, by_method)
    num_trials = values["trial"].n_unique()
    base = by_method.pop(baseline)
    made = [_difference(method, trials, base, num_trials) for method, trials in by_method.items()]
    tested = [place for place, difference in enumerate(made) if difference.p is not None]
    for place, corrected in zip(tested, holm([made[place].p or 0.0 for place in tested]), strict=True):
        made[place] = replace(made[place], holm_p=corrected)
    return made


def _difference(method: str, own: dict[Hashable, float], base: dict[Hashable, float], num_trials: int) -> Difference:
    common = [trial for trial in own if trial in base]
    n = len(common)
    a, b = (np.array([side[trial] for trial in common]) for side in (own, base))
    said = []
    if n < num_trials:
        said.append(f"Compared on the {n} of {num_trials} trials that both it and the baseline have in full.")
    lost = int((~np.isfinite(a - b)).sum())
    if lost:
        said.append(f"It, or the baseline, has no number in {lost} of {n} trials (diverged): nothing is compared.")
        return Difference(method, n, None, note=" ".join(said))
    if n < 2:
        said.append("A test needs at least two trials.")
        return Difference(method, n, float((a - b)[0]) if n else None, note=" ".join(said))
    if n == 2:
        said.append("Two trials leave one degree of freedom: the interval is ±12.7 standard errors.")
    d = a - b
    p = _t_test(float(d.mean()), d.var(ddof=1) / n, n - 1)
    if p is None:
        p = 1.0 if np.isclose(d, 0).all() else min_p(n)
        if n > 2:
            said.append("All its differences are equal: p is that of their signs.")
    low, high = t_interval(d, 1 - LEVEL) or (None, None)
    return Difference(method, n, float(d.mean()), standard_error(d), low, high, p, note=" ".join(said) or None)


def _t_test(mean: float, variance: float, df: float) -> float | None:
    """Two-sided p of a mean with such an estimated variance; None where nothing varies, which t cannot judge."""
    # Equal differences of rounded numbers may vary in their last digit.
    if variance <= (1e-9 * mean) ** 2 + 1e-24:
        return None
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), df))


@dataclass(frozen=True)
class StratifiedDifference:
    """A method minus the baseline: the mean over datasets of the mean over the trials that both have."""

    num_trials: int
    """Common trials, of all datasets together."""
    fewest_trials: int
    """Of any dataset."""
    mean: float | None
    """In the units of the values; None where a dataset has no common trial."""
    low: float | None = None
    """Of the 95 % interval; None, as are `high` and p, where a dataset has fewer than two common trials."""
    high: float | None = None
    p: float | None = None
    """Two-sided; of the signs where nothing varies."""


def stratified_difference(
    by_dataset: Mapping[str, Mapping[str, Mapping[Hashable, float]]],
    method: str,
    baseline: str,
    *,
    num_draws: int = 2000,
    seed: int = 0,
) -> StratifiedDifference:
    """A method's mean difference from a baseline over datasets, each dataset counted once.

    The interval is a bootstrap's that resamples trials, as pairs, within each dataset (datasets are given, not drawn;
    `ranks.resample` says how many), widened about the mean by the ratio of Student's to the normal quantile, since the
    spread of few trials is itself uncertain. p is that of Student's t. Both take Satterthwaite's degrees of freedom.

    Simulated with normal differences on 2 to 7 datasets whose spreads are alike or up to eight times each other's, the
    interval covers 92 to 97 % at three trials and 93 to 96 % at five; as drawn, 79 to 91 and 87 to 95 %.

    Source: R. Agarwal et al. Deep reinforcement learning at the edge of the statistical precipice. NeurIPS 2021,
    section 4.1 (strata); T. Hesterberg. What teachers should know about the bootstrap. The American Statistician 69,
    2015 (widening); F. Satterthwaite. An approximate distribution of estimates of variance components. Biometrics
    Bulletin 2, 1946.

    Args:
        by_dataset: per dataset and method, each trial's value; what is not finite is not there.
        method: its values.
        baseline: a method.
        num_draws: of the bootstrap.
        seed: of the bootstrap.
    """
    strata = [_common(methods.get(method, {}), methods.get(baseline, {})) for _, methods in sorted(by_dataset.items())]
    sizes = [len(d) for d in strata]
    counts = sum(sizes), min(sizes, default=0)
    if not all(sizes) or not sizes:
        return StratifiedDifference(*counts, None)
    mean = float(np.mean([d.mean() for d in strata]))
    if min(sizes) < 2:
        return StratifiedDifference(*counts, mean)
    variances = np.array([d.var(ddof=1) / len(d) for d in strata]) / len(strata) ** 2
    df = _degrees_of_freedom(variances, np.array(sizes))
    p = _t_test(mean, variances.sum(), df)
    if p is None:
        p = 1.0 if np.isclose(mean, 0) else min_p(sum(sizes))
    generator = np.random.default_rng(seed)
    drawn = np.mean([ranks.resample(d[None], generator, num_draws)[0] for d in strata], axis=0)  # (num_draws,)
    reach = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]) - mean
    low, high = mean + reach * stats.t.ppf(1 - LEVEL / 2, df) / stats.norm.ppf(1 - LEVEL / 2)
    return StratifiedDifference(*counts, mean, float(low), float(high), p)


def _degrees_of_freedom(variances: np.ndarray, sizes: np.ndarray) -> float:
    """Satterthwaite's, of the sum of variances of means, (N,), of so many values; the fewest possible if all are 0."""
    squares = float((variances**2 / (sizes - 1)).sum())
    return float(variances.sum() ** 2 / squares) if squares else float(min(sizes) - 1)


def _common(own: Mapping[Hashable, float], base: Mapping[Hashable, float]) -> np.ndarray:
    """Differences over common trials (n,), in an order that does not depend on the mappings'."""
    trials = sorted(own.keys() & base.keys(), key=str)
    d = np.array([own[trial] - base[trial] for trial in trials], float)
    return d[np.isfinite(d)]
