"""What one submission says beside others: the same name, suite or cells, and other things than before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import polars as pl

from dgbench.cells import CELL, TRIAL

from .bounded import below, named, shown
from .entries import Entry, Facts, facts
from .names import skeleton
from .submission import Submission
from .wording import about

if TYPE_CHECKING:
    from .validate import Verdict

_VALUE = ("criterion", *CELL)
_PLACE = ("criterion", "dataset", "test_domain", *TRIAL)


def problems(verdicts: Sequence[Verdict], former: Sequence[Verdict] = ()) -> list[list[str]]:
    """What each of some submissions must not share with another.

    Args:
        verdicts: of files, in one order.
        former: of those that are published; a new file is at fault beside one of them, else the later of two.

    Returns:
        Sentences for each, in the order of `verdicts`.
    """
    published = {old.submission.checksum for old in former if old.submission is not None}
    # The published ones first: of two that clash the second is at fault.
    there = sorted(
        (verdict.submission.checksum not in published, place)
        for place, verdict in enumerate(verdicts)
        if verdict.submission is not None
    )
    found: list[list[str]] = [[] for _ in verdicts]
    for (_, first), (_, second) in combinations(there, 2):
        found[second] += _clash(verdicts[second], verdicts[first])
    return found


def _clash(verdict: Verdict, other: Verdict) -> Iterator[str]:
    """Why a submission cannot stand beside another."""
    said, theirs = verdict.submission, other.submission
    assert said is not None
    assert theirs is not None
    if skeleton(said.method.name) != skeleton(theirs.method.name):
        return
    if _row(said) != _row(theirs):
        yield (
            f"$.method.name: got {_called(said)}, which can be taken for {_called(theirs)} of {named(other.path)}, "
            "expected a name of its own. Give the runs another label."
        )
    elif said.suite is not None and said.suite == theirs.suite:
        yield (
            f"$.suite: got {said.suite.name} version {said.suite.version} for {_called(said)}, as "
            f"{named(other.path)} has it, expected one submission of a method to a suite. Keep one of the two."
        )
    else:
        shared = _shared(verdict, other)
        if len(shared):
            yield (
                f"$.results: got {about(shared.row(0, named=True))}, which {named(other.path)} has too, expected each "
                "cell in one file. Keep one of the two."
            )


def _row(said: Submission) -> tuple[str, str, bool]:
    """What makes two submissions one method's: name, algorithm, and whether that is dgbench's."""
    return said.method.name, said.method.algorithm, said.method.source is None


def _called(said: Submission) -> str:
    own = said.method
    return f"{shown(own.name)} ({own.algorithm}{'' if own.source is None else ', not of dgbench'})"


def _shared(verdict: Verdict, other: Verdict) -> pl.DataFrame:
    """Cells of one that the other has: by their keys, or on datasets whose settings a page cannot tell apart."""
    if verdict.cells is None or other.cells is None:
        return pl.DataFrame()
    theirs = _settings(other)
    alike = [name for name, setting in _settings(verdict).items() if theirs.get(name) == setting]
    return pl.concat(
        [
            verdict.cells.join(other.cells, on=_VALUE, how="semi"),
            verdict.cells.filter(pl.col("dataset").is_in(alike)).join(other.cells, on=_PLACE, how="semi"),
        ]
    )


def _settings(verdict: Verdict) -> dict[str, Facts]:
    """By dataset, how models were made. Keys of cells are hashes of JSON, where 1, 1.0 and true differ; here not."""
    assert verdict.submission is not None
    entry = Entry(verdict.path.name, verdict.submission.method.name, verdict.submission)
    return {
        data.name: {name: value for name, value in facts(entry, data).items() if value is not None}
        for data in verdict.submission.datasets
    }


def changes(verdicts: Sequence[Verdict], former: Sequence[Verdict]) -> list[str]:
    """Published submissions that are not any more as they were, unless one of the same method supersedes them.

    Args:
        verdicts: of all files as they are.
        former: of the files as they were.

    Returns:
        Sentences that begin with a file.
    """
    now = [(verdict, verdict.submission) for verdict in verdicts if verdict.submission is not None]
    found = []
    for old in former:
        was = old.submission
        if was is None or old.cells is None:
            continue
        heirs = [(verdict, said) for verdict, said in now if said.supersedes == was.checksum]
        found += [
            f"{named(verdict.path)}: $.supersedes: got the checksum of {_called(was)} in {named(old.path)}, expected "
            f"that of a submission of {_called(said)}. Leave out --supersedes."
            for verdict, said in heirs
            if _row(said) != _row(was)
        ]
        stays = was.checksum in [said.checksum for _, said in now]
        if not stays and _row(was) not in [_row(said) for _, said in heirs]:
            found.append(
                f"{named(old.path)}: {_change(old, verdicts)}, expected a published submission to stay. Submit with "
                f"--supersedes {was.checksum}, or leave the file as it was."
            )
    return found


def _change(old: Verdict, verdicts: Sequence[Verdict]) -> str:
    """What became of a published submission: of its values the first that changed, else of its fields."""
    assert old.submission is not None
    assert old.cells is not None
    said = [v.cells.select(*_VALUE, now="value") for v in verdicts if v.cells is not None]
    cells = old.cells.with_columns(now=pl.lit(None, pl.Float64))
    if said:
        cells = old.cells.join(pl.concat(said).unique(_VALUE), on=_VALUE, how="left", maintain_order="left")
    gone = cells.filter(~pl.col("value").eq_missing(pl.col("now")))
    if len(gone):
        row = gone.row(0, named=True)
        became = "is gone" if row["now"] is None else f"became {shown(row['now'])}"
        more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
        return f"$.results: {shown(row['value'])} of {about(row)} {became}{more}"
    same = [v for v in verdicts if v.submission is not None and _row(v.submission) == _row(old.submission)]
    if not same:
        return "$: is gone"
    now = min(same, key=lambda verdict: verdict.path.name != old.path.name).submission
    assert now is not None
    return _difference("$", old.submission.model_dump(), now.model_dump())


def _difference(place: str, was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        name = next(name for name in {**was, **now} if name not in was or name not in now or was[name] != now[name])
        return _difference(below(place, name), was.get(name), now.get(name))
    return f"{place}: {shown(was)} became {shown(now)}"
