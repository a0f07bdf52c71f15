"""Timings that alternate, so that a machine's moods hit all sides alike, and tables of them beside their targets."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

# What one thread computes without waiting for anything: on an idle machine the time that passes, and elsewhere hardly
# disturbed by other processes.
processor_time = time.process_time


class Stopwatch:
    """The mean processor time of a step between two counts of steps; told after each step how many are done.

    Args:
        warm_up: steps that are not timed.
        steps: steps that are.
    """

    def __init__(self, warm_up: int, steps: int):
        self.first, self.last = warm_up, warm_up + steps
        self._at: dict[int, float] = {}

    def __call__(self, done: int) -> None:
        if done in (self.first, self.last):
            self._at[done] = processor_time()

    @property
    def total(self) -> int:
        """Steps to take; the one after the last that is timed may evaluate and save."""
        return self.last + 1

    @property
    def seconds(self) -> float:
        return (self._at[self.last] - self._at[self.first]) / (self.last - self.first)


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side returns, called in turn: A B A B ..."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            values[name].append(measure())
    return values


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    call()
    return clock() - started


def differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Of pairs that were measured one after the other."""
    return [x - y for x, y in zip(a, b, strict=True)]


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Of pairs that were measured one after the other."""
    return [x / y for x, y in zip(a, b, strict=True)]


def row(what: str, values: Sequence[float], form: str, target: str = "") -> tuple[str, ...]:
    """A line of a table.

    Args:
        what: was measured.
        values: the measurements.
        form: how one is written, e.g. `{:.2f} ms`.
        target: what is aimed at.
    """
    spread = f"{form.format(min(values))} to {form.format(max(values))}" if len(values) > 1 else ""
    return what, form.format(statistics.median(values)), spread, target


def in_ms(values: Sequence[float]) -> list[float]:
    return [1e3 * value for value in values]


def show(title: str, *rows: tuple[str, ...]) -> None:
    """Print a table of lines that `row` made, with how busy the machine is."""
    busy = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    table = Table(title=title, caption=busy, title_justify="left", caption_justify="left")
    for name, width in (("", 44), ("median", 10), ("min to max", 22), ("target", 12)):
        table.add_column(name, justify="right" if name else "left", width=width)
    for cells in rows:
        table.add_row(*cells)
    console = Console(width=100)
    console.print()
    console.print(table)
