"""Methods compared over several datasets: one table, and what so many datasets and trials can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from rich import box
from rich.table import Table as Grid
from rich.text import Text

from .statistics import (
    LEVEL,
    MIN_TRIALS,
    Friedman,
    StratifiedDifference,
    friedman,
    holm,
    interquartile_mean,
    is_shown,
    mean_ranks,
    min_p,
    nemenyi_cd,
    rank_intervals,
    stratified_difference,
    trial_means,
    worst,
)

# So many that Holm's correction for a hundred methods still leaves room below 0.05.
NUM_DRAWS = 10_000
SHOWN = 6
FEW_TRIALS = (3, 4)
# `statistics.stratified_difference` says of what this was simulated.
SHORT_INTERVALS = (
    "With three or four trials the intervals of ranks are short, as a bootstrap's are: a mean's would cover 79 to 94 %."
)


@dataclass(frozen=True)
class Standing:
    """One method over all datasets."""

    method: str
    mean_rank: float
    """Mean over datasets of its rank by the mean over trials, 1 the best."""
    rank_interval: tuple[int, int] | None
    """95 % interval of its rank by the average over datasets; None: too few trials on some dataset."""
    difference: StratifiedDifference | None
    """From the baseline; None for the baseline itself."""
    holm_p: float | None
    """Corrected for the number of methods."""
    interquartile_mean: float | None
    """Of the trials of all datasets; None where it lacks some, which would shift the weights of datasets."""
    worst_domain: float
    """Mean over datasets of the value on the domain where it is worst."""

    @property
    def is_shown(self) -> bool:
        """Whether it is shown to differ from the baseline."""
        return self.difference is not None and is_shown(self.holm_p, self.difference.fewest_trials)


@dataclass(frozen=True)
class OverDatasets:
    """The methods that have all of several datasets, best mean rank first."""

    title: str
    subtitle: str
    standings: tuple[Standing, ...]
    friedman: Friedman | None
    """None for two methods."""
    critical_difference: float
    """Nemenyi's, of mean ranks."""
    is_percent: bool
    notes: tuple[str, ...]


def over_datasets(
    values: Mapping[str, pl.DataFrame],
    baseline: str,
    *,
    lower_is_better: bool = False,
    heading: tuple[str, str] = ("", ""),
    is_percent: bool = False,
) -> OverDatasets | None:
    """Compare the methods that have a full trial on every dataset, and numbers in all; None if that is not two.

    Args:
        values: per dataset the frame that `statistics.paired_differences` takes.
        baseline: a method.
        lower_is_better: what is best.
        heading: title and subtitle.
        is_percent: whether values, which are fractions, are printed in percent.
    """
    by_dataset = {name: trial_means(frame) for name, frame in values.items()}
    lacking = _where(by_dataset, lambda trials: not trials)
    lost = _where(by_dataset, lambda trials: not np.isfinite([*trials.values()]).all())
    methods = sorted({method for of in by_dataset.values() for method in of} - {*lacking, *lost})
    if len(methods) < 2:
        return None
    means = np.array([[np.mean(list(of[method].values())) for method in methods] for of in by_dataset.values()])
    ranks = mean_ranks(means, lower_is_better)
    trials = _trials(by_dataset, methods)
    is_trial = np.isfinite(trials).any(axis=0)  # (N, T)
    intervals = rank_intervals(trials, lower_is_better=lower_is_better)
    differences = _differences(by_dataset, methods, baseline)
    corrected = _corrected(differences)
    worst_domains = _worst_domains(values, methods, lower_is_better)
    standings = tuple(
        Standing(
            method,
            float(ranks[place]),
            None if np.isnan(intervals[place]).any() else (int(intervals[place, 0]), int(intervals[place, 1])),
            differences.get(method),
            corrected.get(method),
            None if np.isnan(own := trials[place][is_trial]).any() else interquartile_mean(own),
            worst_domains[method],
        )
        for place, method in sorted(enumerate(methods), key=lambda pair: (ranks[pair[0]], pair[1]))
    )
    test = friedman(means) if len(methods) > 2 else None
    distance = nemenyi_cd(len(methods), len(values))
    said = (
        *([_MEANING] if differences else [_MEANING_OF_RANKS]),
        *_of_ranks(standings, len(values), test, distance),
        *_of_few(standings, len(values)),
        *_of_left_out("without a full trial", lacking),
        *_of_left_out("without a number in some trial (diverged)", lost),
    )
    return OverDatasets(*heading, standings, test, distance, is_percent, said)


