"""What is said above and below a table: what was compared, what the numbers mean, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dgbench.cells import ALL_OTHERS, CELL, METHOD, TRIAL
from dgbench.registry import UnknownName
from dgbench.selection import LOWER_IS_BETTER, Selection

from .aggregate import method_name, method_names
from .remaking import make_command, recorded

SHOWN = 6


def labels(facts: pl.DataFrame) -> list[str]:
    """Each table's dataset, with what tells tables of one dataset apart where names do not."""
    marks: list[list[str]] = [[row["dataset"]] for row in facts.iter_rows(named=True)]
    alike = ("dataset", "protocol", "network", "trained_on", "val_domains")
    for key, word in (("data", "data"), ("protocol_key", "protocol"), ("network_key", "network")):
        several = facts.select(pl.col(key).n_unique().over(alike) > 1).to_series()
        for place, mark in enumerate(marks):
            if several[place]:
                mark.append(f"{word} {facts[key][place][:6]}")
    return [mark[0] + (f" ({', '.join(mark[1:])})" if mark[1:] else "") for mark in marks]


def heading(label: str, fact: Mapping[str, Any], chooser: Selection, runs: pl.DataFrame) -> tuple[str, str]:
    """Title and subtitle of one table."""
    parts = [
        f"protocol {fact['protocol']} ({_one_of(runs['num_steps'])} steps)",
        f"network {_one_of(runs['network'])}",
        f"trained on {fact['trained_on'].replace(' ', ', ') if fact['trained_on'] != ALL_OTHERS else ALL_OTHERS}",
    ]
    if fact["val_domains"]:
        parts.append(f"validated on {fact['val_domains'].replace(' ', ', ')}")
    draws = _draws(runs)["draws"]
    low, high = min(draws), max(draws)
    parts.append(_count(runs.select(TRIAL).n_unique(), "trial"))
    parts.append(_count(high, "hparams draw") if low == high else f"{low} to {high} hparams draws")
    return f"{label}: {measure(fact['score'])}, selected by {chooser.name}", "; ".join(parts)


def _one_of(values: pl.Series) -> str:
    """The value if there is one, else all."""
    return " or ".join(map(str, values.unique().sort()))


def measure(metric: str) -> str:
    """A metric with its unit and direction."""
    unit = " in %" if metric in ("accuracy", "macro_accuracy") else ""
    return f"{metric}{unit}{' (lower is better)' if metric in LOWER_IS_BETTER else ''}"


def of_table(
    runs: pl.DataFrame, covered: pl.DataFrame, chosen: pl.DataFrame, chooser: Selection, metric: str
) -> tuple[str, ...]:
    """The notes below one table."""
    several = runs.select(TRIAL).n_unique() > 1
    divisor = runs["error_bar"][0]
    splits = chosen["split"].unique().to_list()
    part = "official test split" if splits == ["test"] else "in split"
    error = f"± is the standard error over trials ({divisor})."
    reported = f" Reported: {metric} on the test domain's {part}." if splits else ""
    said = [
        f"{chooser.name} chooses {chooser.meaning}.{reported}",
        error if several else "One trial: nothing is known about the spread.",
    ]
    if (covered["is_missing"]).any():
        said.append(f"Missing, no finished run: {_places(covered.filter('is_missing'))}.")
        said[1] += " (k/n): k of n trials are there; Average needs all test domains of a trial."
    unchosen = covered.filter(~pl.col("is_missing")).join(chosen, on=CELL, how="anti")
    if len(unchosen):
        said.append(
            f"Nothing that {chooser.name} chooses by was evaluated: {_places(unchosen)}. Choose by another criterion "
            f"(last_step needs nothing), or make the runs with criteria=[{chooser.name}]."
        )
    troubles = [f"{covered[name].sum()} {name}" for name in ("diverged", "failed", "unfinished") if covered[name].sum()]
    if troubles:
        said.append(f"Runs: {covered['complete'].sum()} complete, {', '.join(troubles)}.")
    diverged = chosen.filter(pl.col("status") == "diverged")
    if len(diverged):
        said.append(f"† with a run that diverged, where no other was finished: {_places(diverged)}.")
    versions = chosen["package_version"].unique().sort().to_list()
    if len(versions) > 1:
        said.append(f"Runs of several versions of dgbench stand in this table: {', '.join(map(str, versions))}.")
    draws = _draws(runs).group_by("algorithm").agg(pl.col("draws").max()).sort("algorithm")
    if draws["draws"].n_unique() > 1:
        each = ", ".join(f"{name} {number}" for name, number in draws.iter_rows())
        said.append(f"Methods had unequal numbers of hparams draws: {each}.")
    said += _of_rows(runs)
    return tuple(said)


