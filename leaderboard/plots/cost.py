"""What accuracy costs: the metric against the seconds, or the memory, of a run."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from dgbench.registry import UnknownName
from dgbench.selection import LOWER_IS_BETTER

from ..notes import measure
from ..statistics import standard_error
from ._labels import place
from ._panels import check_panels, head
from ._results import baseline_of, results, scale_of, trial_means, where
from ._style import COLOURS, FAINT, INK, ONE_COLUMN, PAGE, TWO_COLUMNS, Picture

if TYPE_CHECKING:
    from . import Request

# Column of a run, factor, and what the axis says.
COSTS = {"seconds": ("seconds", 1.0, "seconds per run"), "memory": ("peak_memory", 2.0**-30, "peak memory in GiB")}
# More names than that need both columns of a page.
FEW = 12


def frame(request: Request) -> pl.DataFrame:
    """One row per table and method that has a whole trial and a cost.

    Columns: panel, title, metric, method, value (NaN where a trial has no number), value_se, cost, cost_se (standard
    errors over trials, null for one), num_trials. The cost of a trial is the mean over its runs, one per test domain:
    seconds, or GiB.

    Raises:
        UnknownName: no such cost.
        ValueError: no method has both numbers.
    """
    if request.against not in COSTS:
        raise UnknownName("cost", request.against, COSTS)
    column, factor, _ = COSTS[request.against]
    cells = results(request).with_columns(cost=factor * pl.col(column))
    trials = trial_means(cells, "value", "cost").filter(pl.col("value").is_not_null() & pl.col("cost").is_finite())
    if trials.is_empty():
        raise ValueError(
            f"No method under {where(request)} has a whole trial with {request.against} of its runs. dgbench table "
            "RUNS says what is missing."
        )
    keys = ["panel", "title", "metric", "method"]
    made = trials.group_by(keys, maintain_order=True).agg("value", "cost", num_trials=pl.len())
    errors = {
        f"{name}_se": pl.Series([standard_error(values) for values in made[name]], dtype=pl.Float64)
        for name in ("value", "cost")
    }
    return made.with_columns(pl.col("value", "cost").list.mean(), **errors)


def front(costs: list[float], values: list[float], lower_is_better: bool = False) -> list[bool]:
    """Which points no other beats: at most their cost, at least their value, and better in one.

    >>> front([1.0, 2.0, 3.0], [0.5, 0.4, 0.9])
    [True, False, True]
    """
    worth = [-value if lower_is_better else value for value in values]
    points = list(zip(costs, worth, strict=True))
    return [not any(c <= cost and w >= value and (c, w) != (cost, value) for c, w in points) for cost, value in points]


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame.

    Raises:
        ValueError: more panels than anyone reads, or no numbers.
    """
    lost = frame.filter(~pl.col("value").is_finite())["method"].unique().sort()
    frame = frame.filter(pl.col("value").is_finite())
    if frame.is_empty():
        raise ValueError(
            f"No method under {where(request)} has numbers in all trials: {', '.join(lost)} diverged. Name runs that "
            "did not."
        )
    panels = frame.partition_by("panel", maintain_order=True)
    check_panels(len(panels))
    most = max(map(len, panels))
    columns = 1 if most > FEW else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = ONE_COLUMN if len(panels) == 1 and most <= FEW else TWO_COLUMNS
    height = 2.4 if most <= FEW else min(PAGE, 2.4 + 0.05 * most)
    notes = [
        "Means over trials of the mean over test domains; whiskers: standard errors over trials. Filled, and joined by "
        "the line: no other method is as good at no more cost. Costs compare only between runs on one kind of machine."
    ]
    if frame["num_trials"].max() == 1:
        notes[0] = notes[0].replace("; whiskers: standard errors over trials", "; one trial: no whiskers")
    if len(lost):
        notes.append(f"Left out, without a number in some trial (diverged): {', '.join(lost)}.")
    metric = measure(frame["metric"][0])
    title = f"{metric[0].upper()}{metric[1:]} against {request.against}, selected by {request.criterion}"
    figure = Picture(title, notes, width, rows * height)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    baseline = baseline_of(frame, request)
    for ax, panel in zip(axes, panels, strict=False):
        _points(ax, panel, COSTS[request.against][2], baseline)
    # Names need to know where the axes are.
    figure.settle()
    for ax, panel in zip(axes, panels, strict=False):
        _names(ax, panel, baseline)
    return figure


def _points(ax: Axes, panel: pl.DataFrame, cost: str, baseline: str | None) -> None:
    metric = panel["metric"][0]
    scale = scale_of(metric)
    is_best = front(panel["cost"].to_list(), panel["value"].to_list(), metric in LOWER_IS_BETTER)
    best = panel.filter(pl.Series(is_best)).sort("cost")
    ax.plot(
        best["cost"].to_numpy(),
        scale * best["value"].to_numpy(),
        color=FAINT,
        linewidth=0.8,
        drawstyle="steps-post",
        zorder=1,
    )
    for row, filled in zip(panel.iter_rows(named=True), is_best, strict=True):
        colour = COLOURS[1] if row["method"] == baseline else INK
        ax.errorbar(
            row["cost"],
            scale * row["value"],
            xerr=row["cost_se"],
            yerr=None if row["value_se"] is None else scale * row["value_se"],
            color=colour,
            marker="s" if row["method"] == baseline else "o",
            markersize=4,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=0.8,
            elinewidth=0.6,
            zorder=3,
        )
    head(ax, panel["title"][0])
    ax.set_xlabel(cost)
    ax.set_ylabel(f"test {measure(metric)}")
    _log_scale(ax, panel["cost"].min(), panel["cost"].max())  # type: ignore[arg-type]


def _log_scale(ax: Axes, low: float, high: float) -> None:
    """Powers of ten where costs span some, with plain numbers."""
    if low <= 0 or high / low < 4:
        return
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _names(ax: Axes, panel: pl.DataFrame, baseline: str | None) -> None:
    metric = panel["metric"][0]
    scale = scale_of(metric)
    is_best = front(panel["cost"].to_list(), panel["value"].to_list(), metric in LOWER_IS_BETTER)
    points, lines = [], []
    for row, filled in zip(panel.iter_rows(named=True), is_best, strict=True):
        x, y, dx, dy = row["cost"], scale * row["value"], row["cost_se"] or 0.0, scale * (row["value_se"] or 0.0)
        points.append((row["method"], x, y, filled or row["method"] == baseline))
        lines += [(x - dx, y, x + dx, y), (x, y - dy, x, y + dy)]
    best = panel.filter(pl.Series(is_best)).sort("cost")
    corners = list(zip(best["cost"], scale * best["value"], strict=True))
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        lines += [(x0, y0, x1, y0), (x1, y0, x1, y1)]
    # The names that matter take the places nearest to their points.
    place(ax, sorted(points, key=lambda point: (not point[3], point[0])), lines)
