"""The numbers of the page: methods ranked under one setting by one criterion, and how sure that is.

Means and errors are those that the submissions say, which follow from their runs. Only entries that have everything
are ranked and tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dgbench.selection import LOWER_IS_BETTER

from .aggregate import AVERAGE, Cell, mean_of
from .entries import Entry, Setting
from .over_datasets import FEW_TRIALS, SHORT_INTERVALS, over_datasets
from .statistics import is_shown, paired_differences, rank_intervals, trial_means, worst
from .tables import IN_PERCENT

NOTHING = Cell(None, None, 0, 0)


@dataclass(frozen=True)
class Gap:
    """A method minus the baseline."""

    mean: float
    low: float | None
    """Of the 95 % interval; None, as are `high` and p, where there are too few trials."""
    high: float | None
    holm_p: float | None
    """Corrected for the number of methods."""
    is_shown: bool
    """Whether it is shown to be none by chance."""


@dataclass(frozen=True)
class Part:
    """One entry on one dataset."""

    dataset: str
    domains: tuple[str, ...]
    cells: tuple[Cell, ...]
    """Of the domains, then the average."""
    trials: tuple[tuple[str, tuple[float | None, ...]], ...]
    """Each trial's name and values: of the domains, then their mean if all are there."""
    num_diverged: int
    """Values that are no number."""


@dataclass(frozen=True)
class Row:
    """An entry on a board."""

    entry: Entry
    rank: int | None
    rank_interval: tuple[int, int] | None
    cells: tuple[Cell, ...]
    """Of the board's columns."""
    average: Cell
    worst: float | None
    """Of the domains' means; over several datasets the mean of each dataset's."""
    gap: Gap | None
    parts: tuple[Part, ...]
    lacks: str
    """Why it has no rank, a sentence."""


@dataclass(frozen=True)
class Ranks:
    """What a critical-difference diagram shows."""

    means: tuple[tuple[str, float], ...]
    """Method and mean rank, the best first."""
    critical_difference: float


