"""Comparisons of methods with a baseline, read from runs: one table per dataset, and one over the datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from dgbench.cells import CELL, TABLE, TRIAL, coverage, with_cells
from dgbench.registry import UnknownName
from dgbench.selection import LOWER_IS_BETTER, selection

from . import notes
from .aggregate import named
from .over_datasets import OverDatasets, grid, over_datasets
from .render import Printed
from .statistics import LEVEL, MIN_TRIALS, Difference, min_p, paired_differences
from .tables import IN_PERCENT, Paths, evaluations, runs_under


@dataclass(frozen=True)
class Comparison:
    """The differences of one table's methods from a baseline."""

    title: str
    subtitle: str
    differences: tuple[Difference, ...]
    is_percent: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Comparisons(Printed):
    """One comparison per table, then one per group of datasets that were compared alike; prints as text."""

    parts: tuple[Comparison, ...]
    over_datasets: tuple[OverDatasets, ...] = ()
    notes: tuple[str, ...] = ()
    """Of all parts."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, part in enumerate(self.parts):
            if place:
                yield Text()
            yield Text(part.title, style="bold")
            yield Text(part.subtitle, style="dim")
            yield _grid(part)
            yield from _lines(part.notes)
        if len(self.parts) > 1:
            yield Text()
        yield from _lines(self.notes)
        for whole in self.over_datasets:
            yield Text()
            yield Text(whole.title, style="bold")
            yield Text(whole.subtitle, style="dim")
            yield grid(whole)
            yield from _lines(whole.notes)


def _lines(notes_: Sequence[str]) -> Iterator[Text]:
    return (Text(note, style="dim") for note in notes_)


def compare(runs: Paths, baseline: str, criterion: str = "train_validation", metric: str | None = None) -> Comparisons:
    """Compare methods with a baseline, paired by trial: on each dataset, and over datasets compared alike.

    Args:
        runs: folders of runs (a sweep's runs_dir), or single runs.
        baseline: a method as tables name it: its label, or its algorithm.
        criterion: how models are selected, of `dgbench.selection.criteria()`.
        metric: what is compared; None: the score by which is selected.

    Raises:
        UnknownName: a criterion or metric that does not exist, or a baseline that no table has.
        ValueError: there is nothing to compare.
    """
    chooser = selection(criterion)
    found = runs_under(runs)
    covered, chosen = coverage(found), chooser.choose(evaluations(found, metric), metric)
    cells = with_cells(found)
    facts = cells.group_by(TABLE).agg(pl.col("protocol", "network", "num_steps", "score").first()).sort(TABLE)
    parts: list[Comparison] = []
    without: list[str] = []
    alike: dict[tuple[str, ...], list[tuple[str, pl.DataFrame]]] = {}
    for fact, label in zip(facts.iter_rows(named=True), notes.labels(facts), strict=True):
        of = [pl.col(name) == fact[name] for name in TABLE]
        values = _values(covered.filter(of), chosen.filter(of))
        if baseline not in values["method"]:
            without.append(label)
            continue
        its_metric = metric or fact["score"]
        title, subtitle = notes.heading(label, {**fact, "score": its_metric}, chooser, cells.filter(of))
        differences = tuple(paired_differences(values, baseline))
        said = (*_of_methods(differences), *_of_diverged(chosen.filter(of)))
        title = f"{title}; differences from {baseline}"
        parts.append(Comparison(title, subtitle, differences, its_metric in IN_PERCENT, said))
        key = (its_metric, *(fact[name] for name in ("protocol", "trained_on", "val_domains")))
        alike.setdefault(key, []).append((fact["dataset"], values))
    if not parts:
        raise UnknownName("method (baseline)", baseline, found.select(named(found)).to_series().unique().sort())
    if not any(part.differences for part in parts):
        raise ValueError(f"There is nothing to compare with {baseline}: no other method has runs. Name more folders.")
    few = _of_few([difference for part in parts for difference in part.differences])
    left_out = (f"Left out, as {baseline} is not there: {', '.join(without)}.",) if without else ()
    wholes, unsaid = _over_datasets(alike, baseline, criterion)
    return Comparisons(tuple(parts), wholes, (_MEANING, *few, *left_out, *unsaid))


_MEANING = (
    "A method minus the baseline within each trial, averaged over the test domains. Interval: 95 %, Student's t over "
    "trials. p: paired t test; Holm: corrected for the number of methods. Differs: Holm's p is below "
    "0.05, of three trials or more."
)


def _over_datasets(
    alike: Mapping[tuple[str, ...], Sequence[tuple[str, pl.DataFrame]]], baseline: str, criterion: str
) -> tuple[tuple[OverDatasets, ...], tuple[str, ...]]:
    """The tables over datasets, and why there is none."""
    made, said = [], []
    for (metric, protocol, trained_on, _), frames in alike.items():
        values = dict(frames)
        if len(frames) < 2:
            continue
        names = ", ".join(values)
        if len(values) < len(frames):
            said.append(f"No table over datasets: {names}, of which some were compared in several ways, count twice.")
            continue
        title = f"{len(values)} datasets: {notes.measure(metric)}, selected by {criterion}; differences from {baseline}"
        subtitle = f"{names}; protocol {protocol}; trained on {trained_on}"
        whole = over_datasets(
            values,
            baseline,
            lower_is_better=metric in LOWER_IS_BETTER,
            heading=(title, subtitle),
            is_percent=metric in IN_PERCENT,
        )
        if whole is None:
            said.append(
                f"No table over datasets: fewer than two methods have full trials and only numbers on all of {names}."
            )
            continue
        if metric in IN_UNITS_OF_DATA:
            whole = replace(whole, notes=(*whole.notes, f"{metric} {_UNITS}"))
        made.append(whole)
    return tuple(made), tuple(said)


IN_UNITS_OF_DATA = ("rmse", "mae")
_UNITS = (
    "is in each dataset's own unit: the difference, the IQM, the worst domain and the rank weigh datasets by their "
    "units. The mean rank does not."
)


def _values(covered: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """One row per number that a table should have, null where it has none, as `paired_differences` takes them."""
    return covered.join(chosen.select(*CELL, "value"), on=CELL, how="left").select(
        "test_domain", "value", method=named(covered), trial=pl.format("{}/{}", *TRIAL)
    )


def _of_methods(differences: Sequence[Difference]) -> tuple[str, ...]:
    """Their notes, each with the methods that it holds for."""
    methods: dict[str, list[str]] = {}
    for difference in differences:
        if difference.note:
            methods.setdefault(difference.note, []).append(difference.method)
    return tuple(f"{', '.join(names)}: {note}" for note, names in methods.items())


def _of_few(differences: Sequence[Difference]) -> tuple[str, ...]:
    """What trials are too few to show without the t test's assumption."""
    numbers = sorted(
        {
            d.num_trials
            for d in differences
            if d.p is not None and d.num_trials >= MIN_TRIALS and min_p(d.num_trials) >= LEVEL
        }
    )
    return tuple(
        f"{number} trials can show a difference only if differences are normal, as the t test takes them to be: by "
        f"their signs (Wilcoxon) the smallest p is {min_p(number):.3g}."
        for number in numbers
    )


def _of_diverged(chosen: pl.DataFrame) -> tuple[str, ...]:
    number = (chosen["status"] == "diverged").sum()
    return (f"Numbers of runs that diverged are among them: {number} of {len(chosen)}.",) if number else ()


def _grid(part: Comparison) -> Grid:
    grid = Grid(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("method", overflow="fold")
    for name in ("trials", "difference", "95 % interval", "p", "Holm"):
        grid.add_column(name, justify="right")
    grid.add_column("verdict")

    def number(value: float | None) -> str:
        return "—" if value is None else f"{100 * value:+.1f}" if part.is_percent else f"{value:+.3f}"

    for d in part.differences:
        p, corrected = ("—" if v is None else f"{v:.3f}" if v >= 0.001 else "<0.001" for v in (d.p, d.holm_p))
        interval = "—" if d.low is None else f"[{number(d.low)}, {number(d.high)}]"
        grid.add_row(Text(d.method), str(d.num_trials), number(d.mean), interval, p, corrected, d.verdict)
    return grid
