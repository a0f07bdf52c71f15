"""Tables of adaptations: what each adapter gains or loses on each stream, paired with the unadapted model.

The unit of replication is the trial: the source runs of one trial, over all their test domains. Several streams of one
trained model (`seed=0,1`) are averaged within it. Differences from `source` are paired by trial; a gain or loss is
claimed only where Holm's p is below 0.05, of three trials or more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from dgbench import record
from dgbench.selection import LOWER_IS_BETTER
from dgbench.trained import DEFAULT
from dgbench.visit import MIXED

from . import notes as notes_
from .adapted_rows import read_rows
from .adapted_text import AFTER, BASELINE, Row, Sheet, differ_in_answers, grid
from .adapter_choice import ORACLE, SETTING, with_choices
from .render import Printed
from .statistics import MIN_TRIALS, Difference, paired_differences
from .tables import IN_PERCENT, Paths

# What is compared within one table: one model, one stream.
TABLE = (
    *("dataset", "data", "num_train", "val_domains", "protocol_key", "network", "norm", "network_key"),
    *("algorithm", "averaging", "label", "variant", "tuned", "draw", "source_step", "source_criterion"),
    *("stream", "stream_options", "stream_key", "batch_size", "examples"),
)
# What a title or a subtitle does not say by itself, and what it says if tables differ in nothing else.
UNSAID = ("data", "num_train", "val_domains", "protocol_key", "network_key", "variant", "draw")


@dataclass(frozen=True, repr=False)
class Adaptations(Printed):
    """Tables of some adaptations; prints as text."""

    width: ClassVar[int] = 120

    sheets: tuple[Sheet, ...]
    values: pl.DataFrame = field(repr=False)
    """One row per adaptation, phase, round and domain: the columns of the run, then these and the metric values."""
    below: str | None = None
    """On all tables: what is not complete, how hyper-parameters were chosen."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for place, sheet in enumerate(self.sheets):
            if place:
                yield Text()
            yield Text(sheet.title, style="bold")
            yield Text(sheet.subtitle, style="dim")
            yield grid(sheet)
            for note in sheet.notes:
                yield Text(note, style="dim")
        if self.below:
            yield Text(self.below, style="dim")


def adaptations(runs: Paths, metric: str | None = None) -> Adaptations:
    """Rank adapters, each beside the unadapted model.

    Args:
        runs: folders of adaptations, or single ones.
        metric: what is reported; None: the score.

    Raises:
        UnknownName: a metric that the adaptations do not have.
        ValueError: there is nothing to rank, or there are two numbers for one place.
    """
    folders = record.find([Path(runs)] if isinstance(runs, str | Path) else list(runs))
    values, left_out = read_rows(folders, metric)
    if values.is_empty():
        where = ", ".join(map(str, [runs] if isinstance(runs, str | Path) else runs))
        raise ValueError(
            f"{where} holds no complete adaptation. {left_out + ' ' if left_out else ''}"
            "Make some with dgbench adapt -m, and name their folder."
        )
    shown, choices = with_choices(values)
    if shown.is_empty():
        raise ValueError(
            "All adaptations there have target=validation, which nothing reports. Make some with target=test."
        )
    parts = shown.sort(*TABLE, nulls_last=False).partition_by(*TABLE, maintain_order=True)
    sheets = [_sheet(part, metric) for part in parts]
    below = " ".join([*choices, *([left_out] if left_out else [])])
    return Adaptations(tuple(_told_apart(sheets, [part.row(0, named=True) for part in parts])), values, below or None)


def ranks_adaptations(
    criterion: str, format: str, protocol: str | None, *, explain: bool = False, published: bool = False
) -> None:
    """Refuse options that only tables of trained runs have.

    Raises:
        ValueError: one of them is not the usual one.
    """
    if explain or published:
        raise ValueError(
            f"--{'explain' if explain else 'published'} belongs to tables of trained runs, and these are adaptations. "
            "Leave it out."
        )
    if (criterion, format, protocol) != ("train_validation", "text", None):
        raise ValueError(
            f"criterion={criterion}, format={format} and protocol={protocol} are options of tables of trained runs. "
            "Leave them out for adaptations; `dgbench adapt criterion=...` says which weights are adapted."
        )


