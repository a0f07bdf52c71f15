"""Result tables: what each method reaches on each test domain, over trials, and what is missing.

The unit of replication is the trial: a split of the data, an initialisation and a draw of hyper-parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

import polars as pl
from rich.console import Console, ConsoleOptions, RenderableType

from dgbench import record
from dgbench.cells import ALL_OTHERS, METHOD, TABLE, coverage, missing_pairs, pair_runs, with_cells
from dgbench.protocol import Protocol
from dgbench.registry import UnknownName
from dgbench.selection import Selection, selection

from . import notes, render
from . import published as published_rows
from .aggregate import AVERAGE, Cell, Line, make_lines, mean_of, ranked, tidy

FORMATS = ("text", "markdown", "latex", "csv")
IN_PERCENT = ("accuracy", "macro_accuracy")
Paths = str | Path | Sequence[str | Path]


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


@dataclass(frozen=True, repr=False)
class Table(render.Printed):
    """Tables of some runs: prints as text, in 100 columns or what the console has."""

    sheets: tuple[Sheet, ...]
    cells: pl.DataFrame = field(repr=False)
    """The same in long form, one row per table, method and column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from render.text(self.sheets, console, options)


@overload
def table(
    runs: Paths,
    criterion: str = ...,
    metric: str | None = ...,
    format: Literal["text"] = ...,
    *,
    protocol: str | None = ...,
    published: bool = ...,
    explained: bool = ...,
) -> Table: ...
@overload
def table(
    runs: Paths,
    criterion: str = ...,
    metric: str | None = ...,
    *,
    format: str,
    protocol: str | None = ...,
    published: bool = ...,
    explained: bool = ...,
) -> Table | str: ...
def table(
    runs: Paths,
    criterion: str = "train_validation",
    metric: str | None = None,
    format: str = "text",
    *,
    protocol: str | None = None,
    published: bool = False,
    explained: bool = False,
) -> Table | str:
    """Select models and rank the methods.

    Args:
        runs: folders of runs (a sweep's runs_dir), or single runs.
        criterion: how models are selected, of `dgbench.selection.criteria()`.
        metric: what is reported; None: the score by which is selected.
        format: `text` (an object that prints), `markdown`, `latex` or `csv` (long form).
        protocol: the preset by whose rules runs are read (error bars, unfinished runs, the oracle's step); None: that
            of each run.
        published: whether published rows of the runs' datasets follow, in tables of their own.
        explained: whether `explain` follows: what it lists is only counted here.

    Raises:
        UnknownName: a criterion, metric or format that does not exist.
        ValueError: there is nothing to make a table of, or no place for published rows.
    """
    chooser = selection(criterion)
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    if published and format == "csv":
        raise ValueError(
            "Got format=csv and published rows, but in csv nothing would set them apart from runs. Leave one of them "
            "out."
        )
    found = runs_under(runs)
    if protocol is not None:
        found = found.with_columns(pl.lit(value).alias(name) for name, value in _preset(protocol).reporting.items())
    made = make_tables(found, evaluations(found, metric), chooser, metric, explained=explained)
    if published:
        made = _with_published(made, criterion)
    if format == "text":
        return made
    if format == "csv":
        return made.cells.write_csv()
    return render.markdown(made.sheets) if format == "markdown" else render.latex(made.sheets)


def runs_under(paths: Paths) -> pl.DataFrame:
    """What `dgbench.record.runs` gives, if that is anything.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: no trained run is.
    """
    found = record.runs(paths)
    if found.is_empty():
        if record.kinds(paths):
            raise ValueError(
                f"Under {where(paths)} are adaptations, no trained runs. dgbench table ranks them, in Python "
                "dgbench.adaptations; dgbench plot adaptation draws them."
            )
        raise ValueError(f"No runs under {where(paths)}. Name the runs_dir of a sweep, or let it begin.")
    return found


def where(paths: Paths) -> str:
    """Some folders, for sentences."""
    return ", ".join(map(str, [paths] if isinstance(paths, str | Path) else paths))


def evaluations(runs: pl.DataFrame, metric: str | None) -> pl.DataFrame:
    """What `dgbench.record.read` gives of those runs that a table uses, by their score and perhaps another metric.

    Raises:
        UnknownName: some dataset of these runs was not evaluated by that metric.
    """
    used = runs.filter(pl.col("status").is_in(record.FINISHED) | pl.col("use_unfinished"))
    if metric is not None:
        check_metric(used, metric)
    return record.read(used, {*used["score"], *([metric] if metric else [])})


def _with_published(made: Table, criterion: str) -> Table:
    asked = made.cells.select("dataset", "metric").unique(maintain_order=True)
    below: list[Sheet] = []
    without: list[str] = []
    for (metric,), part in asked.group_by("metric", maintain_order=True):
        sheets, lacking = published_rows.sheets(part["dataset"].to_list(), criterion, str(metric))
        below += sheets
        without += lacking
    *first, last = made.sheets
    if without:
        last = replace(last, notes=(*last.notes, published_rows.sentence(without, criterion)))
    return replace(made, sheets=(*first, last, *below))


def _preset(name: str) -> Protocol:
    from dgbench import composition

    return Protocol(**composition.compose([f"protocol={name}"])["protocol"])


def check_metric(finished: pl.DataFrame, metric: str) -> None:
    """Refuse a metric that some dataset of finished runs was not evaluated by.

    Raises:
        UnknownName: it is not known there.
    """
    # The keys of one line per dataset tell; all metrics of a task are evaluated together.
    for example in finished.unique("dataset", keep="first", maintain_order=True).iter_slices(1):
        known = record.read(example)["metric"].unique(maintain_order=True).to_list()
        if known and metric not in known:
            raise UnknownName(f"metric of {example['dataset'].item()}", metric, known)


