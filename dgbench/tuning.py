"""Hyper-parameters that a finished sweep chose, to be run again in new trials."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from dgbench import record
from dgbench.cells import TRIAL
from dgbench.description import NOT_DRAWN
from dgbench.selection import selection

# What a run and the sweep's runs that speak for it have in common.
SAME = (
    *("dataset", "data", "protocol_key", "network_key", "train_domains", "val_domains", "test_domains"),
    *("algorithm", "averaging", "label"),
)


def chosen(sweep: str | Path, criterion: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep says of one method on one set of domains.

    Each draw of hyper-parameters is scored by the mean, over the trials that it was run in, of its best value by the
    criterion; the best mean wins, of equal ones the largest hparams_seed. A draw of which a run diverged wins only if
    all have one, and a draw that was run in fewer trials than another only if it drew for its trial alone.

    Args:
        sweep: its runs_dir.
        criterion: of `dgbench.selection.criteria()`.
        facts: the new run's columns, and its `splits`.

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
            f"{facts['test_domains'].replace(' ', '+')}, with this network and protocol, that {criterion} could choose "
            "among. Name another sweep, or let it run first."
        )
    # Official splits are those of every trial: there only another draw of the data is new.
    names = ("data_seed",) if facts["splits"] == "official" and facts["data_seed"] != NOT_DRAWN else TRIAL
    if (taken := mine.filter([pl.col(name) == facts[name] for name in names])).height:
        key = "trial_seed" if names == TRIAL else "data_seed"
        seen = mine[key].unique().sort().to_list()
        raise ValueError(
            f"{key}={taken[key][0]} was used by {sweep} to choose the hyper-parameters (its trials: "
            f"{', '.join(map(str, seen))}). Give trials that it has not seen, e.g. {key}=range({seen[-1] + 1},"
            f"{seen[-1] + 4})."
        )
    draws = mine.group_by("hparams").agg(
        pl.col("rank").mean(),
        pl.col("hparams_seed").max(),
        pl.col("run_id", "path").sort_by(*TRIAL).first(),
        has_diverged=(pl.col("status") == "diverged").any(),
        num_trials=pl.len(),
    )
    # One draw in all trials but one is easier to be good in; draws of a trial of their own are all of one.
    shared = draws.filter(pl.col("num_trials") == pl.col("num_trials").max())
    rivals = shared if (draws["hparams_seed"].n_unique() == len(draws)) else draws
    best = rivals.sort("has_diverged", "rank", "hparams_seed", descending=[False, True, True]).row(0, named=True)
    said = record.RunFolder(best["path"]).read() or {}
    return {
        "hparams": said["identity"]["algorithm"]["hparams"],
        "optim": said["identity"]["optim"],
        "sweep": Path(sweep).expanduser().resolve().name,
        "criterion": criterion,
        "run": best["run_id"],
    }


def forget() -> None:
    """Read the sweeps anew when they are next asked: they may have gone on."""
    _scored.cache_clear()


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