def _told_apart(sheets: Sequence[Sheet], facts: Sequence[Mapping[str, Any]]) -> Iterator[Sheet]:
    """The tables; where several have one heading, each says in what they differ."""
    for sheet, own in zip(sheets, facts, strict=True):
        head = (sheet.title, sheet.subtitle)
        alike = [f for s, f in zip(sheets, facts, strict=True) if (s.title, s.subtitle) == head]
        marks = [f"{name} {str(own[name])[:15]}" for name in UNSAID if len({f[name] for f in alike}) > 1]
        yield replace(sheet, subtitle="; ".join([sheet.subtitle, *marks]))


def _sheet(values: pl.DataFrame, metric: str | None) -> Sheet:
    facts: Mapping[str, Any] = values.row(0, named=True)
    metric = metric or facts["score"]
    names = adapter_names(values.filter(choice=""))
    named = values.with_columns(
        method=pl.struct("adapter", "adapter_options", "choice").map_elements(
            lambda row: f"{row['adapter']}, {row['choice']}" if row["choice"] else names[row["adapter"], row[SETTING]],
            pl.String,
        ),
        trial=pl.format("{}/{}", "trial_seed", "data_seed"),
        # Of several models that stream one domain, and of several streams, each is a place that must be there.
        place=pl.format("{}/{}/{}/{}", "train_domains", "test_domains", "seed", "domain"),
        value=pl.col("value").cast(pl.Float64),
    )
    _refuse_two(named)
    # Domains in the data's order, each with all its corruptions; what is mixed, last.
    order = {name: place for place, name in enumerate(facts["dataset_domains"].split(" "))}
    full = _by_domain(named.filter(phase="stream"), list(order))
    domains = tuple(sorted(full["domain"].unique(maintain_order=True), key=lambda name: order.get(name, len(order))))
    single = full.filter(~pl.col("is_pooled"))
    differences = _differences(single.rename({"domain": "test_domain"}))
    after = named.filter(phase="source_after")
    late = set(named.filter(answers=AFTER)["method"])
    cost = dict(
        named.unique(["run_id", "method"]).group_by("method").agg(pl.col("seconds_per_batch").mean()).iter_rows()
    )
    rows = []
    for difference in differences:
        name = difference.method
        cells = tuple(_mean(full.filter(method=name, domain=domain)["value"]) for domain in domains)
        average = _mean(single.filter(method=name)["value"])
        kept = _mean(after.filter(method=name)["value"])
        base = cost.get(BASELINE)
        slowdown = cost[name] / base if base else None
        rows.append(Row(name, cells, average, difference, kept, slowdown, AFTER if name in late else "before"))
    sign = -1 if metric in LOWER_IS_BETTER else 1
    rows.sort(key=lambda row: (row.is_oracle, row.average is None, -sign * (row.average or 0.0), row.name))
    num = named["trial"].n_unique()
    cut = f"; {facts['examples']} examples of each" if facts["examples"] else ""
    model = facts["label"] or facts["algorithm"] + (f" + {facts['averaging']}" if facts["averaging"] != "none" else "")
    options = f" ({facts['stream_options']})" if facts["stream_options"] else ""
    step = "" if facts["source_step"] is None else f", step {facts['source_step']}"
    if facts["source_criterion"] != DEFAULT:
        step = f", weights by {facts['source_criterion']}"
    network = facts["network"] + (f" ({facts['norm']} norm)" if facts["norm"] else "")
    return Sheet(
        f"{facts['dataset']}: {notes_.measure(metric)} on the stream {facts['stream']}{options}",
        f"{model}, network {network}{step}; batches of {facts['batch_size']}{cut}; {num} trial{'s' * (num != 1)}",
        domains,
        tuple(rows),
        metric in IN_PERCENT,
        _notes(rows, num, is_pooled=len(single) < len(full)),
    )


def _by_domain(stream: pl.DataFrame, domains: Sequence[str]) -> pl.DataFrame:
    """One row per method, trial and domain, pooled or not: the mean over its places, null where one is missing.

    So domains count alike, however many places each has. A place that is met in several rounds counts by its mean over
    them.
    """
    keys = ["method", "trial", "place", "domain", "is_pooled"]
    found = stream.group_by(keys, maintain_order=True).agg(pl.col("value").mean())
    found = found.with_columns(pl.col("domain").map_elements(lambda name: _uncorrupted(name, domains), pl.String))
    every = found.select("method").unique().join(found.select("trial").unique(), how="cross")
    every = every.join(found.select("place", "domain", "is_pooled").unique(), how="cross")
    whole = pl.col("value").null_count() == 0
    return (
        every.join(found, on=keys, how="left")
        .group_by("method", "trial", "domain", "is_pooled", maintain_order=True)
        .agg(pl.when(whole).then(pl.col("value").mean()))
    )


