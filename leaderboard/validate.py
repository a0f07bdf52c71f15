"""Whether submissions are what they say: read as data only, bounded, and computed again from their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl
import pydantic

from . import checks, claims, evaluated, neighbours, submitted
from .bounded import MAX_PROBLEMS, Refused, below, named, parse, read_file, shown, unpack
from .entries import misnamed
from .recomputed import AGGREGATE_KEY, RESULT_KEY, follows
from .submission import Payload, Submission, Tables, checksum
from .wording import ANEW

SHOWN = 20
_OPTIONS = ("contact", "created", "supersedes", "paper", "code", "summary")
_REMEDIES = {"label": "Give the runs another label."}


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one file."""

    path: Path
    problems: tuple[str, ...] = ()
    """Sentences that begin with the place, as JSON path; none: it is valid."""
    submission: Submission | None = None
    """None: it could not be read."""
    runs: pl.DataFrame | None = None
    """As `dgbench.record.runs` gives them; None: the rows could not be read."""
    rows: pl.DataFrame | None = None
    """As `dgbench.record.read` gives them."""
    cells: pl.DataFrame | None = None
    """What each criterion chooses, as `submitted.results` gives it."""

    @property
    def line(self) -> str:
        """What is printed of a valid file."""
        assert self.submission is not None
        assert self.cells is not None
        claim = self.submission.suite
        suite = "no suite" if claim is None else f"suite {claim.name} {claim.version}"
        number = self.cells.select("dataset", "test_domain", "trial_seed", "data_seed").n_unique()
        return f"{named(self.path)}: valid ({self.submission.method.name}, {suite}, {number} cells)"


def validate(paths: Sequence[str | Path], former: Sequence[Verdict] = ()) -> list[Verdict]:
    """Check files, each by itself and beside the others.

    Args:
        paths: submissions.
        former: verdicts of those that are published; where two clash, the other is at fault.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    verdicts = [_verdict(Path(path)) for path in dict.fromkeys(paths)]
    shared = neighbours.problems(verdicts, former)
    return [replace(v, problems=(*v.problems, *more)) for v, more in zip(verdicts, shared, strict=True)]


def judge(paths: Sequence[Path], former: Sequence[Verdict] = ()) -> list[Verdict]:
    """Check files and folders of them, in which nothing else may be.

    Args:
        paths: submissions, or folders.
        former: as `validate` takes it.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    found = [file for path in paths for file in (sorted(path.iterdir()) if _is_folder(path) else [path])]
    wrong = {file: sentence for file in found if (sentence := _misfit(file))}
    verdicts = validate([file for file in found if file not in wrong], former)
    return [*verdicts, *(Verdict(file, (sentence,)) for file, sentence in wrong.items())]


def sentences(files: Sequence[Path], against: Path | None = None) -> tuple[list[str], list[str]]:
    """What is printed of submissions: of those that are valid, and of those that are not.

    Args:
        files: submissions, or folders of them.
        against: folder of the submissions as they were.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    former = [] if against is None else judge([against])
    verdicts = judge(files, former)
    refused = [f"{named(v.path)}: {problem}" for v in verdicts for problem in _some(v.problems)]
    refused += neighbours.changes(verdicts, former)
    return [v.line for v in verdicts if not v.problems], refused


def _is_folder(path: Path) -> bool:
    # A link could show another folder than the one that is published.
    return path.is_dir() and not path.is_symlink()


def _misfit(file: Path) -> str | None:
    """Why a file could not stand in a folder of submissions, whatever it holds."""
    if file.is_symlink():
        return "$: got a link, expected the file itself. Put a copy in its place."
    problem = misnamed(file) if file.exists() else None
    return problem and f"$: {problem} Rename it, or take it away if it is no submission."


def _some(problems: Sequence[str]) -> Iterator[str]:
    yield from problems[:SHOWN]
    if len(problems) > SHOWN:
        yield f"and {'at least ' * (len(problems) >= MAX_PROBLEMS)}{len(problems) - SHOWN} more."


def _verdict(path: Path) -> Verdict:
    try:
        said = parse(read_file(path))
        return examine(as_submission(said), said, path)
    except Refused as refused:
        return Verdict(path, tuple(str(refused).splitlines()))


def examine(submission: Submission, said: Mapping[str, Any], path: Path) -> Verdict:
    """What is to be said of one submission by itself.

    Args:
        submission: the submission.
        said: the JSON that it was made of.
        path: its file, for messages.
    """
    found = list(islice(_about(submission, said), MAX_PROBLEMS))
    try:
        tables = as_tables(submission.payload)
    except Refused as refused:
        return Verdict(path, (*found, *str(refused).splitlines()), submission)
    amiss = list(islice(checks.runs(submission, tables), MAX_PROBLEMS))
    if found or amiss:
        # Of runs that fit nothing, nothing can be computed.
        return Verdict(path, (*found, *amiss), submission)
    runs, rows = submitted.frames(submission, tables)
    results, cells = submitted.results(rows)
    more = chain(
        checks.clock(submission, tables),
        evaluated.rows(submission, runs, rows),
        claims.claim(submission, tables, runs, rows),
        follows("$.results", RESULT_KEY, said["results"], results),
        follows("$.aggregates", AGGREGATE_KEY, said["aggregates"], submitted.aggregates(runs, cells)),
    )
    return Verdict(path, tuple(islice(more, MAX_PROBLEMS)), submission, runs, rows, cells)


def _about(submission: Submission, said: Mapping[str, Any]) -> Iterator[str]:
    expected = checksum(said)
    if expected != submission.checksum:
        yield f"$.checksum: got {submission.checksum}, expected {expected}, the hash of the rest. {ANEW}"
    yield from checks.method(submission)
    yield from checks.data(submission)


def as_submission(said: Any) -> Submission:
    """A submission from parsed JSON.

    Raises:
        Refused: it does not have the form of one.
    """
    try:
        return Submission.model_validate(said)
    except pydantic.ValidationError as error:
        raise Refused("\n".join(_sentences(error, said, "$"))) from None


def as_tables(payload: Payload) -> Tables:
    """What a payload holds.

    Raises:
        Refused: it cannot be read, or does not have the form.
    """
    said = parse(unpack(payload.data, payload.size, "$.payload"), "$.payload")
    try:
        return Tables.model_validate(said)
    except pydantic.ValidationError as error:
        raise Refused("\n".join(_sentences(error, said, "$.payload"))) from None


def _sentences(error: pydantic.ValidationError, said: Any, root: str) -> Iterator[str]:
    for one in error.errors(include_url=False)[:MAX_PROBLEMS]:
        is_key, is_missing = one["loc"][-1:] == ("[key]",), one["type"] == "missing"
        steps = one["loc"][:-1] if is_key else one["loc"]
        place, value = root, said
        for step in steps:
            place = below(place, step)
            value = None if is_missing else value[step]
        last = str(steps[-1]) if steps else ""
        if is_missing:
            yield f"{place}: is missing, expected a value. {ANEW}"
        elif one["type"] == "extra_forbidden":
            yield f"{place}: got a field of that name, expected none. {ANEW}"
        else:
            got = f"the name {shown(last)}" if is_key else shown(value)
            remedy = f"Give another by --{last}." if last in _OPTIONS else _REMEDIES.get(last, ANEW)
            yield f"{place}: got {got}, expected {one['msg'].removeprefix('Input should be ')}. {remedy}"
