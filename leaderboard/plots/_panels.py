"""Pictures of several panels of one size that share a legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ._style import FAINT, ONE_COLUMN, TWO_COLUMNS, Picture, Style

COLUMNS = 2
MAX_PANELS = 24
OTHERS = "Grey: the others; --method draws those that it names."


def check_panels(num: int) -> None:
    """Refuse more panels than anyone reads.

    Raises:
        ValueError: they are.
    """
    if num > MAX_PANELS:
        raise ValueError(f"{num} panels, expected at most {MAX_PANELS}. Name fewer folders, datasets or methods.")


def grid(title: str, notes: Sequence[str], num: int, named: Sequence[str]) -> tuple[Picture, np.ndarray]:
    """A picture with panels, and these; one panel takes one column of print, several take two.

    Args:
        title: of the picture.
        notes: below it.
        num: of panels.
        named: entries of the legend.

    Raises:
        ValueError: more panels than anyone reads.
    """
    check_panels(num)
    columns = min(COLUMNS, num)
    rows = math.ceil(num / columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    figure = Picture(title, notes, width, rows * 2.2, math.ceil(len(named) / _legend_columns(width, named)))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[num:]:
        ax.set_axis_off()
    return figure, axes[:num]


def legend(figure: Picture, looks: Mapping[str, Style], others: int) -> None:
    """The names of lines and marks, below the panels."""
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=4, label=name)
        for name, look in looks.items()
    ]
    if others:
        handles.append(Line2D([], [], color=FAINT, linewidth=0.5, label=entries({}, others)[0]))
    names = [str(handle.get_label()) for handle in handles]
    figure.legend_below(handles, _legend_columns(figure.get_figwidth(), names))


def entries(looks: Mapping[str, Style], others: int) -> list[str]:
    """What the legend has."""
    return [*looks, *([f"{others} others"] if others else [])]


def _legend_columns(width: float, names: Sequence[str]) -> int:
    # A letter of 7 pt takes 0.06 inches, a sample of a line half an inch.
    return max(1, min(4, int(width / (0.6 + 0.06 * max(map(len, names), default=1)))))


def head(ax: Axes, title: str) -> None:
    """A panel's title."""
    ax.set_title(textwrap.fill(title, 44), loc="left")
