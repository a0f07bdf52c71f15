"""What one submission says beside others: the same name, the same cells, other values than before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import polars as pl

from dgbench.cells import CELL

from .bounded import shown
from .names import skeleton

if TYPE_CHECKING:
    from .validate import Verdict

_VALUE = ("criterion", *CELL)


def problems(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """What each of some submissions must not share with another.

    Args:
        verdicts: of files, in one order.

    Returns:
        Sentences for each, in the same order.
    """
    found: list[list[str]] = [[] for _ in verdicts]
    for (_, one), (index, other) in combinations(enumerate(verdicts), 2):
        if one.submission is None or other.submission is None:
            continue
        first, second = one.submission.method, other.submission.method
        if skeleton(first.name) != skeleton(second.name):
            continue
        if (first.name, first.algorithm) != (second.name, second.algorithm):
            found[index].append(
                f"$.method.name: got {shown(second.name)} ({second.algorithm}), which can be taken for "
                f"{shown(first.name)} ({first.algorithm}) of {one.path}, expected a name of its own. "
                "Give the runs another label."
            )
        elif one.cells is not None and other.cells is not None:
            shared = one.cells.join(other.cells, on=_VALUE, how="semi")
            if len(shared):
                found[index].append(
                    f"$.results: got {_named(shared.row(0, named=True))}, which {one.path} has too, expected each "
                    "cell in one file. Keep one of the two."
                )
    return found


def changes(verdicts: Sequence[Verdict], former: Sequence[Verdict]) -> list[str]:
    """Values that were there before and are not any more, unless a submission says that it supersedes them.

    Args:
        verdicts: of all files as they are.
        former: of the files as they were.

    Returns:
        Sentences that begin with the former file.
    """
    said = [v.submission.supersedes for v in verdicts if v.submission is not None]
    now = [v.cells.select(*_VALUE, now="value") for v in verdicts if v.cells is not None]
    found = []
    for old in former:
        if old.submission is None or old.cells is None or old.submission.checksum in said:
            continue
        cells = old.cells.with_columns(now=pl.lit(None, pl.Float64))
        if now:
            cells = old.cells.join(pl.concat(now).unique(_VALUE), on=_VALUE, how="left", maintain_order="left")
        gone = cells.filter(~pl.col("value").eq_missing(pl.col("now")))
        if len(gone):
            row = gone.row(0, named=True)
            became = "is gone" if row["now"] is None else f"became {shown(row['now'])}"
            more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
            found.append(
                f"{old.path}: $.results: {shown(row['value'])} of {_named(row)} {became}{more}, expected published "
                f"values to stay. Submit with --supersedes {old.submission.checksum}, or leave the file as it was."
            )
    return found


def _named(row: dict[str, Any]) -> str:
    return f"{row['criterion']} / {row['dataset']} / {row['test_domain']} / {row['trial_seed']}"
