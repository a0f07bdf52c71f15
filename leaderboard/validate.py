"""Whether submissions are what they say: read as data only, bounded, and computed again from their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pydantic

from . import checks, claims, neighbours, submitted
from .bounded import Refused, below, parse, read_file, shown, unpack
from .recomputed import AGGREGATE_KEY, RESULT_KEY, follows
from .submission import Payload, Submission, Tables, checksum

ANEW = "Write the file anew with `dgbench submit`."
SHOWN = 20
_OPTIONS = ("contact", "created", "supersedes", "paper", "code", "summary")


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
        return f"{self.path}: valid ({self.submission.method.name}, {suite}, {number} cells)"


def validate(paths: Sequence[str | Path]) -> list[Verdict]:
    """Check files, each by itself and beside the others.

    Args:
        paths: submissions.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    verdicts = [_verdict(Path(path)) for path in dict.fromkeys(paths)]
    shared = neighbours.problems(verdicts)
    return [replace(v, problems=(*v.problems, *more)) for v, more in zip(verdicts, shared, strict=True)]


def sentences(files: Sequence[Path], against: Path | None = None) -> tuple[list[str], list[str]]:
    """What is printed of submissions: of those that are valid, and of those that are not.

    Args:
        files: submissions, or folders of them.
        against: folder of the submissions as they were.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    verdicts = validate(files_of(files))
    former = [] if against is None else validate(files_of([against]))
    refused = [f"{v.path}: {problem}" for v in verdicts for problem in _some(v.problems)]
    refused += neighbours.changes(verdicts, former)
    return [v.line for v in verdicts if not v.problems], refused


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the `.json` files in them, sorted."""
    return [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]


def _some(problems: Sequence[str]) -> Iterator[str]:
    yield from problems[:SHOWN]
    if len(problems) > SHOWN:
        yield f"and {len(problems) - SHOWN} more."


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
    found = (
        []
        if checksum(said) == submission.checksum
        else [f"$.checksum: got {submission.checksum}, expected {checksum(said)}, the hash of the rest. {ANEW}"]
    )
    found += [*checks.method(submission), *checks.data(submission)]
    try:
        tables = as_tables(submission.payload)
    except Refused as refused:
        return Verdict(path, (*found, *str(refused).splitlines()), submission)
    amiss = list(checks.runs(submission, tables))
    if found or amiss:
        # Of runs that fit nothing, nothing can be computed.
        return Verdict(path, (*found, *amiss), submission)
    runs, rows = submitted.frames(submission, tables)
    results, cells = submitted.results(rows)
    found += checks.clock(submission, tables)
    found += checks.rows(submission, runs, rows)
    found += follows("$.results", RESULT_KEY, said["results"], results)
    found += follows("$.aggregates", AGGREGATE_KEY, said["aggregates"], submitted.aggregates(runs, cells))
    found += claims.claim(submission, tables, runs, cells)
    return Verdict(path, tuple(found), submission, runs, rows, cells)


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
    for one in error.errors(include_url=False):
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
            remedy = f"Give another by --{last}." if last in _OPTIONS else ANEW
            yield f"{place}: got {got}, expected {one['msg'].removeprefix('Input should be ')}. {remedy}"
