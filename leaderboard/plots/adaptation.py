"""Adapters over the batches of a stream, beside the unadapted model.

Single batches are small: a curve is the accuracy over the last few batches, counted anew where a domain begins.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dgbench import record

from ..adaptation import BASELINE, TABLE, adapter_names
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
    stream), correct, n.

    Raises:
        UnknownName: a dataset or adapter that is not there.
        ValueError: there is no complete adaptation, or none of classification.
    """
    rows = [row for folder in record.find(request.runs) for row in _batches(folder)]
    if not rows:
        raise ValueError(
            f"{where(request)} holds no complete adaptation of a classifier: curves count right answers. "
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
    columns = ("panel", "title", "method", "trial", "stream", "block", "domain", "batch", "correct", "n")
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
    columns = said["columns"]
    adapter = said["identity"]["adapter"]
    facts = {
        **columns,
        "num_train": len(columns["train_domains"].split()),
        "adapter_options": json.dumps({**adapter["hparams"], "version": adapter["version"]}),
        "run_id": said["run_id"],
    }
    made = []
    lines = [line for line in folder.lines() if "correct" in line.get("curve", {})]
    for block, line in enumerate(sorted(lines, key=lambda line: line["position"])):
        domain = next(iter(line["n"])).split("/")[1]
        counts = zip(line["curve"]["correct"], line["curve"]["n"], strict=True)
        for batch, (correct, n) in enumerate(counts, line["position"]):
            made.append({**facts, "block": block, "domain": domain, "batch": batch, "correct": correct, "n": n})
    return made


def window(panel: pl.DataFrame) -> int:
    """Batches that a point of a panel's curves looks back over."""
    lengths = panel.group_by("method", "trial", "stream", "block").len()["len"]
    return max(LEAST_WINDOW, int(np.median(lengths.to_numpy())) // 10)


def curves(panel: pl.DataFrame) -> pl.DataFrame:
    """Per method and batch the mean over trials of the accuracy over the last batches, and its standard error.

    The accuracy of a trial is the mean over its streams, of the batches that all of them have. A trial that lacks a
    stream is left out.

    Columns: method, batch, mean, se (null for one trial), num_trials.
    """
    size = window(panel)
    streams = panel["stream"].n_unique()
    visit = ["method", "trial", "stream", "block"]

    def last(name: str) -> pl.Expr:
        total = pl.col(name).cum_sum()
        return (total - total.shift(size, fill_value=0)).over(visit)

    return (
        panel.sort("batch")
        .with_columns(accuracy=last("correct") / last("n"))
        .group_by("method", "trial", "batch")
        .agg(pl.col("accuracy").sort_by("stream").mean(), found=pl.len())
        .filter(pl.col("found") == streams)
        .sort("method", "batch", "trial")
        .group_by("method", "batch", maintain_order=True)
        .agg(
            mean=pl.col("accuracy").mean(),
            se=pl.col("accuracy").std(ddof=1) / pl.len().sqrt(),
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
    means = (
        pl.concat(lines).group_by("method").agg(pl.col("mean").mean()).sort("mean", "method", descending=[True, False])
    )
    order = means["method"].to_list()
    looks = styles(order, BASELINE if BASELINE in order else None)
    others = len(order) - len(looks)
    sizes = sorted({window(panel) for panel in panels})
    notes = [
        f"Accuracy over the last {' or '.join(map(str, sizes))} batches of a domain, counted anew where one begins; "
        "mean over trials of the mean over a trial's streams; bands: its standard error over trials."
    ]
    if all((line["num_trials"] < 2).all() for line in lines):
        notes[0] = notes[0].replace("; bands: its standard error over trials", "; one trial: no bands")
    if others:
        notes.append(OTHERS)
    if BASELINE not in order:
        notes.append("The unadapted model is not there: dgbench adapt adapter=source.")
    figure, axes = grid("Test accuracy of adapters over the stream", notes, len(panels), entries(looks, others))
    for ax, panel, line in zip(axes, panels, lines, strict=True):
        _panel(ax, panel, line, looks, order)
    legend(figure, looks, others)
    return figure


_DRAWN = ("batch", "mean", "se")


def _gaps(own: pl.DataFrame, starts: list[int]) -> list[int]:
    """Where in a curve a domain begins, but for the first."""
    batches = own["batch"].to_list()
    return [batches.index(start) for start in starts[1:] if start in batches]


def _panel(ax: Axes, panel: pl.DataFrame, line: pl.DataFrame, looks: dict[str, Style], order: list[str]) -> None:
    visits = blocks(panel)
    starts = [first for first, _, _ in visits]
    for method in reversed(order):
        own, look = line.filter(method=method), looks.get(method)
        if own.is_empty():
            continue
        # No line joins what was counted before and after a domain began.
        x, mean, se = (np.insert(own[name].to_numpy().astype(float), _gaps(own, starts), np.nan) for name in _DRAWN)
        x, mean, se = x + 1, 100 * mean, 100 * se
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
    ax.set_ylabel("test accuracy in %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
