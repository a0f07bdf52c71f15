"""Steps that a run recorded twice. No run of ours does; one of DomainBed does that was started again in its folder."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from dgbench.cells import pair_runs

_KEY = ("run_id", "step", "weights", "split", "domain", "metric")


def choose_among(
    rows: pl.DataFrame, choose: Callable[[pl.DataFrame], pl.DataFrame], *, needs_pairs: bool, is_last_step: bool
) -> pl.DataFrame:
    """What is chosen among rows in which steps repeat.

    The later record of a step counts. For a protocol with `literal`, DomainBed's rules: both records compete, in the
    order in which they were made. Of the last step the later one counts. Cross-validation passes over such a step of a
    run that leaves out one domain; of one that leaves out two, the later record counts.

    Args:
        rows: as `dgbench.record.read` gives them, each run's in the order of its records.
        choose: the choice among rows in which no step repeats.
        needs_pairs: whether it is by runs that leave out two domains.
        is_last_step: whether only last steps compete.
    """
    rows = rows.with_columns(again=pl.int_range(pl.len()).over(_KEY), times=pl.len().over(_KEY))
    is_later = pl.col("again") == pl.col("times") - 1
    if is_last_step:
        return choose(rows.filter(is_later).drop("again", "times"))
    if needs_pairs:
        is_pair = pl.col("run_id").is_in(pair_runs(rows.unique("run_id"))["run_id"].implode())
        is_void = pl.col("literal") & (pl.col("times") > 1) & ~is_pair
        return choose(rows.filter(is_later & ~is_void).drop("again", "times"))
    # Within a run, the place of a record stands for its step: places differ, and of equal records the first is chosen.
    first = pl.col("row").min().over("run_id", "step", "again")
    rows = (
        rows.filter(is_later | pl.col("literal"))
        .with_row_index("row")
        .with_columns(place=first.rank("dense").over("run_id").cast(pl.Int64))
    )
    steps = rows.select("run_id", "place", "step").unique()
    chosen = choose(rows.with_columns(step="place").drop("again", "times", "row", "place"))
    named = chosen.rename({"step": "place"}).join(steps, on=["run_id", "place"], maintain_order="left")
    return named.select(chosen.columns)
