"""From chosen runs to means over trials, ranked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from dgbench.cells import CELL, METHOD, TABLE, TRIAL
from dgbench.selection import LOWER_IS_BETTER

AVERAGE = "Average"


@dataclass(frozen=True)
class Cell:
    """A mean over trials."""

    mean: float | None
    """None: there is nothing to average."""
    se: float | None
    """Standard error of the mean; None for one trial."""
    num_trials: int
    expected_trials: int
    num_diverged: int = 0
    """How many of the averaged values come from runs that diverged."""
    is_average: bool = False
    """Over test domains or datasets, not of one test domain."""


@dataclass(frozen=True)
class Line:
    """A method."""

    rank: int | None
    """By the last column; None if that is not there."""
    method: str
    cells: tuple[Cell, ...]
    found: str
    """Cells found, of those expected; empty of published numbers."""


def tidy(chosen: pl.DataFrame, covered: pl.DataFrame, rules: pl.DataFrame) -> pl.DataFrame:
    """Means over trials in long form: one row per table, method and column (the test domains, and the average).

    The average of a trial is over all test domains, or it is not there.

    Args:
        chosen: as `Selection.choose` gives it.
        covered: as `coverage` gives it.
        rules: how each table is to be reported: its keys `TABLE` and `error_bar`.
    """
    every = covered.join(chosen.select(*CELL, "value", "status"), on=CELL, how="left").with_columns(
        num_runs=pl.col("complete") + pl.col("diverged"),
        num_diverged=(pl.col("status") == "diverged").fill_null(False).cast(pl.Int64),
    )
    counts = ("num_runs", "num_diverged", "failed", "unfinished")
    is_whole = pl.col("value").count() == pl.len()
    trials = every.group_by(*TABLE, *METHOD, *TRIAL).agg(
        pl.when(is_whole).then(pl.col("value").mean()).alias("value"),
        pl.when(is_whole).then(pl.col("num_diverged").sum()).otherwise(0).alias("num_diverged"),
        pl.col("num_runs", "failed", "unfinished").sum(),
    )
    value = pl.col("value")
    frame = pl.concat(
        [every.rename({"test_domain": "column"}), trials.with_columns(column=pl.lit(AVERAGE))], how="diagonal"
    )
    return (
        frame.join(rules.select(*TABLE, "error_bar"), on=TABLE)
        .group_by(*TABLE, *METHOD, "column")
        .agg(
            value.mean().alias("mean"),
            (_deviation(value) / value.count().sqrt()).alias("se"),
            value.count().alias("num_trials"),
            pl.len().alias("expected_trials"),
            pl.col(counts).sum(),
        )
        .with_columns(is_missing=pl.col("num_trials") == 0)
        .sort(*TABLE, *METHOD, "column")
    )


def _deviation(value: pl.Expr) -> pl.Expr:
    # Of one trial nothing is known, whatever the divisor.
    of_all = pl.when(value.count() > 1).then(value.std(ddof=0))
    return pl.when(pl.col("error_bar").first() == "n").then(of_all).otherwise(value.std(ddof=1))


def method_name(algorithm: str, averaging: str, label: str, variant: str, tuned: str) -> str:
    """A row's name from its columns `METHOD`.

    >>> method_name("erm", "swad", "", "", "train_validation in first")
    'erm + swad (tuned)'
    """
    name = label or algorithm + (f" + {averaging}" if averaging != "none" else "")
    return f"{name} (tuned)" if tuned else name


def method_names(methods: Iterable[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """The names of rows by their columns `METHOD`; where two would share one, what tells them apart is added.

    >>> list(method_names([("erm", "none", "a", "12", ""), ("irm", "none", "a", "12", "")]).values())
    ['a (erm)', 'a (irm)']
    """
    keys = list(dict.fromkeys(tuple(method) for method in methods))
    names = {key: method_name(*key) for key in keys}
    for key in keys:
        rivals = [other for other in keys if method_name(*other) == method_name(*key)]
        own = dict(zip(METHOD, key, strict=True))
        own["variant"] = own["variant"][:6]
        parts = [
            own[name]
            for place, name in enumerate(METHOD)
            if name != "label" and len({other[place] for other in rivals}) > 1
        ]
        if parts:
            names[key] += f" ({', '.join(parts)})"
    return names


def named(runs: pl.DataFrame) -> pl.Expr:
    """The names of rows by their columns `METHOD`, for frames whose methods are among those of `runs`."""
    names = method_names(runs.select(METHOD).unique().sort(METHOD).iter_rows())
    return pl.struct(METHOD).map_elements(lambda row: names[tuple(row[key] for key in METHOD)], pl.String)


def make_lines(cells: pl.DataFrame, columns: Sequence[str], metric: str) -> tuple[Line, ...]:
    """The methods of one table, ranked."""
    methods: dict[str, dict[str, Cell]] = {}
    names = method_names(cells.select(METHOD).unique(maintain_order=True).iter_rows())
    for row in cells.iter_rows(named=True):
        name = names[tuple(row[key] for key in METHOD)]
        fields = ("mean", "se", "num_trials", "expected_trials", "num_diverged")
        cell = Cell(**{key: row[key] for key in fields}, is_average=row["column"] == AVERAGE)
        methods.setdefault(name, {})[row["column"]] = cell
    found = []
    for name, at in methods.items():
        domains = [at[column] for column in columns if column != AVERAGE]
        counts = (sum(c.num_trials for c in domains), sum(c.expected_trials for c in domains))
        found.append((name, tuple(at[column] for column in columns), counts))
    return ranked(found, metric)


def ranked(lines: Sequence[tuple[str, tuple[Cell, ...], tuple[int, int]]], metric: str) -> tuple[Line, ...]:
    """Methods, best first, from (name, cells, (cells found, cells expected)); equal averages share a rank."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    scores = {name: _worth(cells[-1], sign) for name, cells, _ in lines}
    ordered = sorted(lines, key=lambda line: (-scores[line[0]], -line[2][0], line[0]))
    return tuple(
        Line(
            None if scores[name] == -math.inf else 1 + sum(s > scores[name] for s in scores.values()),
            name,
            cells,
            "/".join(map(str, counts)),
        )
        for name, cells, counts in ordered
    )


def _worth(cell: Cell, sign: int) -> float:
    return -math.inf if cell.mean is None or math.isnan(cell.mean) else sign * cell.mean


def mean_of(cells: Sequence[Cell]) -> Cell:
    """The mean of independent means, if all are there; as complete in trials as the least of them."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    errors = [cell.se for cell in cells if cell.se is not None]
    least = min(cells, key=lambda cell: cell.num_trials / cell.expected_trials)
    trials = least.num_trials, least.expected_trials
    if len(means) < len(cells):
        return Cell(None, None, *trials, is_average=True)
    se = math.hypot(*errors) / len(cells) if len(errors) == len(cells) else None
    return Cell(sum(means) / len(means), se, *trials, sum(cell.num_diverged for cell in cells), is_average=True)
