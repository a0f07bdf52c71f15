"""Adapters over the batches of a stream, beside the unadapted model.

Single batches are small: a curve is the accuracy, or the RMSE, over the last few batches, counted anew where a domain
begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dgbench import record

from ..adaptation import BASELINE, TABLE, adapter_names
from ..adapted_rows import facts_of
from ..adapted_text import AFTER
from ._panels import OTHERS, entries, grid, head, legend
from ._results import check, where
from ._style import FAINT, Picture, Style, styles

if TYPE_CHECKING:
    from . import Request

# A curve looks back over a tenth of a domain's batches, and at least over so many.
LEAST_WINDOW = 4
# Names of domains above a panel, at most, and how many letters have room in a line there.
MAX_DOMAINS = 20
LETTERS = 45


def frame(request: Request) -> pl.DataFrame:
    """One row per batch.

    Columns: panel (a model and a kind of stream), title, method (the adapter), trial, stream (which of the trial's, by
    its test domains and seed), block (number of the domain's visit in the stream), domain, batch (number in the
    stream), n, total (right answers among these, or the sum of their squared errors), is_error (which of the two), late
    (whether the adapter answers after its update).

    Raises:
        UnknownName: a dataset or adapter that is not there.
        ValueError: there is no complete adaptation with a curve.
    """
    rows = [row for folder in record.find(request.runs) for row in _batches(folder)]
    if not rows:
        raise ValueError(
            f"{where(request)} holds no complete adaptation with the errors of each batch. "
            "Make some with dgbench adapt -m, and name their folder."
        )
    found = pl.DataFrame(rows, infer_schema_length=None).unique(["run_id", "batch"], maintain_order=True)
    names = adapter_names(found)
    named = pl.struct("adapter", "adapter_options").map_elements(lambda row: names[tuple(row.values())], pl.String)
    found = found.with_columns(method=named, trial=pl.format("{}/{}", "trial_seed", "data_seed"))
    check(request.dataset, found["dataset"].unique().sort(), "dataset of these adaptations")
    check(request.method, found["method"].unique().sort(), "adapter of these adaptations")
    if request.dataset:
        found = found.filter(pl.col("dataset").is_in(request.dataset))
    if request.method:
        found = found.filter(pl.col("method").is_in([*request.method, BASELINE]))
    parts = found.sort(TABLE, nulls_last=False).partition_by(*TABLE, maintain_order=True)
    titles = _titles(pl.concat([part.head(1) for part in parts]))
    found = pl.concat(
        part.with_columns(panel=pl.lit(panel), title=pl.lit(title))
        for panel, (part, title) in enumerate(zip(parts, titles, strict=True))
    )
    columns = ("panel", "title", "method", "trial", "stream", "block", "domain", "batch", "n", *_COUNTED)
    found = found.with_columns(stream=pl.format("{}/{}/{}", "train_domains", "test_domains", "seed"))
    return found.select(columns).sort("panel", "method", "trial", "stream", "batch")


def _titles(panels: pl.DataFrame) -> list[str]:
    """What is adapted and to which stream, with what tells panels of one name apart."""
    heads = [
        f"{row['dataset']}, {row['label'] or row['algorithm']}"
        + (f" + {row['averaging']}" if row["averaging"] != "none" and not row["label"] else "")
        + f": {row['stream']}"
        + (f" ({row['stream_options']})" if row["stream_options"] else "")
        for row in panels.iter_rows(named=True)
    ]
    made = []
    for row, own in zip(panels.iter_rows(named=True), heads, strict=True):
        rivals = panels.filter(pl.Series(heads) == own)
        said = ("dataset", "label", "algorithm", "averaging", "stream", "stream_options", "stream_key")
        differing = [name for name in TABLE if name not in said and rivals[name].n_unique() > 1]
        made.append(", ".join([own, *(f"{name} {str(row[name])[:15]}" for name in differing)]))
    return made


def _batches(folder: record.RunFolder) -> list[dict[str, Any]]:
    said = folder.read() or {}
    if said.get("kind") != "adapt" or said["status"] != "complete":
        return []
    facts = facts_of(said)
    made = []
    lines = [line for line in folder.lines() if {"correct", "squared_error"} & line.get("curve", {}).keys()]
    for block, line in enumerate(sorted(lines, key=lambda line: line["position"])):
        curve = line["curve"]
        # Older files name the domain in the line alone.
        domain = curve.get("domain") or next(iter(line["n"])).split("/")[1]
        own = {"block": block, "domain": domain, "is_error": "squared_error" in curve, "late": said["answers"] == AFTER}
        totals = zip(curve.get("correct") or curve["squared_error"], curve["n"], strict=True)
        for batch, (total, n) in enumerate(totals, line["position"]):
            # JSON has null for NaN.
            made.append({**facts, **own, "batch": batch, "n": n, "total": math.nan if total is None else float(total)})
    return made


def window(panel: pl.DataFrame) -> int:
    """Batches that a point of a panel's curves looks back over."""
    lengths = panel.group_by("method", "trial", "stream", "block").len()["len"]
    return max(LEAST_WINDOW, int(np.median(lengths.to_numpy())) // 10)


def curves(panel: pl.DataFrame) -> pl.DataFrame:
    """Per method and batch the mean over trials of the accuracy or RMSE over the last batches, and its standard error.

    That of a trial is the mean over its streams, of the batches that all of them have. A trial that lacks a stream is
    left out.

    Columns: method, batch, mean, se (null for one trial), num_trials.
    """
    size = window(panel)
    streams = panel["stream"].n_unique()
    visit = ["method", "trial", "stream", "block"]

    def last(name: str) -> pl.Expr:
        total = pl.col(name).cum_sum()
        return (total - total.shift(size, fill_value=0)).over(visit)

    share = last("total") / last("n")
    return (
        panel.sort("batch")
        .with_columns(value=pl.when("is_error").then(share.sqrt()).otherwise(share))
        .group_by("method", "trial", "batch")
        .agg(pl.col("value").sort_by("stream").mean(), found=pl.len())
        .filter(pl.col("found") == streams)
        .sort("method", "batch", "trial")
        .group_by("method", "batch", maintain_order=True)
        .agg(
            mean=pl.col("value").mean(),
            se=pl.col("value").std(ddof=1) / pl.len().sqrt(),
            num_trials=pl.len(),
        )
    )


def blocks(panel: pl.DataFrame) -> list[tuple[int, int, str]]:
    """First batch, last batch and domain of each visit, where all streams agree when it is; else none."""
    visits = panel.group_by("stream", "block").agg(
        pl.col("batch").min().alias("first"), pl.col("batch").max().alias("last"), pl.col("domain").first()
    )
    if visits.select("block", "first", "last").unique().height > visits["block"].n_unique():
        return []
    several = pl.when(pl.col("domain").n_unique() == 1).then(pl.col("domain").first()).otherwise(pl.lit(""))
    named = visits.group_by("block").agg(pl.col("first", "last").first(), several.alias("domain")).sort("block")
    return list(named.select("first", "last", "domain").iter_rows())


def draw(frame: pl.DataFrame, request: Request) -> Picture:
    """The picture of such a frame.

    Raises:
        ValueError: more panels than anyone reads.
    """
    panels = frame.partition_by("panel", maintain_order=True)
    lines = [curves(panel) for panel in panels]
    signs = [-1 if panel["is_error"][0] else 1 for panel in panels]
    best = pl.concat(line.with_columns(pl.col("mean") * sign) for line, sign in zip(lines, signs, strict=True))
    means = best.group_by("method").agg(pl.col("mean").mean()).sort("mean", "method", descending=[True, False])
    order = means["method"].to_list()
    looks = styles(order, BASELINE if BASELINE in order else None)
    others = len(order) - len(looks)
    measures = " or ".join(word for word, sign in (("accuracy", 1), ("RMSE", -1)) if sign in signs)
    notes = list(_notes(frame, lines, measures))
    if others:
        notes.append(OTHERS)
    if BASELINE not in order:
        notes.append("The unadapted model is not there: dgbench adapt adapter=source.")
    figure, axes = grid(f"Test {measures} of adapters over the stream", notes, len(panels), entries(looks, others))
    for ax, panel, line in zip(axes, panels, lines, strict=True):
        _panel(ax, panel, line, looks, order)
    legend(figure, looks, others)
    return figure


def _notes(frame: pl.DataFrame, lines: Sequence[pl.DataFrame], measures: str) -> Iterator[str]:
    is_one = all((line["num_trials"] < 2).all() for line in lines)
    bands = "one trial: no bands" if is_one else "bands: its standard error over trials"
    sizes = " or ".join(map(str, sorted({window(panel) for panel in frame.partition_by("panel")})))
    yield (
        f"{measures[0].upper()}{measures[1:]} over the last {sizes} batches of a domain, counted anew where one "
        f"begins; mean over trials of the mean over a trial's streams; {bands}."
    )
    late = frame.filter("late")["method"].unique().sort().to_list()
    if late and set(late) < set(frame["method"]) - {BASELINE}:
        yield f"After their update on a batch answer {', '.join(late)}; the others before it."


_COUNTED = ("total", "is_error", "late")
_DRAWN = ("batch", "mean", "se")


def _gaps(own: pl.DataFrame, starts: list[int]) -> list[int]:
    """Where in a curve a domain begins, but for the first."""
    batches = own["batch"].to_list()
    return [batches.index(start) for start in starts[1:] if start in batches]


def _panel(ax: Axes, panel: pl.DataFrame, line: pl.DataFrame, looks: dict[str, Style], order: list[str]) -> None:
    visits = blocks(panel)
    is_error = bool(panel["is_error"][0])
    scale = 1 if is_error else 100
    starts = [first for first, _, _ in visits]
    for method in reversed(order):
        own, look = line.filter(method=method), looks.get(method)
        if own.is_empty():
            continue
        # No line joins what was counted before and after a domain began.
        x, mean, se = (np.insert(own[name].to_numpy().astype(float), _gaps(own, starts), np.nan) for name in _DRAWN)
        x, mean, se = x + 1, scale * mean, scale * se
        if look is None:
            ax.plot(x, mean, color=FAINT, linewidth=0.5, alpha=0.6, zorder=1)
            continue
        # Marks of curves that lie on each other stand beside each other.
        every = max(1, len(x) // 6)
        first = list(looks).index(method) * every // len(looks)
        ax.plot(
            *(x, mean, look.marker),
            color=look.colour,
            linestyle=look.line,
            markevery=(first, every),
            markersize=3.5,
            label=method,
            zorder=3,
        )
        ax.fill_between(x, mean - se, mean + se, color=look.colour, alpha=0.13, linewidth=0, zorder=2)
    for first, _, _ in visits[1:]:
        ax.axvline(first + 0.5, color=FAINT, linewidth=0.5, linestyle=(0, (1, 2)), zorder=0)
    if any(name for _, _, name in visits) and len(visits) <= MAX_DOMAINS:
        top = ax.secondary_xaxis("top")
        top.set_xticks([(first + last) / 2 + 1 for first, last, _ in visits], [name for _, _, name in visits])
        is_long = max(len(name) for _, _, name in visits) * len(visits) > LETTERS
        top.tick_params(length=0, labelrotation=90 if is_long else 0)
        top.spines["top"].set_visible(False)
    head(ax, panel["title"][0])
    ax.set_xlabel("batch of the stream")
    ax.set_ylabel("test RMSE" if is_error else "test accuracy in %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
