"""Tables of adaptations as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from .adapter_choice import ORACLE
from .statistics import Difference

BASELINE = "source"
AFTER = "after"
"""What an adapter says that answers a batch after its update on it."""


@dataclass(frozen=True)
class Row:
    """One adapter."""

    name: str
    cells: tuple[float | None, ...]
    """The mean over trials (and corruptions) on each domain of the stream, None where a trial lacks it. Where domains
    are pooled, the last is of all of them."""
    average: float | None
    """Of the single domains, over trials; None where cells are missing."""
    difference: Difference
    """From the unadapted model; Holm's p over the adapters of the table."""
    kept: float | None
    """On the training domains' held-out examples, after the stream."""
    slowdown: float | None
    """Seconds per batch in units of the unadapted model's."""
    answers: str = "before"
    """Or `after` the update on the same batch."""

    @property
    def is_oracle(self) -> bool:
        """Whether its hyper-parameters were chosen by what is reported."""
        return self.name.endswith(f", {ORACLE}")


@dataclass(frozen=True)
class Sheet:
    """One table."""

    title: str
    subtitle: str
    domains: tuple[str, ...]
    rows: tuple[Row, ...]
    is_percent: bool
    notes: tuple[str, ...]


def differ_in_answers(rows: Sequence[Row]) -> bool:
    """Whether some adapters answer before their update and others after it; the unadapted model has none."""
    return len({row.answers for row in rows if row.name != BASELINE}) > 1


def grid(sheet: Sheet) -> Grid:
    """One table."""
    grid = Grid(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("adapter", overflow="fold")
    for name in (*sheet.domains, "Average", "minus source", "kept", "time"):
        heading = Text(name.replace("_", "_\n") if len(name) > 12 else name)
        grid.add_column(heading, justify="right", overflow="fold")

    def number(value: float | None, form: str = "{:.1f}") -> str:
        if value is None:
            return "—"
        return form.format(100 * value) if sheet.is_percent else f"{value:.3f}"

    differs = differ_in_answers(sheet.rows)
    for row in sheet.rows:
        time = "—" if row.slowdown is None else f"{row.slowdown:.1f}x"
        adapter = Text(row.name + (" †" if differs and row.answers == AFTER else ""))
        gain = Text(_gain(row, sheet))
        grid.add_row(adapter, *map(number, row.cells), number(row.average), gain, number(row.kept), time)
    return grid


def _gain(row: Row, sheet: Sheet) -> str:
    d, scale, digits = row.difference, 100 if sheet.is_percent else 1, 1 if sheet.is_percent else 3
    if row.name == BASELINE or d.mean is None:
        return ""
    text = f"{scale * d.mean:+.{digits}f}"
    if d.low is not None and d.high is not None:
        text += f" [{scale * d.low:+.{digits}f}, {scale * d.high:+.{digits}f}]"
    return text + ("*" if d.verdict == "differs" else "")
