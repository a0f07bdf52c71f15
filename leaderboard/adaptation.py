"""Tables of adaptations: what each adapter gains or loses on each stream, paired with the unadapted model.

The unit of replication is the trial: the source runs of one trial, over all their test domains. Differences from
`source` are paired by it; a gain or loss is claimed only where Holm's p is below 0.05.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from dgbench import record

from .statistics import Difference, holm, paired_differences
from .tables import IN_PERCENT, Paths

BASELINE = "source"
LEVEL = 0.05
# What is compared within one table: one model, one stream.
TABLE = (
    *("dataset", "data", "network", "algorithm", "averaging", "label"),
    *("stream", "stream_key", "batch_size", "examples"),
)


@dataclass(frozen=True)
class Row:
    """One adapter."""

    name: str
    cells: tuple[float | None, ...]
    """The mean over trials on each domain of the stream, None where a trial lacks it."""
    average: float | None
    """Of the domains, over trials; None where cells are missing."""
    difference: Difference
    """From the unadapted model."""
    p: float | None
    """Holm's, over the adapters of the table."""
    kept: float | None
    """On the training domains' held-out examples, after the stream."""
    slowdown: float | None
    """Seconds per batch in units of the unadapted model's."""


@dataclass(frozen=True)
class Sheet:
    """One table."""

    title: str
    subtitle: str
    domains: tuple[str, ...]
    rows: tuple[Row, ...]
    is_percent: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Adaptations:
    """Tables of some adaptations; prints as text."""

    sheets: tuple[Sheet, ...]
    values: pl.DataFrame = field(repr=False)
    """One row per adaptation, domain and round: the columns of the run, then domain, round, metric values."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, sheet in enumerate(self.sheets):
            if place:
                yield Text()
            yield Text(sheet.title, style="bold")
            yield Text(sheet.subtitle, style="dim")
            yield _grid(sheet)
            for note in sheet.notes:
                yield Text(note, style="dim")

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    __repr__ = __str__


def adaptations(runs: Paths, metric: str | None = None) -> Adaptations:
    """Rank adapters, each beside the unadapted model.

    Args:
        runs: folders of adaptations, or single ones.
        metric: what is reported; None: the score.

    Raises:
        ValueError: there is nothing to rank.
    """
    values = _read(runs)
    if values.is_empty():
        raise ValueError(
            f"{runs} holds no complete adaptation. Make some with dgbench adapt -m, and name their folder."
        )
    parts = values.sort(*TABLE, nulls_last=False).partition_by(*TABLE, maintain_order=True)
    return Adaptations(tuple(_sheet(part, metric) for part in parts), values)


def _read(paths: Paths) -> pl.DataFrame:
    rows = []
    for folder in record.find([Path(paths)] if isinstance(paths, str | Path) else list(paths)):
        said = folder.read() or {}
        if said.get("kind") != "adapt" or folder.status() != "complete":
            continue
        facts = {**said["columns"], "run_id": said["run_id"], "seconds_per_batch": said["seconds_per_batch"]}
        for line in folder.lines():
            for name in line["n"]:
                own = {key: value for key, value in line["values"].items() if key.startswith(f"{name}/")}
                measured = {key.split("/")[2]: value for key, value in own.items()}
                domain = name.split("/")[1]
                rows.append({**facts, "phase": line["phase"], "round": line["round"], "domain": domain, **measured})
    return pl.DataFrame(rows, infer_schema_length=None)


def _sheet(values: pl.DataFrame, metric: str | None) -> Sheet:
    facts: Mapping[str, Any] = values.row(0, named=True)
    metric = metric or facts["score"]
    names = _names(values)
    trial = pl.format("{}/{}/{}", "trial_seed", "data_seed", "seed")
    named = values.with_columns(
        method=pl.struct("adapter", "adapter_hparams").map_elements(lambda row: names[tuple(row.values())], pl.String),
        trial=trial,
        value=pl.col(metric).cast(pl.Float64),
    )
    keys = ["method", "trial", "domain"]
    # A domain that is met in several rounds counts by its mean over them.
    stream = named.filter(phase="stream").group_by(keys, maintain_order=True).agg(pl.col("value").mean())
    # Domains in the data's order; under corruptions, or mixed, in the stream's.
    order = {name: place for place, name in enumerate(facts["dataset_domains"].split(" "))}
    domains = tuple(sorted(stream["domain"].unique(maintain_order=True), key=lambda name: order.get(name, len(order))))
    everywhere = stream.select("method", "trial").unique().join(pl.DataFrame({"test_domain": domains}), how="cross")
    full = everywhere.join(stream.rename({"domain": "test_domain"}), on=["method", "trial", "test_domain"], how="left")
    differences = _differences(full)
    tested = [d for d in differences if d.p is not None]
    corrected = dict(zip((d.method for d in tested), holm([d.p for d in tested if d.p is not None]), strict=True))
    after = dict(named.filter(phase="source_after").group_by("method").agg(pl.col("value").mean()).iter_rows())
    cost = dict(named.unique("run_id").group_by("method").agg(pl.col("seconds_per_batch").mean()).iter_rows())
    rows = []
    for difference in differences:
        own = full.filter(method=difference.method)
        by_domain: dict[str, Any] = {d: own.filter(test_domain=d)["value"] for d in domains}
        cells: tuple[float | None, ...] = tuple(None if v.null_count() else v.mean() for v in by_domain.values())
        average = None if None in cells else sum(cells) / len(cells)  # type: ignore[arg-type]
        base = cost.get(BASELINE)
        slowdown = cost[difference.method] / base if base else None
        name = difference.method
        rows.append(Row(name, cells, average, difference, corrected.get(name), after.get(name), slowdown))
    sign = -1 if metric in ("rmse", "mae", "nll", "ece") else 1
    rows.sort(key=lambda row: (row.average is None, -sign * (row.average or 0.0), row.name))
    num = named["trial"].n_unique()
    cut = f"; {facts['examples']} examples of each" if facts["examples"] else ""
    model = facts["label"] or facts["algorithm"] + (f" + {facts['averaging']}" if facts["averaging"] != "none" else "")
    percent = metric in IN_PERCENT
    return Sheet(
        f"{facts['dataset']}: {metric}{' in %' if percent else ''} on the stream {facts['stream']}",
        f"{model}, network {facts['network']}; batches of {facts['batch_size']}{cut}; {num} trial{'s' * (num != 1)}",
        domains,
        tuple(rows),
        percent,
        _notes(rows, num),
    )


def _differences(full: pl.DataFrame) -> list[Difference]:
    methods = full["method"].unique().sort().to_list()
    if BASELINE not in methods:
        return [Difference(method, 0, None, note="There is no unadapted model to compare with.") for method in methods]
    found = {difference.method: difference for difference in paired_differences(full, BASELINE)}
    return [found.get(method, Difference(method, 0, None)) for method in methods]


def _names(values: pl.DataFrame) -> dict[tuple[str, str], str]:
    """What rows are called: the adapter, and where it comes with several hyper-parameters, their fingerprint."""
    pairs = sorted(values.select("adapter", "adapter_hparams").unique().iter_rows())
    several = [name for name, _ in pairs]
    return {(name, key): name if several.count(name) == 1 else f"{name} ({key[:6]})" for name, key in pairs}


def _notes(rows: Sequence[Row], num_trials: int) -> tuple[str, ...]:
    said = [
        "Minus source: paired within each trial, over all domains, with its 95 % interval by Student's t; * Holm's p "
        "is below 0.05. Kept: on the training domains' held-out examples after the stream. Time: of a batch, in units "
        "of source's."
    ]
    if num_trials < 3:
        said.append(f"{num_trials} trial{'s' * (num_trials != 1)}: too few to claim a gain or a loss.")
    if all(row.name != BASELINE for row in rows):
        said.append("Adapt with adapter=source too: without it there is nothing to compare with.")
    return tuple(said)


def _grid(sheet: Sheet) -> Grid:
    grid = Grid(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("adapter", overflow="fold")
    for name in (*sheet.domains, "Average", "minus source", "kept", "time"):
        grid.add_column(name.replace("_", "_\n") if len(name) > 12 else name, justify="right", overflow="fold")

    def number(value: float | None, form: str = "{:.1f}") -> str:
        if value is None:
            return "—"
        return form.format(100 * value) if sheet.is_percent else f"{value:.3f}"

    for row in sheet.rows:
        time = "—" if row.slowdown is None else f"{row.slowdown:.1f}x"
        grid.add_row(row.name, *map(number, row.cells), number(row.average), _gain(row, sheet), number(row.kept), time)
    return grid


def _gain(row: Row, sheet: Sheet) -> str:
    d, scale, digits = row.difference, 100 if sheet.is_percent else 1, 1 if sheet.is_percent else 3
    if row.name == BASELINE or d.mean is None:
        return ""
    text = f"{scale * d.mean:+.{digits}f}"
    if d.low is not None and d.high is not None:
        text += f" [{scale * d.low:+.{digits}f}, {scale * d.high:+.{digits}f}]"
    return text + ("*" if row.p is not None and row.p < LEVEL else "")