def make_tables(
    runs: pl.DataFrame, rows: pl.DataFrame, chooser: Selection, metric: str | None = None, *, explained: bool = False
) -> Table:
    """The tables of some runs and their evaluations.

    Args:
        runs: as `dgbench.record.runs` gives them.
        rows: as `dgbench.record.read` gives them.
        chooser: the criterion.
        metric: what is reported; None: the score by which is selected.
        explained: whether `explain` follows.
    """
    covered, chosen = coverage(runs), chooser.choose(rows, metric)
    of_cells = with_cells(runs)
    facts = of_cells.group_by(TABLE).agg(pl.col(_FACTS).first()).sort(TABLE)
    if metric is not None:
        facts = facts.with_columns(score=pl.lit(metric))
    cells = (
        facts.drop("dataset_domains", "error_bar")
        .rename({"score": "metric"})
        .join(tidy(chosen, covered, facts), on=TABLE)
    )
    cells = cells.with_columns(criterion=pl.lit(chooser.name))
    labels = notes.labels(facts)
    without = missing_pairs(runs) if chooser.needs_pairs else None
    sheets, averages = [], []
    for fact, label in zip(facts.iter_rows(named=True), labels, strict=True):
        of = [pl.col(name) == fact[name] for name in TABLE]
        mine = cells.filter(of)
        names = set(mine["column"])
        columns = [name for name in fact["dataset_domains"].split(" ") if name in names] + [AVERAGE]
        its_runs = of_cells.filter(of)
        said = notes.of_table(its_runs, covered.filter(of), chosen.filter(of), chooser, fact["score"])
        if without is not None:
            own = without.filter(pl.col("run_id").is_in(its_runs["run_id"].implode()))
            said = (*said, *notes.of_pairs(own, in_short=explained))
        lines = make_lines(mine, columns, fact["score"])
        title, subtitle = notes.heading(label, fact, chooser, its_runs)
        sheets.append(Sheet(title, subtitle, tuple(columns), lines, fact["score"] in IN_PERCENT, said))
        averages.append((fact, lines))
    if (pairs := len(pair_runs(runs))) and not chooser.needs_pairs:
        said = (*sheets[-1].notes, f"Left out: {pairs} runs that leave out two domains, for domain_cross_validation.")
        sheets[-1] = replace(sheets[-1], notes=said)
    return Table((*sheets, *_summaries(averages, chooser)), cells.select(_CSV))


_FACTS = ("protocol", "network", "num_steps", "dataset_domains", "score", "error_bar")
_CSV = (
    *("dataset", "data", "protocol", "protocol_key", "network", "network_key", "trained_on", "val_domains"),
    *("num_steps", "criterion", "metric", *METHOD, "column", "mean", "se", "num_trials", "expected_trials"),
    *("is_missing", "num_runs", "num_diverged", "failed", "unfinished"),
)


def _summaries(tables: Sequence[tuple[dict[str, Any], tuple[Line, ...]]], chooser: Selection) -> Iterator[Sheet]:
    """Averages side by side: of datasets that were compared alike, and of the training domains of one dataset."""
    datasets: dict[tuple[str, ...], dict[str, list[tuple[Line, ...]]]] = {}
    sources: dict[tuple[str, ...], dict[str, list[tuple[Line, ...]]]] = {}
    for fact, lines in tables:
        same = ("score", "protocol", "trained_on", "val_domains")
        datasets.setdefault(tuple(fact[name] for name in same), {}).setdefault(fact["dataset"], []).append(lines)
        if fact["trained_on"] != ALL_OTHERS and " " not in fact["trained_on"]:
            key = tuple(fact[name] for name in ("score", *TABLE) if name != "trained_on")
            sources.setdefault(key, {}).setdefault(fact["trained_on"], []).append(lines)
    for key, parts in datasets.items():
        metric, protocol, trained_on, _ = key
        yield from _side_by_side(parts, metric, notes.of_overall(list(parts), metric, protocol, trained_on, chooser))
    for key, parts in sources.items():
        yield from _side_by_side(parts, key[0], notes.of_sources(key[1], key[0], chooser))


def _side_by_side(
    parts: dict[str, list[tuple[Line, ...]]], metric: str, said: tuple[str, str, tuple[str, ...]]
) -> Iterator[Sheet]:
    # Two tables of one dataset (two networks, say) would count it twice.
    if len(parts) < 2 or any(len(lines) > 1 for lines in parts.values()):
        return
    tables = [lines for (lines,) in parts.values()]
    merged = []
    for name in dict.fromkeys(line.method for lines in tables for line in lines):
        own = [next((line for line in lines if line.method == name), None) for lines in tables]
        expected = [lines[0].cells[-1].expected_trials for lines in tables]
        cells = [
            line.cells[-1] if line else Cell(None, None, 0, n, is_average=True)
            for line, n in zip(own, expected, strict=True)
        ]
        totals = [(line or lines[0]).found.split("/") for line, lines in zip(own, tables, strict=True)]
        found = sum(int(total[0]) for total, line in zip(totals, own, strict=True) if line)
        merged.append((name, (*cells, mean_of(cells)), (found, sum(int(total[1]) for total in totals))))
    title, subtitle, below = said
    yield Sheet(title, subtitle, (*parts, AVERAGE), ranked(merged, metric), metric in IN_PERCENT, below)
