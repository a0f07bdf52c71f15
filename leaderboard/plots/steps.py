"""The metric on the test domains over training steps, with the checkpoints that the criterion chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from dgbench import record

from ..notes import measure
from ._panels import OTHERS, entries, grid, head, legend
from ._results import baseline_of, ordered, results, scale_of, where
from ._style import FAINT, Picture, styles

if TYPE_CHECKING:
    from . import Request


def frame(request: Request) -> pl.DataFrame:
    """One row per chosen run, test domain and step.

    Columns: panel, title, dataset, metric, method, test_domain, place, trial, step, value, chosen_step.

    Raises:
        ValueError: nothing is finished.
    """
    cells = results(request)
    if cells["value"].count() == 0:
        raise ValueError(
            f"No run under {where(request)} is finished and was evaluated on what {request.criterion} chooses by. Let "
            "some end, or name another criterion."
        )
    chosen = cells.drop_nulls("run_id").rename({"step": "chosen_step"}).drop("value")
    runs = record.runs(request.runs).filter(pl.col("run_id").is_in(chosen["run_id"].implode()))
    rows = record.read(runs.select("run_id", "path"), set(chosen["metric"])).rename({"domain": "test_domain"})
    keys = ["run_id", "test_domain", "metric", "weights", "split"]
    made = chosen.join(rows.select(*keys, "step", "value"), on=keys)
    missing = cells.filter(pl.col("run_id").is_null())
    columns = ("panel", "title", "dataset", "metric", "method", "test_domain", "place", "trial")
    made = pl.concat([made, missing], how="diagonal").select(*columns, "step", "value", "chosen_step")
    return made.sort("panel", "method", "trial", "place", "step")


def curves(frame: pl.DataFrame) -> pl.DataFrame:
    """Per panel, method and step the mean over trials and its standard error, of the steps that all runs reached.

    The value of a trial is the mean over its test domains. A trial that lacks a domain is left out.

    Columns: panel, method, step, mean, se (null for one trial), num_trials.
    """
    keys = ["panel", "method"]
    whole = frame.filter(pl.col("step").is_not_null().all().over(*keys, "trial"))
    num_runs = whole.group_by(keys).agg(num_runs=pl.struct("trial", "test_domain").n_unique())
    return (
        whole.group_by(*keys, "trial", "step", maintain_order=True)
        .agg(pl.col("value").mean(), runs=pl.len())
        .group_by(*keys, "step", maintain_order=True)
        .agg(
            mean=pl.col("value").mean(),
            se=pl.col("value").std(ddof=1) / pl.len().sqrt(),
            num_trials=pl.len(),
            runs=pl.col("runs").sum(),
        )
        .join(num_runs, on=keys)
        .filter(pl.col("runs") == pl.col("num_runs"))
        .sort(*keys, "step")
        .drop("runs", "num_runs")
    )


def marks(frame: pl.DataFrame) -> pl.DataFrame:
    """Per panel, method and trial the mean over test domains of the chosen steps, and of the values there.

    Columns: panel, method, trial, step, value.
    """
    keys = ["panel", "method", "trial"]
    whole = frame.filter(pl.col("step").is_not_null().all().over(keys))
    chosen = whole.filter(pl.col("step") == pl.col("chosen_step"))
    return chosen.group_by(keys, maintain_order=True).agg(pl.col("step", "value").mean())


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame."""
    lines, chosen = curves(frame), marks(frame).filter(pl.col("value").is_finite())
    facts = frame.select("panel", "title", "metric").unique().sort("panel")
    order = ordered(chosen.join(facts, on="panel"))
    looks = styles(order, baseline_of(frame, request))
    notes = [
        "Lines: mean over trials of the mean over test domains; bands: its standard error over trials. Marks: the "
        "chosen checkpoints, one mark per trial, at the mean over test domains of their steps and values."
    ]
    if (lines["num_trials"] < 2).all():
        notes[0] = notes[0].replace("; bands: its standard error over trials", " (one trial: no bands)")
    others = len([name for name in order if name not in looks])
    title = f"{measure(facts['metric'][0])} over training steps; checkpoints chosen by {request.criterion}"
    lost = sorted(set(frame["method"]) - set(order))
    if lost:
        notes.append(f"Not drawn, as no trial has numbers of all its runs: {', '.join(lost)}.")
    if others:
        notes.append(OTHERS)
    figure, axes = grid(title[0].upper() + title[1:], notes, len(facts), entries(looks, others))
    for ax, (panel, name, metric) in zip(axes, facts.iter_rows(), strict=False):
        scale = scale_of(metric)
        head(ax, name)
        ax.set_xlabel("step")
        ax.set_ylabel(f"test {measure(metric)}")
        for method in reversed(order):
            look = looks.get(method)
            line = lines.filter(panel=panel, method=method)
            x, mean = line["step"].to_numpy(), scale * line["mean"].to_numpy()
            if look is None:
                ax.plot(x, mean, color=FAINT, linewidth=0.5, alpha=0.6, zorder=1)
                continue
            ax.plot(x, mean, color=look.colour, linestyle=look.line, label=method, zorder=3)
            if line["se"].count():
                reach = scale * line["se"].to_numpy()
                ax.fill_between(x, mean - reach, mean + reach, color=look.colour, alpha=0.13, linewidth=0, zorder=2)
            at = chosen.filter(panel=panel, method=method)
            ax.plot(
                at["step"].to_numpy(),
                scale * at["value"].to_numpy(),
                color=look.colour,
                linestyle="none",
                marker=look.marker,
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                zorder=4,
            )
    legend(figure, looks, others)
    return figure