def _where(
    by_dataset: Mapping[str, Mapping[str, Mapping[Hashable, float]]], holds: Callable[[Mapping[Hashable, float]], bool]
) -> dict[str, list[str]]:
    """Per method the datasets on which something holds of its trials, if there are any."""
    every = sorted({method for of in by_dataset.values() for method in of})
    found = {method: [name for name, of in by_dataset.items() if holds(of.get(method, {}))] for method in every}
    return {method: names for method, names in found.items() if names}


def _trials(by_dataset: Mapping[str, Mapping[str, Mapping[Hashable, float]]], methods: Sequence[str]) -> np.ndarray:
    """Trial means (k methods, N datasets, T trials), NaN where missing."""
    trials = [sorted({trial for of in every.values() for trial in of}, key=str) for every in by_dataset.values()]
    made = np.full((len(methods), len(by_dataset), max(map(len, trials))), np.nan)
    for column, (every, names) in enumerate(zip(by_dataset.values(), trials, strict=True)):
        for row, method in enumerate(methods):
            made[row, column, : len(names)] = [every[method].get(name, math.nan) for name in names]
    return made


def _differences(
    by_dataset: Mapping[str, Mapping[str, Mapping[Hashable, float]]], methods: Sequence[str], baseline: str
) -> dict[str, StratifiedDifference]:
    if baseline not in methods:
        return {}
    others = [method for method in methods if method != baseline]
    return {m: stratified_difference(by_dataset, m, baseline, num_draws=NUM_DRAWS) for m in others}


