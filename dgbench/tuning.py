"""Hyper-parameters that a finished sweep chose, to be run again in new trials."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from dgbench import record
from dgbench.cells import TRIAL
from dgbench.selection import selection

# What a run and the sweep's runs that speak for it have in common.
SAME = ("dataset", "algorithm", "averaging", "train_domains", "val_domains", "test_domains", "network_key")


def chosen(sweep: str | Path, criterion: str, facts: Mapping[str, Any], trial: tuple[int, int]) -> dict[str, Any]:
    """What a sweep says of one method on one set of domains.

    Each draw of hyper-parameters is scored by the mean, over the trials that it was run in, of its best value by the
    criterion; the best mean wins, of equal ones the largest hparams_seed.

    Args:
        sweep: its runs_dir.
        criterion: of `dgbench.selection.criteria()`.
        facts: the columns `SAME` of the new run.
        trial: the new run's columns `TRIAL`.

    Returns:
        `hparams` and `optim`, resolved; `sweep`, `criterion` and `run` (an id) say where they come from.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the sweep does not know the method there, or already had this trial.
    """
    known = _scored(str(Path(sweep).expanduser()), criterion)
    mine = known.filter([pl.col(name) == facts[name] for name in SAME])
    if mine.is_empty():
        raise ValueError(
            f"hparams_from={sweep} has no finished runs of {facts['algorithm']} on {facts['dataset']}, test "
            f"{facts['test_domains'].replace(' ', '+')}, with this network, that {criterion} could choose among. "
            "Name another sweep, or let it run first."
        )
    if (taken := mine.filter([pl.col(name) == value for name, value in zip(TRIAL, trial, strict=True)])).height:
        trials = ", ".join(map(str, mine["trial_seed"].unique().sort()))
        raise ValueError(
            f"trial_seed={taken['trial_seed'][0]} was used by {sweep} to choose the hyper-parameters (its trials: "
            f"{trials}). Give trials that it has not seen, e.g. trial_seed=range({mine['trial_seed'].max() + 1},"  # type: ignore[operator]
            f"{mine['trial_seed'].max() + 4})."  # type: ignore[operator]
        )
    best = (
        mine.group_by("hparams")
        .agg(pl.col("rank").mean(), pl.col("hparams_seed").max(), pl.col("run_id", "path").sort_by(*TRIAL).first())
        .sort("rank", "hparams_seed", descending=True)
        .row(0, named=True)
    )
    said = record.RunFolder(best["path"]).read() or {}
    return {
        "hparams": said["identity"]["algorithm"]["hparams"],
        "optim": said["identity"]["optim"],
        "sweep": Path(sweep).expanduser().resolve().name,
        "criterion": criterion,
        "run": best["run_id"],
    }


@functools.lru_cache(maxsize=4)
def _scored(sweep: str, criterion: str) -> pl.DataFrame:
    """One row per run that the criterion can choose, with its best value as `rank`."""
    runs = record.runs(sweep)
    if runs.is_empty():
        raise ValueError(f"hparams_from={sweep} holds no runs. Name the runs_dir of a finished sweep.")
    rows = record.read(runs, set(runs["score"]))
    # As a label, every draw is a method of its own.
    best = selection(criterion).choose(rows.with_columns(label=pl.col("hparams")))
    return (
        best.select("run_id", rank=pl.col("selection_value").fill_nan(float("-inf")))
        .join(runs, on="run_id")
        .filter(pl.col("tuned") == "")
    )