def _of_rows(runs: pl.DataFrame) -> list[str]:
    """What is special about rows with a label, or with hyper-parameters that another sweep chose."""
    said = []
    labelled = runs.filter(pl.col("label") != "").unique(METHOD).sort(METHOD)
    if len(labelled):
        names = method_names(labelled.select(METHOD).iter_rows())
        each = ", ".join(
            f"{names[tuple(row[key] for key in METHOD)]} ({row['algorithm']}, {row['network']}, "
            f"{row['num_steps']} steps)"
            for row in labelled.iter_rows(named=True)
        )
        said.append(f"Labelled rows may differ in network, steps and options of the data: {each}.")
    tuned = runs.filter(pl.col("tuned") != "")["tuned"].unique().sort().to_list()
    if tuned:
        said.append(f"(tuned): hyper-parameters were chosen by {', '.join(tuned)}, in other trials than these.")
    return said


def of_pairs(lacking: pl.DataFrame, *, in_short: bool = False) -> tuple[str, ...]:
    """The runs leaving out two domains that are missing, and the commands that make them.

    Args:
        lacking: of `dgbench.cells.missing_pairs`.
        in_short: only how many, where an explanation follows.
    """
    if in_short and len(lacking):
        return (f"{len(lacking)} pair {'runs are' if len(lacking) > 1 else 'run is'} missing: see below.",)
    said = []
    for row in lacking.head(SHOWN).iter_rows(named=True):
        name = method_name(*(row[key] for key in METHOD))
        pair = sorted((row["test_domain"], row["domain"]))
        draw = f"h{row['hparams_seed']} t{row['trial_seed']}"
        said.append(f"Missing: {name} on {row['dataset']}, test {'+'.join(pair)}, {draw}{_made_by(row['path'], pair)}")
    if len(lacking) > SHOWN:
        said.append(f"Missing: {len(lacking) - SHOWN} more. The sweep's command with test_domains=pairs makes them.")
    return tuple(said)


def _made_by(path: str, pair: list[str]) -> str:
    """What makes a run like another on a pair of test domains, or why that cannot be told."""
    like = recorded(path)
    try:
        return f": {make_command(like['config'], test_domains=pair)}" if like else ""
    except (ValueError, UnknownName) as error:
        return f". {error}"


def of_sources(dataset: str, metric: str, chooser: Selection) -> tuple[str, str, tuple[str, ...]]:
    """Title, subtitle and notes of the table over single training domains."""
    return (
        f"{dataset}: average {measure(metric)} by training domain, selected by {chooser.name}",
        "trained on one domain, tested on all the others",
        (
            "A column's number is the average over its test domains; ± of the average takes the trials of different "
            "training domains as independent.",
        ),
    )


def of_overall(
    datasets: Sequence[str], metric: str, protocol: str, trained_on: str, chooser: Selection
) -> tuple[str, str, tuple[str, ...]]:
    """Title, subtitle and notes of the table over datasets."""
    return (
        f"{len(datasets)} datasets: average {measure(metric)}, selected by {chooser.name}",
        f"protocol {protocol}; trained on {trained_on}",
        ("Average counts each dataset once; its ± takes the trials of different datasets as independent.",),
    )


def _draws(runs: pl.DataFrame) -> pl.DataFrame:
    return runs.group_by(CELL).agg(draws=pl.col("hparams").n_unique())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _trial(cells: pl.DataFrame) -> pl.Expr:
    """A trial as people call it: its seed, and the data's where several were drawn."""
    seed = pl.col("trial_seed").cast(pl.String)
    return seed if cells["data_seed"].n_unique() == 1 else seed + "/" + pl.col("data_seed").cast(pl.String)


def _places(cells: pl.DataFrame) -> str:
    """The first few of some cells by name: method on domain (trials)."""
    found = (
        cells.group_by(*METHOD, "test_domain", maintain_order=True)
        .agg(trials=_trial(cells).sort().str.join(", "), count=pl.len())
        .sort(*METHOD, "test_domain")
    )
    names = [
        f"{method_name(*(row[key] for key in METHOD))} on {row['test_domain']} "
        f"(trial{'s' if row['count'] > 1 else ''} {row['trials']})"
        for row in found.iter_rows(named=True)
    ]
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
