"""Which runs fill which cells of a comparison, and what is missing.

A cell is one number of a comparison: a method on one test domain in one trial, all else equal. Its runs differ
in their hyper-parameters.
"""

from __future__ import annotations

import polars as pl

from dgbench.record import FINISHED

# What has to be equal for numbers to stand in one table.
TABLE = ("dataset", "data", "protocol_key", "network_key", "trained_on", "val_domains")
METHOD = ("algorithm", "averaging", "label", "variant", "tuned")
# The unit of replication: a split of the data, and of generated data a draw.
TRIAL = ("trial_seed", "data_seed")
CELL = (*TABLE, *METHOD, "test_domain", *TRIAL)

ALL_OTHERS = "all other domains"

_DOMAINS = ("dataset_domains", "train_domains", "val_domains", "test_domains")
# What a pair of left-out domains shares with the run that it speaks for.
FAMILY = ("dataset", "data", "protocol_key", "network_key", "val_domains", *METHOD, "hparams", *TRIAL)


def with_cells(runs: pl.DataFrame) -> pl.DataFrame:
    """One row per run and domain that it tests on, with the columns `test_domain` and `trained_on`.

    Runs that leave out two domains serve `domain_cross_validation` where others leave out one; they are left out here.
    """
    return (
        runs.filter(~_is_pair())
        .with_columns(trained_on=pl.when(_leaves_out(1)).then(pl.lit(ALL_OTHERS)).otherwise(pl.col("train_domains")))
        .with_columns(test_domain=pl.col("test_domains").str.split(" "))
        .explode("test_domain")
    )


def pair_runs(runs: pl.DataFrame) -> pl.DataFrame:
    """The runs that serve `domain_cross_validation` only."""
    return runs.filter(_is_pair())


def _leaves_out(number: int) -> pl.Expr:
    """Whether a run tests on so many domains and trains (or validates) on all the others."""
    count = {name: pl.col(name).str.count_matches(r"\S+") for name in _DOMAINS}
    rest = count["train_domains"] + count["val_domains"] + number == count["dataset_domains"]
    trained, tested = (pl.col(f"{role}_domains").str.split(" ") for role in ("train", "test"))
    # With official splits, a domain may be trained and tested on: then it is not left out.
    return rest & (count["test_domains"] == number) & (trained.list.set_intersection(tested).list.len() == 0)


def _is_pair() -> pl.Expr:
    # Of three domains, leaving out two is also training on one: what it is for, the other runs tell.
    return _leaves_out(2) & _leaves_out(1).any().over("dataset", "data", "protocol_key", "network_key", "val_domains")


def sides(pairs: pl.DataFrame) -> pl.DataFrame:
    """Each pair run twice: for either of its domains as `test_domain` and the other as `domain`."""
    both = pl.col("test_domains").str.split(" ")
    return pl.concat(
        [
            pairs.select("run_id", *FAMILY, test_domain=both.list.get(one), domain=both.list.get(1 - one))
            for one in (0, 1)
        ]
    )


def missing_pairs(runs: pl.DataFrame) -> pl.DataFrame:
    """The runs leaving out two domains that `domain_cross_validation` lacks.

    Columns: run_id and path of a finished run that lacks it, `test_domain` and the training domain `domain` that
    should be left out together.

    Args:
        runs: as `dgbench.record.runs` gives them.
    """
    eligible = runs.filter(pl.col("status").is_in(FINISHED) | pl.col("use_unfinished"))
    needed = (
        with_cells(eligible)
        .filter(
            pl.col("trained_on") == ALL_OTHERS,
            pl.col("tuned") == "",
            pl.col("train_domains").str.contains(" "),  # of one training domain none can be left out
        )
        .with_columns(domain=pl.col("train_domains").str.split(" "))
        .explode("domain")
    )
    keys = [*FAMILY, "test_domain", "domain"]
    lacking = needed.join(sides(pair_runs(eligible)).select(keys), on=keys, how="anti")
    both = pl.concat_list("test_domain", "domain").list.sort()
    return (
        lacking.with_columns(both=both)
        .unique([*FAMILY, "both"], keep="first", maintain_order=True)
        .select("run_id", "path", *METHOD, "dataset", "test_domain", "domain", "hparams_seed", "trial_seed")
        .sort(*METHOD, "dataset", "test_domain", "domain", "hparams_seed", "trial_seed")
    )


def coverage(runs: pl.DataFrame) -> pl.DataFrame:
    """One row per cell that a table should have: each domain left to test on, in each trial that is there.

    Where every other domain trains, each domain can be left out (or those that the data designate); where training
    domains are named, the expected test domains are those that some run tests on.

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
        uses_unfinished=pl.col("use_unfinished").any(),
    )
    counts = ("complete", "diverged", "failed", "unfinished")
    designated = pl.when(pl.col("designated_domains") == "").then("dataset_domains").otherwise("designated_domains")
    is_free = ~pl.col("test_domain").is_in(pl.col("val_domains").str.split(" "))
    free = cells.filter(pl.col("trained_on") == ALL_OTHERS).with_columns(test_domain=designated.str.split(" "))
    named = cells.filter(pl.col("trained_on") != ALL_OTHERS).select(*TABLE, "test_domain").unique()
    expected = pl.concat([free.explode("test_domain").filter(is_free).select(*TABLE, "test_domain").unique(), named])
    finished = pl.col("complete") + pl.col("diverged")
    others = pl.when("uses_unfinished").then(pl.col("unfinished") + pl.col("failed")).otherwise(0)
    return (
        cells.select(*TABLE, *METHOD)
        .unique()
        .join(expected, on=TABLE)
        # Rows that another sweep tuned have trials of their own.
        .join(cells.select(*TABLE, "tuned", *TRIAL).unique(), on=[*TABLE, "tuned"])
        .join(found, on=CELL, how="left")
        .with_columns(pl.col(counts).fill_null(0), pl.col("uses_unfinished").fill_null(False))
        .with_columns(is_missing=finished + others == 0)
        .select(*CELL, *counts, "is_missing")
        .sort(CELL)
    )
