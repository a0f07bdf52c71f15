"""Validation against test: whether what a criterion selects by says anything about the test domain.

A point is a run at the step that the criterion chooses within it. Test domains differ in how hard they are, whatever
the criterion does: the rank correlation is within each domain, and its mean over domains is the answer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl

from dgbench import selection as criteria
from dgbench.selection import LOWER_IS_BETTER

from ..notes import measure
from ._panels import check_panels, head
from ._results import results, scale_of, where
from ._style import FAINT, ONE_COLUMN, TWO_COLUMNS, Picture, style

if TYPE_CHECKING:
    from . import Request

MIN_POINTS = 3


def frame(request: Request) -> pl.DataFrame:
    """One row per run and test domain.

    Columns: panel, title, metric, score, method, test_domain, place, trial, run_id, step, validation (as the score has
    it) and test.

    Raises:
        ValueError: the criterion compares nothing, or nothing was evaluated that it compares.
    """
    chooser = criteria.selection(request.criterion)
    if not chooser.compares:
        known = [name for name in criteria.criteria() if criteria.selection(name).compares]
        raise ValueError(
            f"criterion={request.criterion} compares no scores, expected one that does ({', '.join(known)}). Name one."
        )
    made = results(request, per_run=True)
    sign = pl.when(pl.col("score").is_in(LOWER_IS_BETTER)).then(-1).otherwise(1)
    made = made.with_columns(validation=sign * pl.col("selection_value"), test=pl.col("value"))
    if made.is_empty():
        raise ValueError(
            f"No finished run under {where(request)} was evaluated on what {request.criterion} chooses by. Name "
            f"another criterion, or make the runs with criteria=[{request.criterion}]."
        )
    columns = ("panel", "title", "metric", "score", "method", "test_domain", "place", "trial", "run_id", "step")
    return made.select(*columns, "validation", "test")


def correlation(validation: pl.Series, test: pl.Series, agrees: int = 1) -> tuple[float, int]:
    """Spearman's rank correlation over points that have both numbers, NaN where it is not defined; and their number.

    Args:
        validation: what the criterion sees.
        test: what is reported.
        agrees: -1 where one of them is better when lower, the other when higher.
    """
    both = pl.DataFrame({"x": validation, "y": test}).filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    if len(both) < MIN_POINTS or both["x"].n_unique() < 2 or both["y"].n_unique() < 2:
        return math.nan, len(both)
    return agrees * both.select(pl.corr("x", "y", method="spearman")).item(), len(both)


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame.

    Raises:
        ValueError: more panels than anyone reads.
    """
    panels = frame.partition_by("panel", maintain_order=True)
    check_panels(len(panels))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    longest = max(panel["test_domain"].n_unique() for panel in panels)
    width = TWO_COLUMNS if columns == 2 else ONE_COLUMN
    notes = [
        f"A point is a run at the step that {request.criterion} chooses within it. ρ: Spearman's rank correlation over "
        "the n runs of a test domain, 1 where a better validation score always is a better test score; mean ρ: over "
        "domains. Runs of a domain share data: no test is made of ρ. Dashed: test equals validation."
    ]
    if lost := len(frame.filter(~(pl.col("validation").is_finite() & pl.col("test").is_finite()))):
        notes.append(f"Not drawn, as a number is not finite: {lost} of {len(frame)}.")
    title = f"Does {request.criterion} work? Validation against test, a point per run"
    figure = Picture(title, notes, width, rows * (2.6 + 0.14 * longest))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        _panel(ax, panel)
    return figure


def _panel(ax, panel: pl.DataFrame) -> None:
    metric, score = panel["metric"][0], panel["score"][0]
    agrees = -1 if (metric in LOWER_IS_BETTER) != (score in LOWER_IS_BETTER) else 1
    found = []
    for domain in panel.sort("place").partition_by("test_domain", maintain_order=True):
        rho, n = correlation(domain["validation"], domain["test"], agrees)
        found += [] if math.isnan(rho) else [rho]
        name = domain["test_domain"][0]
        label = f"{name}: " + (f"ρ undefined, n = {n}" if math.isnan(rho) else f"ρ = {rho:.2f}, n = {n}")
        look = style(domain["place"][0])
        ax.plot(
            (scale_of(score) * domain["validation"]).to_numpy(),
            (scale_of(metric) * domain["test"]).to_numpy(),
            linestyle="none",
            marker=look.marker,
            markersize=3.5,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markeredgewidth=0.8,
            label=label,
        )
    mean = f"mean ρ = {sum(found) / len(found):.2f} over {len(found)} domains" if found else "ρ undefined"
    head(ax, f"{panel['title'][0]}: {mean}" if len(found) != 1 else panel["title"][0])
    if metric == score:
        # Where both are equal, as far as both axes go.
        low, high = max(ax.get_xlim()[0], ax.get_ylim()[0]), min(ax.get_xlim()[1], ax.get_ylim()[1])
        if low < high:
            ax.plot([low, high], [low, high], color=FAINT, linewidth=0.6, linestyle="--", zorder=0)
    ax.set_xlabel(f"validation {measure(score)}")
    ax.set_ylabel(f"test {measure(metric)}")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0, handletextpad=0.2, labelspacing=0.3)
