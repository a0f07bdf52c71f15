"""What trained runs give to draw: one row per number of a table, by the names that people read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import polars as pl

from dgbench.cells import CELL, TABLE, TRIAL, coverage, with_cells
from dgbench.registry import UnknownName
from dgbench.selection import LOWER_IS_BETTER, selection

from .. import notes, tables
from ..aggregate import named
from ..tables import IN_PERCENT, evaluations, runs_under

if TYPE_CHECKING:
    from . import Request

# What tells tables of one dataset apart, in words.
_WORDS = {"protocol": "protocol {}", "network": "{}", "trained_on": "trained on {}", "val_domains": "validated on {}"}


def results(request: Request, per_run: bool = False) -> pl.DataFrame:
    """One row per number that tables should have, null where it is missing, of the runs that the criterion chooses.

    Columns: panel (number of the table), title (what tells it from the others), dataset, metric, score, method,
    test_domain, place (of the domain among the dataset's), trial, value, selection_value, run_id, step, weights, split,
    status, seconds, peak_memory.

    Args:
        request: what is to be drawn.
        per_run: every finished run is chosen from by itself, instead of all runs of a cell.
    """
    chooser = selection(request.criterion)
    found = _wanted(request)
    rows = evaluations(found, request.metric)
    covered = coverage(found)
    if per_run:
        # A run that has no rival in its cell is chosen, at the step that is best within it.
        alone = pl.format("{}/{}/{}", "variant", "hparams", "hparams_seed")
        chosen = chooser.choose(rows.with_columns(variant=alone), request.metric).drop("variant")
        cells = chosen.join(found.select("run_id", "variant"), on="run_id")
    else:
        cells = covered.join(chooser.choose(rows, request.metric), on=CELL, how="left")
    facts = with_cells(found).group_by(TABLE).agg(pl.col("protocol", "network", "dataset_domains", "score").first())
    facts = facts.sort(TABLE).with_row_index("panel")
    facts = facts.with_columns(title=pl.Series(titles(facts)), metric=pl.lit(request.metric, dtype=pl.String))
    domains = pl.col("dataset_domains").str.split(" ")
    made = (
        cells.join(facts.select(*TABLE, "panel", "title", "metric", "score", "dataset_domains"), on=TABLE)
        .join(found.select("run_id", "seconds", "peak_memory"), on="run_id", how="left")
        .with_columns(method=named(covered), trial=pl.format("{}/{}", *TRIAL), metric=pl.coalesce("metric", "score"))
    )
    order = (
        facts.select("panel", test_domain=domains)
        .explode("test_domain")
        .with_columns(place=pl.int_range(pl.len()).over("panel"))
    )
    made = made.join(order, on=["panel", "test_domain"], how="left").select(_COLUMNS)
    return _of_methods(made, request).sort("panel", "method", "place", "trial", "run_id")


_COLUMNS = (
    *("panel", "title", "dataset", "metric", "score", "method", "test_domain", "place", "trial", "value"),
    *("selection_value", "run_id", "step", "weights", "split", "status", "seconds", "peak_memory"),
)


def _wanted(request: Request) -> pl.DataFrame:
    found = runs_under(request.runs)
    check(request.dataset, found["dataset"].unique().sort(), "dataset of these runs")
    return found.filter(pl.col("dataset").is_in(request.dataset)) if request.dataset else found


def _of_methods(made: pl.DataFrame, request: Request) -> pl.DataFrame:
    methods = made["method"].unique().sort()
    check(request.method, methods, "method of these runs")
    if request.baseline is not None:
        check([request.baseline], methods, "method (baseline)")
    if not request.method:
        return made
    return made.filter(pl.col("method").is_in([*request.method, *([request.baseline] if request.baseline else [])]))


def check(names: Iterable[str], known: pl.Series, what: str) -> None:
    """Refuse a name that is not there.

    Raises:
        UnknownName: it is not.
    """
    for name in names:
        if name not in known:
            raise UnknownName(what, name, known)


def where(request: Request) -> str:
    """The folders of a request, for sentences."""
    return tables.where(request.runs)


def titles(facts: pl.DataFrame) -> list[str]:
    """Each table's dataset, with what tells it from others of that dataset."""
    labels = notes.labels(facts)
    made = []
    for row, label in zip(facts.iter_rows(named=True), labels, strict=True):
        rivals = facts.filter(pl.Series(labels) == label)
        differing = [name for name in _WORDS if rivals[name].n_unique() > 1]
        marks = [_WORDS[name].format(row[name].replace(" ", ", ") or "none") for name in differing]
        made.append(", ".join([label, *marks]))
    return made


def baseline_of(frame: pl.DataFrame, request: Request) -> str | None:
    """The method beside which the others are seen, None if it is not there."""
    return request.baseline or ("erm" if "erm" in frame["method"] else None)


def trial_means(frame: pl.DataFrame, *values: str) -> pl.DataFrame:
    """Per panel, method and trial the mean over test domains, null where one lacks; the other columns are constant.

    Args:
        frame: as `results` gives it.
        values: which columns are averaged.
    """
    keys = ["panel", "title", "dataset", "metric", "method", "trial"]
    means = [pl.when(pl.col(name).count() == pl.len()).then(pl.col(name).mean()).alias(name) for name in values]
    return frame.group_by(keys, maintain_order=True).agg(*means)


def scale_of(metric: str) -> float:
    """What a metric is multiplied by before it is shown."""
    return 100.0 if metric in IN_PERCENT else 1.0


def best_first(methods: Sequence[tuple[str, float | None]], metric: str) -> list[str]:
    """Names of (method, value) by value, best first, then NaN, then those without; equal ones by name."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    worth = {name: (value is None, value is None or value != value, sign * (value or 0)) for name, value in methods}
    return sorted(worth, key=lambda name: (worth[name][:2], 0 if worth[name][1] else worth[name][2], name))


def ordered(means: pl.DataFrame) -> list[str]:
    """All methods of some trial means, best first by the mean over panels of each one's place in them."""
    places: dict[str, list[int]] = {}
    for panel in means.partition_by("panel", maintain_order=True):
        by_method = panel.group_by("method", maintain_order=True).agg(pl.col("value").mean())
        names = best_first(list(by_method.iter_rows()), panel["metric"][0])
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
    return sorted(places, key=lambda name: (sum(places[name]) / len(places[name]), name))
