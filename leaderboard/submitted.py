"""What a submission's runs and evaluations say: as frames like those of a runs folder, and what follows from them."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from dgbench.cells import TABLE, coverage, with_cells
from dgbench.keys import typed
from dgbench.protocol import Protocol
from dgbench.record import identity_hash
from dgbench.selection import DIGITS, criteria, selection

from .aggregate import tidy
from .submission import Data, Hyperparameters, Submission, Tables

# A labelled row may differ from others in all but these options of the protocol (`dgbench.description.columns`).
_KEPT = ("splits", "holdout_fraction", "uda_holdout_fraction")


def frames(said: Submission, tables: Tables) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Runs and evaluations as `dgbench.record.runs` and `dgbench.record.read` give them.

    What only a folder knows is empty: path, reason, group.
    """
    runs = tables.runs
    drawn = {name: pl.Series(getattr(runs, name), dtype=kind) for name, kind in _OWN.items()}
    domains = {
        name: pl.Series([" ".join(names) for names in getattr(runs, name)], dtype=pl.String)
        for name in ("train_domains", "val_domains", "test_domains")
    }
    hparams = pl.Series([_hparams_key(said, one) for one in said.hparams], dtype=pl.String)
    versions = pl.Series([one.versions.get("dgbench") for one in said.environments], dtype=pl.String)
    nothing = {name: pl.Series([None] * len(runs.run_id), dtype=pl.String) for name in ("path", "reason", "group")}
    of = pl.DataFrame(
        {
            **drawn,
            **domains,
            **nothing,
            "hparams": hparams.gather(runs.hparams),
            "package_version": versions.gather(runs.environment),
        }
    ).join(pl.DataFrame([_facts(said, data) for data in said.datasets]), on="dataset", maintain_order="left")
    rows = tables.evaluations
    average = said.method.averaging.split(":")[0]
    weights = "last" if average == "none" else average
    score = {data.name: data.score for data in said.datasets}
    metric = pl.Series([score[name] for name in runs.dataset], dtype=pl.String)
    long = pl.DataFrame(
        {
            "step": pl.Series(rows.step, dtype=pl.Int64),
            "weights": pl.Series([weights] * len(rows.run), dtype=pl.String),
            "split": pl.Series(rows.split, dtype=pl.String),
            "domain": pl.Series(rows.domain, dtype=pl.String),
            "metric": metric.gather(rows.run),
            "value": pl.Series(rows.value, dtype=pl.Float64).fill_null(math.nan),
            "n": pl.Series(rows.n, dtype=pl.Int64),
        }
    )
    return of, of[rows.run].hstack(long)


def _hparams_key(said: Submission, one: Hyperparameters) -> str:
    algorithm = {"name": said.method.algorithm, "version": said.method.version, "hparams": one.algorithm}
    return identity_hash({"algorithm": algorithm, "optim": one.optim})


def protocol_of(said: Submission, data: Data) -> Protocol:
    """The protocol of the runs on one dataset, whole: with the rules by which they are read.

    Raises:
        UnknownName: it has an option that there is not.
        ValueError: an option has no possible value.
    """
    return typed(Protocol, {**data.protocol, **said.protocol.model_dump()}, "protocol.")


def _facts(said: Submission, data: Data) -> dict[str, Any]:
    """The columns that all runs on one dataset share; keys as `dgbench.description.columns` makes them."""
    method = said.method
    dataset: dict[str, Any] = {"name": data.name, "version": data.version, "options": data.options}
    if set(data.fingerprints) == {"-1"}:
        dataset["fingerprint"] = data.fingerprints["-1"]
    protocol: dict[str, Any] = {"protocol": data.protocol, "trainer": data.trainer}
    network, variant = dict(data.network), ""
    if method.label:
        variant = identity_hash({"network": network, "protocol": protocol, "options": dataset.pop("options")})
        network, protocol = {}, {name: data.protocol[name] for name in _KEPT}
    planned = protocol_of(said, data)
    return {
        "dataset": data.name,
        "data": identity_hash(dataset),
        "dataset_domains": " ".join(data.domains),
        "designated_domains": " ".join(data.designated_domains),
        "regime": data.regime,
        "score": data.score,
        "protocol": said.protocol.name,
        "protocol_key": identity_hash(protocol),
        **planned.reporting,
        "network": data.network["name"],
        "network_key": identity_hash(network),
        "algorithm": method.algorithm,
        "averaging": method.averaging,
        "label": method.label,
        "variant": variant,
        "tuned": "",
        "num_steps": planned.num_steps,
        "last_evaluation": planned.last_evaluation,
    }


def results(rows: pl.DataFrame) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """What each criterion chooses, as a submission's `results`, and as one frame with the column `criterion`.

    Args:
        rows: of one method, as `frames` gives them.
    """
    chosen = pl.concat(
        selection(name).choose(rows).select(pl.lit(name).alias("criterion"), pl.all()) for name in criteria()
    )
    names = ("criterion", "dataset", "test_domain", "trial_seed", "data_seed", "run_id", "step")
    by = pl.col("selection_value").fill_nan(None)
    found = chosen.sort(names[:5]).select(
        *names,
        # Errors are chosen by as negatives, of which that of 0 is no other number.
        pl.when(by == 0).then(0.0).otherwise(by).alias("selection_value"),
        pl.col("value").fill_nan(None),
        "n",
    )
    return found.to_dicts(), chosen


def aggregates(runs: pl.DataFrame, chosen: pl.DataFrame) -> list[dict[str, Any]]:
    """Means over trials, per criterion and dataset, as a submission's `aggregates`.

    Args:
        runs: of one method, as `frames` gives them.
        chosen: as `results` gives them.
    """
    covered = coverage(runs)
    rules = with_cells(runs).group_by(TABLE).agg(pl.col("error_bar").first())
    found = []
    for (name,), part in chosen.group_by("criterion", maintain_order=True):
        made = tidy(part, covered, rules).filter(pl.col("dataset").is_in(part["dataset"].implode()))
        found.append(made.select(pl.lit(name).alias("criterion"), pl.all()))
    if not found:
        return []
    names = ("criterion", "dataset", "column")
    return (
        pl.concat(found)
        .sort(names)
        .select(
            *names,
            # Sums in another order must give the same file.
            pl.col("mean", "se").fill_nan(None).round_sig_figs(DIGITS),
            "num_trials",
            "expected_trials",
        )
        .to_dicts()
    )


_OWN: dict[str, Any] = {
    "run_id": pl.String,
    "dataset": pl.String,
    "trial_seed": pl.Int64,
    "data_seed": pl.Int64,
    "hparams_seed": pl.Int64,
    "status": pl.String,
    "seconds": pl.Float64,
    "peak_memory": pl.Int64,
}