def _mean(values: pl.Series) -> float | None:
    """The mean of numbers; None where one is missing or no number, or there are none."""
    return None if values.null_count() or values.is_nan().any() else values.mean()  # type: ignore[return-value]


def _uncorrupted(name: str, domains: Sequence[str]) -> str:
    """The domain of which a stream's rows are, corrupted or not.

    >>> _uncorrupted("rot15_fog_3", ["rot1", "rot15"]), _uncorrupted("mixed", ["rot1"])
    ('rot15', 'mixed')
    """
    own = [domain for domain in domains if name == domain or name.startswith(f"{domain}_")]
    return max(own, key=len, default=name)


def _differences(full: pl.DataFrame) -> list[Difference]:
    methods = full["method"].unique().sort().to_list()
    if BASELINE not in methods:
        return [Difference(method, 0, None, note="There is no unadapted model to compare with.") for method in methods]
    # An oracle's gains are no result: they are none of the tests for which is corrected.
    is_oracle = pl.col("method").str.ends_with(f", {ORACLE}")
    found = {difference.method: difference for difference in paired_differences(full.filter(~is_oracle), BASELINE)}
    oracles = full.filter(is_oracle | (pl.col("method") == BASELINE))
    found |= {d.method: replace(d, holm_p=None) for d in paired_differences(oracles, BASELINE)}
    return [found.get(method, Difference(method, 0, None)) for method in methods]


def adapter_names(values: pl.DataFrame) -> dict[tuple[str, str], str]:
    """What rows are called: the adapter, and where it comes with several hyper-parameters, those that differ."""
    several: dict[str, dict[str, dict[str, Any]]] = {}
    for name, text in values.select("adapter", "adapter_options").unique().sort(pl.all()).iter_rows():
        several.setdefault(name, {})[text] = json.loads(text)
    made = {}
    for name, every in several.items():
        keys = dict.fromkeys(key for options in every.values() for key in options)
        differing = [key for key in keys if len({json.dumps(options.get(key)) for options in every.values()}) > 1]
        for text, options in every.items():
            made[name, text] = " ".join([name, *(f"{key}={options.get(key)}" for key in differing)])
    return made


def _refuse_two(named: pl.DataFrame) -> None:
    keys = ["method", "trial", "place", "phase", "round"]
    twice = named.group_by(keys, maintain_order=True).agg(pl.col("run_id").unique().sort())
    if len(twice := twice.filter(pl.col("run_id").list.len() > 1)):
        first = twice.row(0, named=True)
        raise ValueError(
            f"The adaptations {' and '.join(first['run_id'])} both hold {first['method']} on {first['place']} in trial "
            f"{first['trial']}, expected one. Name folders of which one holds either."
        )


def _notes(rows: Sequence[Row], num_trials: int, *, is_pooled: bool) -> tuple[str, ...]:
    said = [
        "Minus source: paired within each trial, over all domains, with its 95 % interval by Student's t; * Holm's p "
        "is below 0.05. Kept: on the training domains' held-out examples in the state in which the stream ends; of an "
        "adapter that starts afresh on the way, after the last domain or batch alone. Time: of a batch, in units of "
        "source's."
    ]
    if is_pooled:
        said.append(f"{MIXED}: all domains' examples together, no part of the Average.")
    if differ_in_answers(rows):
        said.append("† answers each batch after its update on it, the others before: not to be compared as like.")
    if num_trials < MIN_TRIALS:
        said.append(f"{num_trials} trial{'s' * (num_trials != 1)}: too few to claim a gain or a loss.")
    unequal: dict[str, list[str]] = {}
    for row in rows:
        # That one or two trials are few has been said.
        if row.difference.note and (row.difference.num_trials < num_trials or row.difference.mean is None):
            unequal.setdefault(row.difference.note, []).append(row.name)
    if any(row.name == BASELINE for row in rows):
        said += [f"{', '.join(names)}: {note}" for note, names in unequal.items() if names != [BASELINE]]
    if all(row.name != BASELINE for row in rows):
        said.append("Adapt with adapter=source too: without it there is nothing to compare with.")
    return tuple(said)
