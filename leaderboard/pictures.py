"""The page's pictures as coordinates, which a template makes SVG of: intervals around a line, and mean ranks.

Lengths are in pixels. Those of `dgbench plot` carry styles of their own, which the page's policy forbids and which
would not follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .standings import Board, Ranks

# Of the two pictures; of a line in them.
FOREST, RANKS = 680, 820
LINE = 22
# Room for a name, and how many characters fill it.
MARGIN, FITTING = 190, 22


@dataclass(frozen=True)
class Label:
    """A method's name where it stands."""

    name: str
    shown: str
    """As much of it as there is room for."""
    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """Of an axis."""

    x: float
    text: str


@dataclass(frozen=True)
class Interval:
    """A method's difference from the baseline."""

    label: Label
    low: float
    high: float
    mean: float
    is_shown: bool
    text: str
    """The numbers."""


@dataclass(frozen=True)
class Forest:
    """Differences from a baseline with their intervals."""

    height: float
    zero: float
    ticks: tuple[Tick, ...]
    intervals: tuple[Interval, ...]


def forest(board: Board) -> Forest | None:
    """The differences of a board's methods from its baseline; None if there are none with an interval."""
    factor = 100 if board.is_percent else 1
    found = [
        (row.entry.name, row.gap, factor * row.gap.low, factor * row.gap.high)
        for row in board.ranked
        if row.gap and row.gap.low is not None and row.gap.high is not None
    ]
    if not found:
        return None
    ticks = _ticks(min(0.0, *(low for *_, low, _ in found)), max(0.0, *(high for *_, high in found)))
    first, last = ticks[0], ticks[-1]

    def at(value: float) -> float:
        return round(MARGIN + (FOREST - MARGIN - 20) * (value - first) / (last - first), 1)

    digits = 1 if board.is_percent else 3
    intervals = [
        Interval(
            _label(name, MARGIN - 10, LINE * (place + 0.5)),
            at(low),
            at(high),
            at(factor * gap.mean),
            gap.is_shown,
            f"{name}: {factor * gap.mean:+.{digits}f}, 95 % interval {low:+.{digits}f} to {high:+.{digits}f}",
        )
        for place, (name, gap, low, high) in enumerate(found)
    ]
    return Forest(LINE * len(found), at(0.0), tuple(Tick(at(t), _number(t)) for t in ticks), tuple(intervals))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, the first at most `low` and the last at least `high`."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * size for size in (1, 2, 5, 10) if span / (power * size) <= 6)
    return [step * n for n in range(math.floor(low / step), math.ceil(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _label(name: str, x: float, y: float) -> Label:
    return Label(name, name if len(name) <= FITTING else f"{name[: FITTING - 1]}…", x, y)


@dataclass(frozen=True)
class Mark:
    """A method on the axis of ranks, joined to its name."""

    label: Label
    is_left: bool
    x: float
    rank: float


@dataclass(frozen=True)
class Bar:
    """From one rank to another."""

    left: float
    right: float
    y: float


@dataclass(frozen=True)
class Diagram:
    """Mean ranks, the best on the left; bars join methods of which no pair is shown to differ."""

    height: float
    axis: float
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    bars: tuple[Bar, ...]
    difference: Bar
    """As long as the critical difference, or as the axis if that is shorter."""
    critical_difference: float


def diagram(ranks: Ranks | None) -> Diagram | None:
    """A critical-difference diagram; None for fewer than three methods, which have nothing to cluster.

    Source: J. Demšar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, figure 1.
    """
    if ranks is None or len(ranks.means) < 3:
        return None
    k = len(ranks.means)

    def at(rank: float) -> float:
        return round(MARGIN + (RANKS - 2 * MARGIN) * (rank - 1) / (k - 1), 1)

    cliques = list(_cliques([mean for _, mean in ranks.means], ranks.critical_difference))
    axis = 52.0
    bars = tuple(Bar(at(low) - 3, at(high) + 3, axis + 12 + 8 * place) for place, (low, high) in enumerate(cliques))
    top = axis + 22 + 8 * len(bars)
    half = (k + 1) // 2
    marks = []
    for place, (name, mean) in enumerate(ranks.means):
        is_left = place < half
        y = top + LINE * (place if is_left else k - 1 - place)
        marks.append(Mark(_label(name, MARGIN - 10 if is_left else RANKS - MARGIN + 10, y), is_left, at(mean), mean))
    every = max(1, math.ceil((k - 1) / 12))
    ticks = tuple(Tick(at(rank), str(rank)) for rank in range(1, k + 1, every))
    cd = Bar(at(1), at(min(k, 1 + ranks.critical_difference)), 14.0)
    return Diagram(top + LINE * half, axis, ticks, tuple(marks), bars, cd, ranks.critical_difference)


def _cliques(means: Sequence[float], distance: float) -> Iterator[tuple[float, float]]:
    """First and last rank of the largest sets that differ by less than the distance, from sorted mean ranks."""
    reached = 0
    for place, low in enumerate(means):
        last = max(index for index, mean in enumerate(means) if mean - low < distance)
        if last > max(place, reached):
            yield low, means[last]
            reached = last
