"""Critical-difference diagram: mean ranks over datasets, with bars that connect methods which do not differ.

Source: J. Demšar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006, section 3.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from dgbench.selection import LOWER_IS_BETTER

from ..statistics import friedman, mean_ranks, nemenyi_cd
from ._results import baseline_of, results, trial_means
from ._style import INK, SMALL, TWO_COLUMNS, Picture

if TYPE_CHECKING:
    from . import Request

MIN_DATASETS = 2
MIN_METHODS = 2
# In units of the vertical axis, a line of text.
LINE = 1.0


def frame(request: Request) -> pl.DataFrame:
    """One row per dataset and method.

    Columns: dataset, metric, method, value (mean over trials of the mean over test domains; null without a whole
    trial), num_trials, expected_trials.

    Raises:
        ValueError: fewer than two datasets, or two tables of one.
    """
    cells = results(request)
    tables = cells.select("panel", "title", "dataset").unique().sort("panel")
    if (twice := tables.filter(pl.col("dataset").is_duplicated())).height:
        raise ValueError(
            f"Several tables of one dataset ({'; '.join(twice['title'])}), expected one of each: it would count twice. "
            "Name folders of one protocol, network and kind of training domains."
        )
    if len(tables) < MIN_DATASETS:
        raise ValueError(
            f"{len(tables)} dataset ({', '.join(tables['dataset'])}), expected at least {MIN_DATASETS}: ranks are "
            "compared over datasets. Name more runs, or draw `domains`."
        )
    means = trial_means(cells, "value")
    return means.group_by("dataset", "metric", "method", maintain_order=True).agg(
        pl.col("value").mean(), num_trials=pl.col("value").count(), expected_trials=pl.len()
    )


def ranking(frame: pl.DataFrame) -> tuple[dict[str, float], np.ndarray, list[str]]:
    """Mean ranks of the methods that have all datasets, best first; the values (datasets, methods); who is left out.

    Values are higher the better; a method that diverged somewhere is left out.

    Raises:
        ValueError: fewer than two methods have all datasets.
    """
    every = frame["dataset"].n_unique()
    number = pl.col("value").is_finite().sum()
    lacking = frame.group_by("method").agg(number).filter(pl.col("value") < every)["method"]
    whole = frame.filter(~pl.col("method").is_in(lacking.implode()))
    methods = whole["method"].unique().sort().to_list()
    if len(methods) < MIN_METHODS:
        raise ValueError(
            f"{len(methods)} of {frame['method'].n_unique()} methods have numbers on all {every} datasets, expected at "
            f"least {MIN_METHODS} to compare. dgbench table RUNS says what is missing; --dataset leaves some out."
        )
    sign = pl.when(pl.col("metric").is_in(LOWER_IS_BETTER)).then(-1.0).otherwise(1.0)
    table = (
        whole.with_columns(value=sign * pl.col("value"))
        .pivot(on="method", index="dataset", values="value")
        .select(methods)
    )
    values = table.to_numpy().astype(float)
    ranks = dict(zip(methods, mean_ranks(values).tolist(), strict=True))
    return dict(sorted(ranks.items(), key=lambda item: (item[1], item[0]))), values, sorted(lacking)


def groups(ranks: list[float], cd: float) -> list[tuple[int, int]]:
    """The largest runs of neighbours whose first and last differ by less than `cd`, as (first, last) places.

    Args:
        ranks: mean ranks, ascending.
        cd: critical difference.

    >>> groups([1.0, 1.5, 2.5, 4.0], 1.6)
    [(0, 2), (2, 3)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < cd)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame.

    Raises:
        ValueError: fewer than two methods have all datasets.
    """
    ranks, values, lacking = ranking(frame)
    num_datasets, num_methods = values.shape
    cd = nemenyi_cd(num_methods, num_datasets)
    bars = groups(list(ranks.values()), cd)
    per_side = (num_methods + 1) // 2
    height = 0.75 + 0.07 * len(bars) + 0.155 * per_side
    title = f"Mean ranks of {num_methods} methods over {num_datasets} datasets, selected by {request.criterion}"
    figure = Picture(title, _notes(frame, values, cd, bars, lacking), TWO_COLUMNS, height)
    ax = figure.subplots()
    _axis(ax, num_methods, cd)
    depth = 0.0
    for first, last in bars:
        depth += 0.45
        ends = [list(ranks.values())[place] for place in (first, last)]
        ax.plot([ends[0], ends[1]], [depth, depth], color=INK, linewidth=2.6, solid_capstyle="round", gid="group")
    _names(ax, ranks, per_side, depth + 0.9, baseline_of(frame, request))
    return figure


def _axis(ax: Axes, num_methods: int, cd: float) -> None:
    """Ranks along the top, the critical difference above."""
    ax.set_axis_off()
    span = num_methods - 1
    ax.plot([1, num_methods], [0, 0], color=INK, linewidth=0.8)
    step = max(1, round(span / 10))
    for rank in [*range(1, num_methods, step), num_methods]:
        if rank == num_methods or num_methods - rank >= step / 2:
            ax.plot([rank, rank], [0, -0.25], color=INK, linewidth=0.8)
            ax.text(rank, -0.4, str(rank), ha="center", va="bottom", fontsize=SMALL)
    ax.plot([1, 1 + cd], [-2.1, -2.1], color=INK, linewidth=0.8, gid="cd", clip_on=False)
    for end in (1, 1 + cd):
        ax.plot([end, end], [-2.3, -1.9], color=INK, linewidth=0.8, clip_on=False)
    ax.text(1, -2.5, f"critical difference {cd:.2f}", ha="left", va="bottom", fontsize=SMALL)


def _names(ax: Axes, ranks: dict[str, float], per_side: int, top: float, baseline: str | None) -> None:
    """Names at both sides, the better half at the left; each with its mean rank and a line to it."""
    num_methods = len(ranks)
    margin = 0.04 * (num_methods - 1)
    for place, (method, rank) in enumerate(ranks.items()):
        is_left = place < per_side
        row = place if is_left else num_methods - 1 - place
        y = top + row * LINE
        x = 1 - margin if is_left else num_methods + margin
        ax.plot([rank, rank, x], [0, y, y], color=INK, linewidth=0.6, gid="rank")
        label = f"{method}  {rank:.2f}" if is_left else f"{rank:.2f}  {method}"
        weight = "bold" if method == baseline else "normal"
        side: dict[str, Any] = {"ha": "right", "x": x - margin / 4} if is_left else {"ha": "left", "x": x + margin / 4}
        ax.text(y=y, s=label, va="center", fontsize=SMALL, fontweight=weight, **side)
    ax.set_xlim(1 - margin, num_methods + margin)
    ax.set_ylim(top + per_side * LINE - 0.4, -3.4)


def _notes(
    frame: pl.DataFrame, values: np.ndarray, cd: float, bars: list[tuple[int, int]], lacking: list[str]
) -> list[str]:
    num_datasets, num_methods = values.shape
    said = [
        "Rank 1 is best. Bars connect methods whose mean ranks differ by less than the critical difference (Nemenyi, "
        "5 %): for these no difference is shown."
    ]
    if num_methods > MIN_METHODS:
        test = friedman(values)
        said.append(f"Friedman's test that all are equal, by Iman and Davenport's F: p = {test.p_f:.2g}.")
    if cd > num_methods - 1:
        said.append(
            f"The critical difference is larger than any difference of ranks can be: {num_datasets} datasets cannot "
            f"tell {num_methods} methods apart."
        )
    if len(frame.filter(pl.col("num_trials").is_between(1, pl.col("expected_trials") - 1))):
        said.append("Some numbers are of fewer trials than others.")
    if lacking:
        said.append(f"Left out, as they lack a dataset or diverged on one: {', '.join(lacking)}.")
    return [" ".join(said)]