@dataclass(frozen=True)
class Board:
    """Entries under one setting by one criterion."""

    criterion: str
    columns: tuple[str, ...]
    """Datasets; of one dataset, its domains."""
    rows: tuple[Row, ...]
    """Ranked ones first."""
    score: str
    baseline: Entry | None
    """The entry that others are compared with; None if there is no other."""
    ranks: Ranks | None
    notes: tuple[str, ...]

    @property
    def is_percent(self) -> bool:
        """Whether its numbers are fractions that are shown in percent."""
        return self.score in IN_PERCENT

    @property
    def lower_is_better(self) -> bool:
        """What is best."""
        return self.score in LOWER_IS_BETTER

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows that have a rank."""
        return tuple(row for row in self.rows if row.rank is not None)


def frame(of: Sequence[Entry]) -> pl.DataFrame:
    """All results of some entries: columns method (the entry's name), those of `Result`, and trial."""
    rows = [{"method": entry.name, **result.model_dump()} for entry in of for result in entry.said.results]
    columns = {
        **dict.fromkeys(("method", "criterion", "dataset", "test_domain"), pl.String),
        **dict.fromkeys(("trial_seed", "data_seed", "step", "n"), pl.Int64),
        "value": pl.Float64,
    }
    made = pl.DataFrame(rows, schema_overrides=columns) if rows else pl.DataFrame(schema=columns)
    return made.with_columns(
        trial=pl.when(pl.col("data_seed") == -1)
        .then(pl.col("trial_seed").cast(pl.String))
        .otherwise(pl.format("{}/{}", "trial_seed", "data_seed"))
    )


def board(
    of: Sequence[Entry], setting: Setting, criterion: str, results: pl.DataFrame, claim: tuple[str, int] | None = None
) -> Board:
    """Rank some entries.

    Args:
        of: those that have at least one of the datasets under that setting.
        setting: datasets of one score.
        criterion: by which models were selected.
        results: as `frame` makes them, of at least these entries.
        claim: suite and version that ranked entries have to claim; None: none.
    """
    (score,) = {facts["dataset.score"] for facts in setting.datasets.values()}
    low = score in LOWER_IS_BETTER
    chosen = results.filter(pl.col("criterion") == criterion)
    values = {name: chosen.filter(pl.col("dataset") == name) for name in setting.datasets}
    parts = {entry.name: _parts(entry, setting, criterion, values) for entry in of}
    lacks = {entry.name: _lacks(entry, setting, parts[entry.name], claim) for entry in of}
    whole = [entry for entry in of if not lacks[entry.name]]
    averages = {entry.name: mean_of([part.cells[-1] for part in parts[entry.name]]) for entry in whole}
    scores = [average.mean for average in averages.values() if average.mean is not None]
    names = [entry.name for entry in whole]
    baseline = _baseline(whole)
    test = _one if len(values) == 1 else _several
    compared = test({d: v.filter(pl.col("method").is_in(names)) for d, v in values.items()}, names, baseline, low)
    rows = []
    for entry in of:
        name, own = entry.name, parts[entry.name]
        mean = averages[name].mean if name in averages else None
        rank = None if mean is None else 1 + sum((score < mean) if low else (score > mean) for score in scores)
        rows.append(
            Row(
                entry,
                rank,
                compared.intervals.get(name),
                tuple(part.cells[-1] for part in own) if len(own) > 1 else own[0].cells[:-1],
                averages.get(name, NOTHING),
                None if rank is None else _worst(own, low),
                compared.gaps.get(name),
                tuple(part for part in own if part.trials),
                lacks[name],
            )
        )
    rows.sort(key=lambda row: (row.rank or math.inf, row.entry.name.lower(), row.entry.key))
    columns = tuple(setting.datasets) if len(setting.datasets) > 1 else parts[of[0].name][0].domains
    erm = next((entry for entry in whole if compared.gaps and entry.name == baseline), None)
    return Board(criterion, columns, tuple(rows), score, erm, compared.ranks, compared.notes)


def _baseline(whole: Sequence[Entry]) -> str | None:
    """ERM's name; of several one that claims a suite, then the first by file: dates are what a file says of itself."""
    found = sorted((entry.said.suite is None, entry.file, entry.name) for entry in whole if entry.is_erm)
    return found[0][2] if found else None


def _parts(entry: Entry, setting: Setting, criterion: str, values: Mapping[str, pl.DataFrame]) -> tuple[Part, ...]:
    said = {
        (one.dataset, one.column): Cell(
            one.mean, one.se, one.num_trials, one.expected_trials, is_average=one.column == AVERAGE
        )
        for one in entry.said.aggregates
        if one.criterion == criterion
    }
    mine = {data.name for data in setting.of(entry)}
    found = []
    for name, facts in setting.datasets.items():
        domains = tuple(facts["dataset.designated_domains"] or facts["dataset.domains"])
        is_there = name in mine
        cells = tuple(said.get((name, column), NOTHING) if is_there else NOTHING for column in (*domains, AVERAGE))
        own = values[name].filter(pl.lit(is_there), pl.col("method") == entry.name)
        found.append(Part(name, domains, cells, _trials(own, domains), own["value"].null_count()))
    return tuple(found)


def _trials(own: pl.DataFrame, domains: Sequence[str]) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    trials: dict[str, dict[str, float | None]] = {}
    # Draws of the data are named where they tell trials apart.
    name = "trial" if own["data_seed"].n_unique() > 1 else pl.col("trial_seed").cast(pl.String)
    for trial, domain, value in own.sort("trial_seed", "data_seed").select(name, "test_domain", "value").iter_rows():
        trials.setdefault(trial, {})[domain] = value
    made = []
    for trial, at in trials.items():
        values = [at.get(domain) for domain in domains]
        numbers = [value for value in values if value is not None]
        made.append((trial, (*values, sum(numbers) / len(numbers) if len(numbers) == len(domains) else None)))
    return tuple(made)


def _lacks(entry: Entry, setting: Setting, parts: Sequence[Part], claim: tuple[str, int] | None) -> str:
    """Why an entry has no rank; empty if it has."""
    mine = [data.name for data in setting.of(entry)]
    if without := [name for name in setting.datasets if name not in mine]:
        return f"Lacks {', '.join(without)} under this setting."
    suite = entry.said.suite
    if claim is not None and (suite is None or (suite.name, suite.version) != claim):
        return f"Does not claim the suite {claim[0]}, version {claim[1]}."
    for part in parts:
        average = part.cells[-1]
        if part.num_diverged:
            number = "1 value is no number" if part.num_diverged == 1 else f"{part.num_diverged} values are no numbers"
            return f"Diverged on {part.dataset}: {number}."
        if average.mean is None or average.num_trials < average.expected_trials:
            whole = f"{average.num_trials} of {average.expected_trials}" if average.expected_trials else "no"
            return f"Has {whole} whole trials on {part.dataset} by this criterion."
    return ""


def _worst(parts: Sequence[Part], low: bool) -> float:
    return float(np.mean([worst([cell.mean or 0.0 for cell in part.cells[:-1]], low) for part in parts]))


@dataclass(frozen=True)
class _Compared:
    """What tests say of the ranked methods."""

    intervals: Mapping[str, tuple[int, int]]
    gaps: Mapping[str, Gap]
    ranks: Ranks | None = None
    notes: tuple[str, ...] = ()


def _one(values: Mapping[str, pl.DataFrame], names: Sequence[str], baseline: str | None, low: bool) -> _Compared:
    """On one dataset: intervals of ranks, and paired t tests."""
    (of,) = values.values()
    means = trial_means(of)
    trials = sorted(of["trial"].unique())
    cube = np.array([[[means[name].get(trial, math.nan) for trial in trials]] for name in names])
    cube = cube.reshape(len(names), 1, len(trials))
    found = rank_intervals(cube, lower_is_better=low) if names else np.empty((0, 2))
    intervals = {
        name: (int(first), int(last)) for name, (first, last) in zip(names, found, strict=True) if not np.isnan(first)
    }
    differences = paired_differences(of, baseline) if baseline else []
    gaps = {
        d.method: Gap(d.mean, d.low, d.high, d.holm_p, is_shown(d.holm_p, d.num_trials))
        for d in differences
        if d.mean is not None
    }
    notes = dict.fromkeys(d.note for d in differences if d.note)
    short = [SHORT_INTERVALS] if len(trials) in FEW_TRIALS else []
    return _Compared(intervals, gaps, notes=(*notes, *short))


def _several(values: Mapping[str, pl.DataFrame], names: Sequence[str], baseline: str | None, low: bool) -> _Compared:
    """Over datasets: what `over_datasets` says."""
    made = over_datasets(values, baseline or "", lower_is_better=low)
    if made is None:
        return _Compared({}, {})
    intervals = {one.method: one.rank_interval for one in made.standings if one.rank_interval}
    gaps = {
        one.method: Gap(one.difference.mean, one.difference.low, one.difference.high, one.holm_p, one.is_shown)
        for one in made.standings
        if one.difference is not None and one.difference.mean is not None
    }
    ranks = Ranks(tuple((one.method, one.mean_rank) for one in made.standings), made.critical_difference)
    # Its first note explains columns that are its own.
    return _Compared(intervals, gaps, ranks, made.notes[1:])