def _corrected(differences: Mapping[str, StratifiedDifference]) -> dict[str, float]:
    tested = {method: found.p for method, found in differences.items() if found.p is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _worst_domains(
    values: Mapping[str, pl.DataFrame], methods: Sequence[str], lower_is_better: bool
) -> dict[str, float]:
    """Per method the mean over datasets of the worst domain's mean over full trials."""
    found: dict[str, list[float]] = {method: [] for method in methods}
    for frame in values.values():
        is_full = (pl.len() == frame["test_domain"].n_unique()).over("method", "trial")
        domains = (
            frame.filter(pl.col("value").is_not_null())
            .filter(is_full, pl.col("method").is_in(methods))
            .group_by("method", "test_domain")
            .agg(pl.col("value").sort().mean())
            .group_by("method")
            .agg("value")
        )
        for method, of_domains in domains.iter_rows():
            found[method].append(worst(of_domains, lower_is_better))
    return {method: float(np.mean(each)) for method, each in found.items()}


_MEANING_OF_RANKS = (
    "Mean rank: over datasets, by the mean over trials. Rank by average: over datasets, its 95 % interval by a "
    "bootstrap of trials. IQM: mean of the middle half of all trials. Worst domain: of each dataset, averaged."
)
_MEANING = (
    f"{_MEANING_OF_RANKS} Difference: from the baseline within each trial, averaged within and then over datasets; "
    "interval by a bootstrap of trials within each dataset, widened for few trials, p by Student's t; Holm: corrected "
    "for the number of methods, * below 0.05."
)


def _of_ranks(
    standings: Sequence[Standing], num_datasets: int, test: Friedman | None, distance: float
) -> Iterator[str]:
    """Whether ranks differ, and which."""
    k = len(standings)
    if test is not None:
        f = "infinite" if math.isinf(test.f) else f"{test.f:.2f}"
        shown = "methods differ" if test.p_f < LEVEL else "not shown that methods differ"
        yield f"Friedman's test of mean ranks (Iman and Davenport): F = {f}, p {_p(test.p_f)}: {shown}."
        if test.min_p >= LEVEL:
            yield (
                f"{num_datasets} datasets cannot show it for {k} methods: even if all ranked alike, p would be "
                f"{test.min_p:.2f}."
            )
    gap = standings[-1].mean_rank - standings[0].mean_rank
    said = f"Critical difference of mean ranks (Nemenyi, 5 %): {distance:.2f}; the largest gap is {gap:.2f}"
    if distance > k - 1:
        yield f"{said}. {num_datasets} datasets cannot show a pair: no gap exceeds {k - 1}."
        return
    pairs = [
        f"{a.method} and {b.method}"
        for place, a in enumerate(standings)
        for b in reversed(standings[place + 1 :])
        if b.mean_rank - a.mean_rank >= distance
    ]
    more = f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    yield f"{said}: {'; '.join(pairs[:SHOWN]) + more + ' differ' if pairs else 'no pair differs'}."


def _p(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _of_few(standings: Sequence[Standing], num_datasets: int) -> Iterator[str]:
    """Where trials or datasets are too few to show anything."""
    compared = {standing.method: standing.difference for standing in standings if standing.difference is not None}
    tested = {method: d for method, d in compared.items() if d.p is not None}
    if untested := [method for method in compared if method not in tested]:
        yield f"Not tested, with fewer than two trials in common with the baseline on some dataset: {_few(untested)}."
    if two := [method for method, d in tested.items() if d.fewest_trials < MIN_TRIALS]:
        yield f"Nothing is claimed of methods with only two trials on some dataset: {_few(two)}."
    if any(d.fewest_trials in FEW_TRIALS for d in tested.values()):
        yield SHORT_INTERVALS
    if unranked := [standing.method for standing in standings if standing.rank_interval is None]:
        yield f"No part in the rank by average, with fewer than two trials on some dataset: {_few(unranked)}."
    n = len(tested)
    for number in sorted({d.num_trials for d in tested.values() if n * min_p(d.num_trials) >= LEVEL}):
        corrected = f", corrected for {n} methods {min(1, n * min_p(number)):.3g}" if n > 1 else ""
        yield (
            f"{number} pairs of trials can show a difference only if differences are normal, as the t test takes them "
            f"to be: by their signs (Wilcoxon) the smallest p is {min_p(number):.3g}{corrected}."
        )
    if min_p(num_datasets) >= LEVEL:
        yield (
            f"{num_datasets} datasets: what is shown holds for these. For others it would take a test over datasets, "
            f"whose smallest p (Wilcoxon) is {min_p(num_datasets):.3g} with so few."
        )


def _of_left_out(why: str, left_out: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if left_out:
        each = _few([f"{method} ({', '.join(names)})" for method, names in left_out.items()])
        yield f"Left out, {why} on some dataset: {each}."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def grid(part: OverDatasets) -> Grid:
    """The table as rich prints it."""
    made = Grid(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    made.add_column("method", overflow="fold")
    for name in ("mean\nrank", "rank by\naverage", "difference", "95 % interval", "Holm", "IQM", "worst\ndomain"):
        made.add_column(name, justify="right")

    def number(value: float | None, sign: str = "") -> str:
        return "—" if value is None else f"{100 * value:{sign}.1f}" if part.is_percent else f"{value:{sign}.3f}"

    for row in part.standings:
        ranks = "—" if row.rank_interval is None else "–".join(map(str, dict.fromkeys(row.rank_interval)))
        d = row.difference
        difference = "" if d is None else number(d.mean, "+")
        interval = "" if d is None else "—" if d.low is None else f"[{number(d.low, '+')}, {number(d.high, '+')}]"
        p = "" if d is None else "—" if row.holm_p is None else f"{row.holm_p:.3f}" if row.holm_p >= 0.001 else "<0.001"
        made.add_row(
            Text(row.method),
            f"{row.mean_rank:.2f}",
            ranks,
            difference,
            interval,
            p + ("*" if row.is_shown else " "),
            number(row.interquartile_mean),
            number(row.worst_domain),
        )
    return made
