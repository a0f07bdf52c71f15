"""Forest plot: what each method reaches on each test domain, with the uncertainty over trials.

A panel is a test domain, a row a method, the last panel the average: the number by which methods are ordered. Domains
share training data; they are reported, and never counted as replications.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..aggregate import AVERAGE
from ..notes import measure
from ..statistics import t_interval
from ..tables import IN_PERCENT
from ._results import baseline_of, best_first, results, scale_of, trial_means, where
from ._style import INK, SHADE, SMALL, TWO_COLUMNS, Picture, folded

if TYPE_CHECKING:
    from . import Request

# Panels beside each other.
ACROSS = 8
# Inches; of many methods, lines of 7 pt with nothing between.
ROW, DENSE_ROW, MANY = 0.155, 0.122, 20


def frame(request: Request) -> pl.DataFrame:
    """One row per table, method and column (the test domains, and the average over them).

    Columns: panel, title, metric, method, column, place, num_trials, expected_trials, mean (null where no trial is
    there), low, high (of the 95 % interval; null for fewer than two trials).

    Raises:
        ValueError: there is no number.
    """
    cells = results(request)
    if cells["value"].count() == 0:
        raise ValueError(
            f"No run under {where(request)} is finished and was evaluated on what {request.criterion} chooses by. Let "
            "some end, or name another criterion."
        )
    average = trial_means(cells, "value").with_columns(
        test_domain=pl.lit(AVERAGE), place=pl.lit(len(cells), dtype=pl.Int64)
    )
    keys = ["panel", "title", "metric", "method", "test_domain", "place"]
    both = pl.concat([cells.select(*keys, "value"), average.select(*keys, "value")], how="vertical_relaxed")
    made = both.group_by(keys, maintain_order=True).agg(
        num_trials=pl.col("value").count(),
        expected_trials=pl.len(),
        mean=pl.col("value").mean(),
        values=pl.col("value").drop_nulls(),
    )
    intervals = [t_interval(values) or (None, None) for values in made["values"]]
    low, high = zip(*intervals, strict=True)
    bounds = {"low": pl.Series(low, dtype=pl.Float64), "high": pl.Series(high, dtype=pl.Float64)}
    return made.with_columns(**bounds).rename({"test_domain": "column"}).drop("values")


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame."""
    panels = frame.partition_by("panel", maintain_order=True)
    sizes = [_size(panel) for panel in panels]
    heights = [rows * height for rows, _, height in sizes]
    title = f"{measure(frame['metric'][0])} by test domain, selected by {request.criterion}"
    title = title[0].upper() + title[1:]
    figure = Picture(title, _notes(frame, request), TWO_COLUMNS, sum(heights))
    parts: Any = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights).ravel()
    baseline = baseline_of(frame, request)
    for part, panel, (rows, columns, _) in zip(parts, panels, sizes, strict=True):
        part.suptitle(panel["title"][0], x=0.05 / TWO_COLUMNS, ha="left")
        axes = part.subplots(rows, columns, squeeze=False, sharey=True)
        names = panel.filter(column=AVERAGE).select("method", "mean").iter_rows()
        order = best_first(list(names), panel["metric"][0])
        cells = panel.sort("place").partition_by("column", maintain_order=True)
        for ax, cell in zip(axes.ravel(), cells, strict=False):
            _panel(ax, cell, order, baseline, scale_of(panel["metric"][0]))
        for ax in axes.ravel()[len(cells) :]:
            ax.set_axis_off()
    return figure


def _size(panel: pl.DataFrame) -> tuple[int, int, float]:
    """Rows and columns of panels, and the height of a row in inches."""
    number = panel["column"].n_unique()
    rows = math.ceil(number / ACROSS)
    lines = max(folded(name).count("\n") + 1 for name in panel["column"])
    methods = panel["method"].n_unique()
    return rows, math.ceil(number / rows), 0.5 + 0.13 * lines + (DENSE_ROW if methods > MANY else ROW) * max(2, methods)


def _panel(ax: Axes, cell: pl.DataFrame, order: list[str], baseline: str | None, scale: float) -> None:
    """One test domain: a row per method."""
    for row in range(0, len(order), 2):
        ax.axhspan(row - 0.5, row + 0.5, color=SHADE, linewidth=0, zorder=0)
    at = {row["method"]: row for row in cell.iter_rows(named=True)}
    is_average = cell["column"][0] == AVERAGE
    for row, method in enumerate(order):
        found = at[method]
        if found["mean"] is None or math.isnan(found["mean"]):
            what = "–" if found["mean"] is None else "NaN"
            ax.text(0.04, row, what, transform=ax.get_yaxis_transform(), va="center", color="#666666", size=SMALL)
            continue
        mean = scale * found["mean"]
        if found["low"] is not None:
            ends = np.clip([scale * found["low"], scale * found["high"]], *_possible(cell["metric"][0]))
            ax.plot(ends, [row, row], color=INK, linewidth=0.9, zorder=2)
        is_whole = found["num_trials"] == found["expected_trials"]
        face = INK if is_whole else "white"
        marker = "D" if is_average else "o"
        ax.plot([mean], [row], marker, color=INK, markerfacecolor=face, markersize=3.2, markeredgewidth=0.8, zorder=3)
    base = at[baseline]["mean"] if baseline in at else None
    if base is not None and math.isfinite(base):
        ax.axvline(scale * base, color="#0072B2", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    ax.set_title(folded(cell["column"][0]), fontsize=SMALL, fontweight="bold" if is_average else "normal")
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_yticks(np.arange(len(order)), order)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


def _possible(metric: str) -> tuple[float, float]:
    """The range of what is shown, beyond which no interval is drawn."""
    return (0.0, 100.0) if metric in IN_PERCENT else (-np.inf, np.inf)


def _notes(frame: pl.DataFrame, request: Request) -> list[str]:
    most = frame["num_trials"].max()
    said = ["Best average first. Scales differ between panels."]
    if frame["low"].count():
        said[0] = f"Marks: means over trials; lines: 95 % intervals by Student's t over trials. {said[0]}"
    elif most == 1:
        said[0] = f"One trial: no intervals. {said[0]}"
    baseline = baseline_of(frame, request)
    if baseline:
        said[0] += f" Dashed: {baseline}."
    if len(frame.filter((pl.col("num_trials") < pl.col("expected_trials")) & (pl.col("num_trials") > 0))):
        said.append("Hollow: of fewer trials than others.")
    bounded = frame.filter(pl.col("metric").is_in(IN_PERCENT))
    if len(bounded.filter((pl.col("low") < 0) | (pl.col("high") > 1))):
        said.append("Intervals are cut at 0 and 100 %.")
    if frame["mean"].null_count():
        said.append("–: missing; an average is of trials that have all test domains.")
    return [" ".join(said)]
