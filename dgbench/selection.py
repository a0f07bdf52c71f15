"""Which step of which run speaks for a method, and how many runs there were to choose from.

A cell is one number of a comparison: a method on one test domain in one trial, all else equal. Its runs differ
in their hyper-parameters. A criterion chooses one step of one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dgbench.record import FINISHED
from dgbench.registry import UnknownName

# What has to be equal for numbers to stand in one table.
TABLE = ("dataset", "data", "protocol_key", "network_key", "trained_on", "val_domains")
METHOD = ("algorithm", "averaging")
CELL = (*TABLE, *METHOD, "test_domain", "trial_seed")

LOWER_IS_BETTER = ("rmse", "mae", "nll", "ece")
ALL_OTHERS = "all other domains"
# Equal to this many digits is equal: sums of the same scores in another order must still tie.
DIGITS = 12


@dataclass(frozen=True)
class Selection:
    """A criterion.

    Equal values: the first step within a run; over runs the largest hparams_seed, then the smallest run_id.
    A NaN counts as minus infinity. A run that diverged is chosen only if all finished runs of its cell did. A
    run that is not finished is never chosen: its last step is an accident.
    """

    name: str
    meaning: str
    """What it chooses and by which scores, for the note below a table."""
    scores: tuple[tuple[str, str], ...]
    """(role of the domain, split); the first that a run was evaluated on is averaged over the domains."""
    is_last_step: bool = False
    """Only the last step of a run competes."""

    def choose(self, rows: pl.DataFrame, metric: str | None = None) -> pl.DataFrame:
        """One row per cell that has a finished run.

        Columns: those of `CELL`, then run_id, step, weights, hparams_seed, status, package_version,
        selection_value, and of the test domain the split reported (the official `test`, or `in`), its value
        and n.

        Args:
            rows: as `dgbench.record.read` gives them.
            metric: what is reported; None: the score by which is selected.
        """
        weights = pl.when(pl.col("averaging") == "none").then(pl.lit("last")).otherwise(pl.col("averaging"))
        rows = rows.filter(pl.col("status").is_in(FINISHED), pl.col("weights") == weights)
        runs = with_cells(rows.unique("run_id"))
        rows = rows.select("run_id", "step", "weights", "split", "domain", "metric", "value", "n", "score").join(
            _roles(runs), on=["run_id", "domain"]
        )
        scores = rows.filter(pl.col("metric") == pl.col("score"))
        reported = rows.filter(pl.col("metric") == (pl.col("score") if metric is None else pl.lit(metric)))
        sign = pl.when(pl.col("score").is_in(LOWER_IS_BETTER)).then(-1).otherwise(1)
        candidates = (
            _first(scores, self.scores)
            .group_by("run_id", "step")
            .agg(
                selection_value=(sign.first() * pl.col("value").mean()).round_sig_figs(DIGITS),
                is_whole=pl.len() == pl.col("num_domains").first(),
            )
        )
        if self.is_last_step:
            candidates = candidates.filter(pl.col("step") == pl.col("step").max().over("run_id"))
        # A mean over some of the domains is another number: such a step does not compete.
        candidates = candidates.filter("is_whole").drop("is_whole")
        reported = _first(reported, (("test", "test"), ("test", "in")))
        return (
            candidates.join(reported.select("run_id", "step", "weights", "split", "value", "n"), on=["run_id", "step"])
            .join(runs.select(*CELL, "run_id", "hparams_seed", "status", "package_version"), on="run_id")
            .with_columns(
                diverged=pl.col("status") == "diverged",
                rank=pl.col("selection_value").fill_nan(float("-inf")),
            )
            .sort(
                "diverged",
                "rank",
                "hparams_seed",
                "run_id",
                "step",
                descending=[False, True, True, False, False],
            )
            .unique(CELL, keep="first", maintain_order=True)
            .select(*CELL, *_CHOICE)
            .sort(CELL)
        )


_CHOICE = (
    "run_id",
    "step",
    "weights",
    "hparams_seed",
    "status",
    "package_version",
    "split",
    "selection_value",
    "value",
    "n",
)
_CRITERIA = {
    selection.name: selection
    for selection in (
        Selection(
            "train_validation",
            "the step and the hyper-parameters that score best on held-out data of the training domains (on "
            "validation domains or an official validation split where there are any)",
            (("val", "in"), ("train", "val"), ("train", "out")),
        ),
        Selection(
            "oracle",
            "the hyper-parameters whose last step scores best on held-out data of the test domain, "
            "whose labels a method must not know",
            (("test", "out"),),
            is_last_step=True,
        ),
        Selection(
            "oracle_best",
            "the step and the hyper-parameters that score best on held-out data of the test domain, "
            "whose labels a method must not know",
            (("test", "out"),),
        ),
    )
}


def criteria() -> list[str]:
    """The names of the criteria."""
    return list(_CRITERIA)


def selection(name: str) -> Selection:
    """A criterion by name.

    Raises:
        UnknownName: there is no criterion of that name.
    """
    if name not in _CRITERIA:
        raise UnknownName("criterion", name, _CRITERIA)
    return _CRITERIA[name]


def with_cells(runs: pl.DataFrame) -> pl.DataFrame:
    """The runs that test on one domain, with the columns `test_domain` and `trained_on`.

    Runs that test on several domains at once have trained on fewer, and serve no criterion here.
    """
    count = {name: pl.col(name).str.count_matches(r"\S+") for name in _DOMAINS}
    is_rest = count["train_domains"] + count["val_domains"] + 1 == count["dataset_domains"]
    return runs.filter(count["test_domains"] == 1).with_columns(
        test_domain=pl.col("test_domains"),
        trained_on=pl.when(is_rest).then(pl.lit(ALL_OTHERS)).otherwise(pl.col("train_domains")),
    )


def coverage(runs: pl.DataFrame) -> pl.DataFrame:
    """One row per cell that a table should have: each domain left to test on, in each trial that is there.

    Columns: those of `CELL`, then the number of runs `complete`, `diverged`, `failed`, `unfinished` (running,
    interrupted), and `is_missing`: none is finished.

    Args:
        runs: as `dgbench.record.runs` gives them.
    """
    cells = with_cells(runs)
    status = pl.col("status")
    found = cells.group_by(CELL).agg(
        complete=(status == "complete").sum(),
        diverged=(status == "diverged").sum(),
        failed=(status == "failed").sum(),
        unfinished=status.is_in(["running", "interrupted"]).sum(),
    )
    counts = ("complete", "diverged", "failed", "unfinished")
    names = pl.col("dataset_domains").str.split(" ")
    is_free = ~pl.col("test_domain").is_in(pl.col("val_domains").str.split(" ")) & (
        (pl.col("trained_on") == ALL_OTHERS) | ~pl.col("test_domain").is_in(pl.col("trained_on").str.split(" "))
    )
    return (
        cells.select(*TABLE, *METHOD, "dataset_domains")
        .unique()
        .with_columns(test_domain=names)
        .explode("test_domain")
        .filter(is_free)
        .join(cells.select(*TABLE, "trial_seed").unique(), on=TABLE)
        .join(found, on=CELL, how="left")
        .with_columns(pl.col(counts).fill_null(0))
        .with_columns(is_missing=pl.col("complete") + pl.col("diverged") == 0)
        .select(*CELL, *counts, "is_missing")
        .sort(CELL)
    )


_DOMAINS = ("dataset_domains", "train_domains", "val_domains", "test_domains")


def _roles(runs: pl.DataFrame) -> pl.DataFrame:
    """What each domain is to a run, and how many are the same to it: run_id, domain, role, num_domains."""
    parts = [
        runs.select("run_id", domain=pl.col(f"{role}_domains").str.split(" "), role=pl.lit(role))
        .with_columns(num_domains=pl.col("domain").list.len())
        .explode("domain")
        for role in ("train", "val", "test")
    ]
    return pl.concat(parts)


def _first(rows: pl.DataFrame, wanted: tuple[tuple[str, str], ...]) -> pl.DataFrame:
    """The rows of each run that belong to the first (role, split) it has any rows of."""
    order = pl.DataFrame(
        [(*pair, place) for place, pair in enumerate(wanted)],
        schema={"role": pl.String, "split": pl.String, "place": pl.Int64},
        orient="row",
    )
    return rows.join(order, on=["role", "split"]).filter(pl.col("place") == pl.col("place").min().over("run_id"))
