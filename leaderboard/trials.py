"""What is replicated: the trial, and its value, the mean over the test domains."""

from __future__ import annotations

import math
from collections.abc import Hashable

import polars as pl

from dgbench.selection import DIGITS


def trial_means(values: pl.DataFrame) -> dict[str, dict[Hashable, float]]:
    """Per method and trial the mean over all test domains, where all are there; NaN where one is no number.

    Args:
        values: columns method, trial, test_domain and value, one row per number; null is missing,
            NaN no number.

    Raises:
        ValueError: two numbers for one place.
    """
    keys = ["method", "trial", "test_domain"]
    if len(twice := values.group_by(keys).len().filter(pl.col("len") > 1).sort("method")):
        method, trial, domain, number = twice.row(0)
        raise ValueError(
            f"{number} values of {method} on {domain} in trial {trial}, expected one. Name runs of one sweep, or give "
            "rows that differ labels of their own."
        )
    num_domains = values["test_domain"].n_unique()
    value = pl.col("value").cast(pl.Float64)
    # Sorted, as the sum depends on the order; rounded, as equal numbers must not differ in the last digit.
    means = (
        values.filter(value.is_not_null())
        .sort(keys)
        .group_by("method", "trial", maintain_order=True)
        .agg(
            pl.when(value.is_finite().all()).then(value.mean().round_sig_figs(DIGITS)).otherwise(math.nan),
            num_domains=pl.len(),
        )
        .filter(pl.col("num_domains") == num_domains)
    )
    found: dict[str, dict[Hashable, float]] = {name: {} for name in values["method"].unique().sort()}
    for row in means.iter_rows(named=True):
        found[row["method"]][row["trial"]] = row["value"]
    return found
