"""Whether methods differ from a baseline: paired differences over trials, with their uncertainty.

A trial is one replication: within it all methods see the same split of the data. Its value is the mean over the test
domains, which are no replications of each other: they share training data.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Grid
from rich.text import Text
from scipy import stats

from dgbench import record
from dgbench.cells import CELL, METHOD, TABLE, TRIAL, coverage, with_cells
from dgbench.registry import UnknownName
from dgbench.selection import DIGITS, selection

from . import notes
from .aggregate import method_names
from .tables import IN_PERCENT, Paths, check_metric

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, over the trials that both have."""

    method: str
    num_trials: int
    mean: float | None
    """In the units of the values; None without a common trial."""
    se: float | None = None
    """Standard error of the mean (n-1); None for fewer than two trials, as are the interval and p."""
    low: float | None = None
    """Of the interval that covers the true difference in 95 % of such experiments, by Student's t."""
    high: float | None = None
    p: float | None = None
    """Of the paired, two-sided t test."""
    holm_p: float | None = None
    """Corrected for the number of methods."""
    note: str | None = None
    """What a reader must know, a sentence."""

    @property
    def verdict(self) -> str:
        """What follows at the level of 5 %, after Holm's correction."""
        if self.holm_p is None:
            return "not tested"
        return "differs" if self.holm_p < LEVEL else "no difference shown"


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

    A trial in which a method lacks one of the test domains, or has no number there, is none of that method's.

    Args:
        values: columns method, trial, test_domain and value, one row per number.
        baseline: a method.

    Raises:
        UnknownName: no such method.
        ValueError: two numbers for one place.
    """
    by_method = _trial_means(values)
    if baseline not in by_method:
        raise UnknownName("method (baseline)", baseline, by_method)
    num_trials = values["trial"].n_unique()
    base = by_method.pop(baseline)
    made = [_difference(method, trials, base, num_trials) for method, trials in by_method.items()]
    tested = [place for place, difference in enumerate(made) if difference.p is not None]
    for place, corrected in zip(tested, holm([made[place].p or 0.0 for place in tested]), strict=True):
        made[place] = replace(made[place], holm_p=corrected)
    return made


def _trial_means(values: pl.DataFrame) -> dict[str, dict[object, float]]:
    """Per method and trial the mean over all test domains, where all are there."""
    keys = ["method", "trial", "test_domain"]
    if len(twice := values.group_by(keys).len().filter(pl.col("len") > 1).sort("method")):
        method, trial, domain, number = twice.row(0)
        raise ValueError(
            f"{number} values of {method} on {domain} in trial {trial}, expected one. Name runs of one sweep, or give "
            "rows that differ labels of their own."
        )
    num_domains = values["test_domain"].n_unique()
    value = pl.col("value").cast(pl.Float64)
    # Sorted, as the sum depends on the order; rounded, as equal numbers must not differ in the last digit.
    means = (
        values.filter(value.is_finite())
        .sort(keys)
        .group_by("method", "trial", maintain_order=True)
        .agg(value.mean().round_sig_figs(DIGITS), num_domains=pl.len())
        .filter(pl.col("num_domains") == num_domains)
    )
    found: dict[str, dict[object, float]] = {name: {} for name in values["method"].unique().sort()}
    for row in means.iter_rows(named=True):
        found[row["method"]][row["trial"]] = row["value"]
    return found


def _difference(method: str, own: dict[object, float], base: dict[object, float], num_trials: int) -> Difference:
    common = [trial for trial in own if trial in base]
    n = len(common)
    a, b = (np.array([side[trial] for trial in common]) for side in (own, base))
    said = []
    if n < num_trials:
        said.append(f"Compared on the {n} of {num_trials} trials that both it and the baseline have in full.")
    if n < 2:
        said.append("A test needs at least two trials.")
        return Difference(method, n, float((a - b)[0]) if n else None, note=" ".join(said))
    if n == 2:
        said.append("Two trials leave one degree of freedom: the interval is ±12.7 standard errors.")
    d = a - b
    mean, se = float(d.mean()), float(d.std(ddof=1) / math.sqrt(n))
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * se
    return Difference(method, n, mean, se, mean - reach, mean + reach, _p(a, b), note=" ".join(said) or None)


def _p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the paired t test; 1 where nothing differs, for which the test has no statistic."""
    if (a == b).all():
        return 1.0
    with warnings.catch_warnings():
        # That the differences are all but equal, which makes p small and is no error.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_rel(a, b).pvalue)


