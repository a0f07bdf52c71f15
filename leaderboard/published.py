"""Published numbers beside one's own: as a table of their own, never ranked with it.

`published.json` holds them, each with the source that it was read from and the place in it. Numbers that somebody
recalls do not belong there.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import pydantic

from .aggregate import AVERAGE, Cell, Line

if TYPE_CHECKING:
    from .tables import Sheet

MARK = "(published)"


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(_Strict):
    """Where numbers were read, and how they came about."""

    title: str
    url: str
    file: str
    protocol: str
    network: str
    metric: Literal["accuracy"]
    unit: Literal["%"]
    draws: int
    trials: int
    error_bar: Literal["n", "n-1"]


class Number(_Strict):
    """One number of one source."""

    method: str
    criterion: str
    dataset: str
    """Its name here, with the names of its domains here."""
    column: str
    """A test domain, or the average over them."""
    value: float
    error: float | None
    """Standard error over trials; None: it was not read."""
    source: str
    place: str
    """Which table of the source's file."""


class Published(_Strict):
    """All of them."""

    sources: dict[str, Source]
    numbers: tuple[Number, ...]


def published() -> Published:
    """What `published.json` holds."""
    return Published.model_validate_json(files(__package__).joinpath("published.json").read_text("utf-8"))


def sheets(datasets: Sequence[str], criterion: str, metric: str) -> tuple[list[Sheet], list[str]]:
    """Tables of what was published, and the datasets of which nothing was.

    Args:
        datasets: the datasets of the runs.
        criterion: how models are selected.
        metric: what the runs' tables report.
    """
    held = published()
    made, without = [], []
    for dataset in dict.fromkeys(datasets):
        own = [n for n in held.numbers if (n.dataset, n.criterion) == (dataset, criterion)]
        by_source = {name: [n for n in own if n.source == name] for name in dict.fromkeys(n.source for n in own)}
        found = [
            _sheet(dataset, criterion, held.sources[name], numbers)
            for name, numbers in by_source.items()
            if held.sources[name].metric == metric
        ]
        made += found
        without += [] if found else [dataset]
    return made, without


def _sheet(dataset: str, criterion: str, source: Source, numbers: Sequence[Number]) -> Sheet:
    from .tables import Sheet

    columns = [name for name in dict.fromkeys(n.column for n in numbers) if name != AVERAGE] + [AVERAGE]
    lines = []
    for method in dict.fromkeys(n.method for n in numbers):
        at = {n.column: n for n in numbers if n.method == method}
        cells = tuple(_cell(at.get(column), source.trials) for column in columns)
        lines.append(Line(None, f"{method} {MARK}", cells, ""))
    places = "; ".join(dict.fromkeys(n.place for n in numbers))
    return Sheet(
        f"{dataset}: published {source.metric} in {source.unit}, selected by {criterion}",
        f"protocol {source.protocol}; {source.network}; {source.trials} trials; {source.draws} hparams draws",
        tuple(columns),
        tuple(lines),
        True,
        (
            f"Published, not run here, and not ranked with the runs: {source.title}, {source.url}, {source.file} "
            f"({places}). ± is the standard error over trials ({source.error_bar}).",
        ),
    )


def _cell(number: Number | None, trials: int) -> Cell:
    if number is None:
        return Cell(None, None, 0, trials, is_average=True)
    error = None if number.error is None else number.error / 100
    return Cell(number.value / 100, error, trials, trials, is_average=number.column == AVERAGE)


def sentence(without: Sequence[str], criterion: str) -> str:
    """That nothing was published of some datasets."""
    return f"No published rows of {', '.join(without)}, selected by {criterion}, are known here."
