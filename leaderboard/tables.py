"""Result tables: what each method reaches on each test domain, over trials, and what is missing.

The unit of replication is the trial: a split of the data, an initialisation and a draw of hyper-parameters.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import polars as pl
from rich.console import Console, ConsoleOptions, RenderableType

from dgbench import record
from dgbench.registry import UnknownName
from dgbench.selection import CELL, LOWER_IS_BETTER, METHOD, TABLE, Selection, coverage, selection, with_cells

from . import notes, render

FORMATS = ("text", "markdown", "latex", "csv")
AVERAGE = "Average"
IN_PERCENT = ("accuracy", "macro_accuracy")
Paths = str | Path | Sequence[str | Path]


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
    """Cells found, of those expected."""


@dataclass(frozen=True)
class Sheet:
    """A table as people read it: methods by columns, best first."""

    title: str
    subtitle: str
    columns: tuple[str, ...]
    """Test domains or datasets, then the average."""
    lines: tuple[Line, ...]
    is_percent: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Tables of some runs: prints as text, in 100 columns or what the console has."""

    sheets: tuple[Sheet, ...]
    cells: pl.DataFrame = field(repr=False)
    """The same in long form, one row per table, method and column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from render.text(self.sheets, console, options)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    __repr__ = __str__


@overload
def table(runs: Paths, criterion: str = ..., metric: str | None = ..., format: Literal["text"] = ...) -> Table: ...
@overload
def table(runs: Paths, criterion: str = ..., metric: str | None = ..., *, format: str) -> Table | str: ...
def table(
    runs: Paths, criterion: str = "train_validation", metric: str | None = None, format: str = "text"
) -> Table | str:
    """Select models and rank the methods.

    Args:
        runs: folders of runs (a sweep's runs_dir), or single runs.
        criterion: how models are selected, of `dgbench.selection.criteria()`.
        metric: what is reported; None: the score by which is selected.
        format: `text` (an object that prints), `markdown`, `latex` or `csv` (long form).

    Raises:
        UnknownName: a criterion, metric or format that does not exist.
        ValueError: there is nothing to make a table of.
    """
    chooser = selection(criterion)
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    found = record.runs(runs)
    if found.is_empty():
        where = ", ".join(map(str, [runs] if isinstance(runs, str | Path) else runs))
        raise ValueError(f"No runs under {where}. Name the runs_dir of a sweep, or let it begin.")
    if with_cells(found).is_empty():
        raise ValueError(
            f"None of the {len(found)} runs tests on one domain alone, which {criterion} needs. "
            "Run them with test_domains=each."
        )
    finished = found.filter(pl.col("status").is_in(record.FINISHED))
    if metric is not None:
        _check_metric(finished, metric)
    rows = record.read(finished, {*finished["score"], *([metric] if metric else [])})
    made = make_tables(found, rows, chooser, metric)
    if format == "text":
        return made
    if format == "csv":
        return made.cells.write_csv()
    return render.markdown(made.sheets) if format == "markdown" else render.latex(made.sheets)


def _check_metric(finished: pl.DataFrame, metric: str) -> None:
    # The keys of one line per dataset tell; all metrics of a task are evaluated together.
    for example in finished.unique("dataset", keep="first", maintain_order=True).iter_slices(1):
        known = record.read(example)["metric"].unique(maintain_order=True).to_list()
        if known and metric not in known:
            raise UnknownName(f"metric of {example['dataset'].item()}", metric, known)


def make_tables(runs: pl.DataFrame, rows: pl.DataFrame, chooser: Selection, metric: str | None = None) -> Table:
    """The tables of some runs and their evaluations.

    Args:
        runs: as `dgbench.record.runs` gives them.
        rows: as `dgbench.record.read` gives them.
        chooser: the criterion.
        metric: what is reported; None: the score by which is selected.
    """
    covered, chosen = coverage(runs), chooser.choose(rows, metric)
    facts = with_cells(runs).group_by(TABLE).agg(pl.col(_FACTS).first()).sort(TABLE)
    if metric is not None:
        facts = facts.with_columns(score=pl.lit(metric))
    cells = facts.drop("dataset_domains").rename({"score": "metric"}).join(tidy(chosen, covered), on=TABLE)
    cells = cells.with_columns(criterion=pl.lit(chooser.name))
    labels = notes.labels(facts)
    sheets, averages = [], []
    for fact, label in zip(facts.iter_rows(named=True), labels, strict=True):
        of = [pl.col(name) == fact[name] for name in TABLE]
        mine = cells.filter(of)
        names = set(mine["column"])
        columns = [name for name in fact["dataset_domains"].split(" ") if name in names] + [AVERAGE]
        said = notes.of_table(
            with_cells(runs).filter(of), covered.filter(of), chosen.filter(of), chooser, fact["score"]
        )
        lines = _lines(mine, columns, fact["score"])
        title, subtitle = notes.heading(label, fact, chooser, with_cells(runs).filter(of))
        sheets.append(Sheet(title, subtitle, tuple(columns), lines, fact["score"] in IN_PERCENT, said))
        averages.append((fact, lines))
    if pairs := len(runs) - len(with_cells(runs)):
        said = (*sheets[-1].notes, f"Left out: {pairs} runs that test on several domains at once.")
        sheets[-1] = Sheet(**{**vars(sheets[-1]), "notes": said})
    return Table((*sheets, *_overall(averages, chooser)), cells.select(_CSV))


_FACTS = ("protocol", "network", "num_steps", "dataset_domains", "score")
_CSV = (
    *("dataset", "data", "protocol", "protocol_key", "network", "network_key", "trained_on", "val_domains"),
    *("num_steps", "criterion", "metric", *METHOD, "column", "mean", "se", "num_trials", "expected_trials"),
    *("is_missing", "num_runs", "num_diverged", "failed", "unfinished"),
)


def tidy(chosen: pl.DataFrame, covered: pl.DataFrame) -> pl.DataFrame:
    """Means over trials in long form: one row per table, method and column (the test domains, and the average).

    The average of a trial is over all test domains, or it is not there.

    Args:
        chosen: as `Selection.choose` gives it.
        covered: as `coverage` gives it.
    """
    every = covered.join(chosen.select(*CELL, "value", "status"), on=CELL, how="left").with_columns(
        num_runs=pl.col("complete") + pl.col("diverged"),
        num_diverged=(pl.col("status") == "diverged").fill_null(False).cast(pl.Int64),
    )
    counts = ("num_runs", "num_diverged", "failed", "unfinished")
    is_whole = pl.col("value").count() == pl.len()
    trials = every.group_by(*TABLE, *METHOD, "trial_seed").agg(
        pl.when(is_whole).then(pl.col("value").mean()).alias("value"),
        pl.when(is_whole).then(pl.col("num_diverged").sum()).otherwise(0).alias("num_diverged"),
        pl.col("num_runs", "failed", "unfinished").sum(),
    )
    value = pl.col("value")
    frame = pl.concat(
        [every.rename({"test_domain": "column"}), trials.with_columns(column=pl.lit(AVERAGE))], how="diagonal"
    )
    return (
        frame.group_by(*TABLE, *METHOD, "column")
        .agg(
            value.mean().alias("mean"),
            (value.std() / value.count().sqrt()).alias("se"),
            value.count().alias("num_trials"),
            pl.len().alias("expected_trials"),
            pl.col(counts).sum(),
        )
        .with_columns(is_missing=pl.col("num_trials") == 0)
        .sort(*TABLE, *METHOD, "column")
    )


def _lines(cells: pl.DataFrame, columns: Sequence[str], metric: str) -> tuple[Line, ...]:
    """The methods of one table, ranked."""
    methods: dict[str, dict[str, Cell]] = {}
    for row in cells.iter_rows(named=True):
        name = row["algorithm"] + (f" + {row['averaging']}" if row["averaging"] != "none" else "")
        fields = ("mean", "se", "num_trials", "expected_trials", "num_diverged")
        cell = Cell(**{key: row[key] for key in fields}, is_average=row["column"] == AVERAGE)
        methods.setdefault(name, {})[row["column"]] = cell
    lines = []
    for name, at in methods.items():
        domains = [at[column] for column in columns if column != AVERAGE]
        counts = (sum(c.num_trials for c in domains), sum(c.expected_trials for c in domains))
        lines.append((name, tuple(at[column] for column in columns), counts))
    return _ranked(lines, metric)


def _ranked(lines: Sequence[tuple[str, tuple[Cell, ...], tuple[int, int]]], metric: str) -> tuple[Line, ...]:
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


def _overall(tables: Sequence[tuple[dict[str, Any], tuple[Line, ...]]], chooser: Selection) -> Iterator[Sheet]:
    """The averages of datasets that were compared alike, side by side."""
    groups: dict[tuple[str, ...], list[tuple[str, tuple[Line, ...]]]] = {}
    for fact, lines in tables:
        key = tuple(fact[name] for name in ("score", "protocol", "trained_on", "val_domains"))
        groups.setdefault(key, []).append((fact["dataset"], lines))
    for (metric, protocol, trained_on, _), parts in groups.items():
        columns = [dataset for dataset, _ in parts]
        # Two tables of one dataset (two networks, say) would count it twice.
        if len(columns) < 2 or len(set(columns)) < len(columns):
            continue
        merged = []
        for name in dict.fromkeys(line.method for _, part in parts for line in part):
            own = [next((line for line in part if line.method == name), None) for _, part in parts]
            expected = [part[0].cells[-1].expected_trials for _, part in parts]
            cells = [
                line.cells[-1] if line else Cell(None, None, 0, n, is_average=True)
                for line, n in zip(own, expected, strict=True)
            ]
            totals = [(line or part[0]).found.split("/") for line, (_, part) in zip(own, parts, strict=True)]
            found = sum(int(total[0]) for total, line in zip(totals, own, strict=True) if line)
            merged.append((name, (*cells, _mean_of(cells)), (found, sum(int(total[1]) for total in totals))))
        title, subtitle, said = notes.of_overall(columns, metric, protocol, trained_on, chooser)
        yield Sheet(title, subtitle, (*columns, AVERAGE), _ranked(merged, metric), metric in IN_PERCENT, said)


def _mean_of(cells: Sequence[Cell]) -> Cell:
    """The mean of independent means, if all are there; as complete in trials as the least of them."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    errors = [cell.se for cell in cells if cell.se is not None]
    least = min(cells, key=lambda cell: cell.num_trials / cell.expected_trials)
    trials = least.num_trials, least.expected_trials
    if len(means) < len(cells):
        return Cell(None, None, *trials, is_average=True)
    se = math.hypot(*errors) / len(cells) if len(errors) == len(cells) else None
    return Cell(sum(means) / len(means), se, *trials, sum(cell.num_diverged for cell in cells), is_average=True)
