"""Names beside points, so that none covers another name, a point or a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from ._style import FAINT, SMALL

# Points of print between a mark and the nearest place of its name, and how far a name may go.
NEAR, STEP, FAR = 5.0, 6.0, 250.0
DIRECTIONS = 16


def place(
    ax: Axes, points: Sequence[tuple[str, float, float, bool]], lines: Sequence[tuple[float, float, float, float]] = ()
) -> None:
    """Write names at the nearest free places, with a thin line where one is not next to its point.

    Args:
        ax: drawn before, so that it knows its size.
        points: (name, x, y, whether it is bold), in the order in which they choose.
        lines: (x, y, x, y) of horizontal and vertical lines that are not to be covered.
    """
    ax.autoscale(False)
    dots = ax.figure.dpi / 72
    where = ax.transData.transform([point[1:3] for point in points])
    ends = [ax.transData.transform([(min(a, c), min(b, d)), (max(a, c), max(b, d))]) for a, b, c, d in lines]
    crowd = _Crowd(where, [Bbox(end) for end in ends], dots)
    for (name, x, y, is_bold), at in zip(points, where, strict=True):
        weight = "bold" if is_bold else "normal"
        text: Any = ax.annotate(name, (x, y), fontsize=SMALL, fontweight=weight, va="center", annotation_clip=False)
        text.set_in_layout(False)
        size = text.get_window_extent()
        offset, box = _nearest(at, np.array([size.width, size.height]), ax.get_window_extent(), crowd, dots)
        crowd.marks.append(box)
        text.set_ha("center")
        text.xyann = offset / dots
        text.anncoords = "offset points"
        _join(ax, (x, y), at, box, dots)


def _nearest(at: np.ndarray, size: np.ndarray, inside: Bbox, crowd: _Crowd, dots: float) -> tuple[np.ndarray, Bbox]:
    """The middle of the nearest free place relative to the point, in dots, and the place.

    If none is free, lines are covered; if that does not help either, it is the last that was tried.
    """
    least, found = 3, (np.zeros(2), Bbox.null())
    for offset in _places(size[0], size[1], dots):
        box = Bbox.from_bounds(*(at + offset - size / 2), *size)
        if not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1):
            continue
        if (fault := crowd.fault(at, box)) < least:
            least, found = fault, (offset, box)
        if not least:
            break
    return found if least < 3 else (offset, box)


class _Crowd:
    """What is on a panel already, in dots."""

    def __init__(self, points: np.ndarray, lines: Sequence[Bbox], dots: float):
        self.points = points
        self.lines = [line.padded(dots) for line in lines]
        self.marks = [Bbox.from_bounds(x - 3 * dots, y - 3 * dots, 6 * dots, 6 * dots) for x, y in points]

    def fault(self, at: np.ndarray, box: Bbox) -> int:
        """What is wrong with a name there: 0 nothing, 1 it is nearer to another point, 2 it covers a line, 3 a name."""
        if _touches(box, self.marks):
            return 3
        if _touches(box, self.lines):
            return 2
        distances = np.hypot(*(self.points - np.clip(self.points, box.min, box.max)).T)
        return int(distances.min() < np.hypot(*(at - np.clip(at, box.min, box.max))) - 1e-6)


def _touches(box: Bbox, others: Sequence[Bbox]) -> bool:
    x0, y0, x1, y1 = np.array([other.extents for other in others]).reshape(-1, 4).T
    return bool(((x0 < box.x1) & (x1 > box.x0) & (y0 < box.y1) & (y1 > box.y0)).any())


def _places(width: float, height: float, dots: float) -> Iterator[np.ndarray]:
    """Offsets of a name's middle: right, left, above, below, then around in growing distance."""
    distance = NEAR * dots
    while distance < FAR * dots:
        for turn in sorted(range(DIRECTIONS), key=lambda turn: (turn % 4, turn)):
            angle = 2 * math.pi * turn / DIRECTIONS
            direction = np.array([math.cos(angle), math.sin(angle)])
            yield direction * distance + np.sign(direction.round(6)) * np.array([width, height]) / 2 * abs(direction)
        distance += STEP * dots


def _join(ax: Axes, point: tuple[float, float], at: np.ndarray, box: Bbox, dots: float) -> None:
    """A line from a point to its name, if that is away from it."""
    end = np.clip(at, [box.x0, box.y0], [box.x1, box.y1])
    if np.hypot(*(end - at)) > (NEAR + 2) * dots:
        x, y = ax.transData.inverted().transform(end)
        ax.plot([point[0], x], [point[1], y], color=FAINT, linewidth=0.4, zorder=2)