@dataclass(frozen=True)
class Comparison:
    """The differences of one table's methods from a baseline."""

    title: str
    subtitle: str
    differences: tuple[Difference, ...]
    is_percent: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparisons:
    """One comparison per table; prints as text."""

    parts: tuple[Comparison, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, part in enumerate(self.parts):
            if place:
                yield Text()
            yield Text(part.title, style="bold")
            yield Text(part.subtitle, style="dim")
            yield _grid(part)
            for note in part.notes:
                yield Text(note, style="dim")

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    __repr__ = __str__


def compare(runs: Paths, baseline: str, criterion: str = "train_validation", metric: str | None = None) -> Comparisons:
    """Compare methods with a baseline, paired by trial.

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
    found = record.runs(runs)
    if found.is_empty():
        where = ", ".join(map(str, [runs] if isinstance(runs, str | Path) else runs))
        raise ValueError(f"No runs under {where}. Name the runs_dir of a sweep, or let it begin.")
    covered = coverage(found)
    finished = found.filter(pl.col("status").is_in(record.FINISHED) | pl.col("use_unfinished"))
    if metric is not None:
        check_metric(finished, metric)
    rows = record.read(finished, {*finished["score"], *([metric] if metric else [])})
    chosen = chooser.choose(rows, metric)
    cells = with_cells(found)
    facts = cells.group_by(TABLE).agg(pl.col("protocol", "network", "num_steps", "score").first()).sort(TABLE)
    parts, without = [], []
    for fact, label in zip(facts.iter_rows(named=True), notes.labels(facts), strict=True):
        of = [pl.col(name) == fact[name] for name in TABLE]
        values = _values(covered.filter(of), chosen.filter(of))
        if baseline not in values["method"]:
            without.append(label)
            continue
        its_metric = metric or fact["score"]
        title, subtitle = notes.heading(label, {**fact, "score": its_metric}, chooser, cells.filter(of))
        differences = tuple(paired_differences(values, baseline))
        said = (_MEANING, *_of_methods(differences), *_of_diverged(chosen.filter(of)))
        title = f"{title}; differences from {baseline}"
        parts.append(Comparison(title, subtitle, differences, its_metric in IN_PERCENT, said))
    if not parts:
        known = set(method_names(found.select(METHOD).unique().sort(METHOD).iter_rows()).values())
        raise UnknownName("method (baseline)", baseline, sorted(known))
    if not any(part.differences for part in parts):
        raise ValueError(f"There is nothing to compare with {baseline}: no other method has runs. Name more folders.")
    if without:
        said = (*parts[-1].notes, f"Left out, as {baseline} is not there: {', '.join(without)}.")
        parts[-1] = replace(parts[-1], notes=said)
    return Comparisons(tuple(parts))


_MEANING = (
    "A method minus the baseline within each trial, averaged over the test domains. Interval: 95 %, Student's t over "
    "trials. p: paired t test; Holm: corrected for the number of methods. Differs: Holm's p is below 0.05."
)


def _values(covered: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """One row per number that a table should have, null where it has none, as `paired_differences` takes them."""
    names = method_names(covered.select(METHOD).unique().sort(METHOD).iter_rows())
    named = pl.struct(METHOD).map_elements(lambda row: names[tuple(row[key] for key in METHOD)], pl.String)
    return covered.join(chosen.select(*CELL, "value"), on=CELL, how="left").select(
        "test_domain", "value", method=named, trial=pl.format("{}/{}", *TRIAL)
    )


def _of_methods(differences: Sequence[Difference]) -> tuple[str, ...]:
    """Their notes, each with the methods that it holds for."""
    methods: dict[str, list[str]] = {}
    for difference in differences:
        if difference.note:
            methods.setdefault(difference.note, []).append(difference.method)
    return tuple(f"{', '.join(names)}: {note}" for note, names in methods.items())


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
        grid.add_row(d.method, str(d.num_trials), number(d.mean), interval, p, corrected, d.verdict)
    return grid
