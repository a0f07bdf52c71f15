"""Names of users stand in tables letter by letter: brackets are no markup and colons no pictures."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import dgbench
from dgbench.leaderboard.compare import compare
from tests.fabricate import make_run, make_scores

NAMES = ("x [/b]", "erm [v2]", "mine [blue]", "at :warning:", r"so \[b]")
# As the import of DomainBed's sweeps takes them over.
DATASETS = ("[red]one", "two[/b]")
Show = Callable[[object], str]


def make(runs_dir: Path, *datasets: str) -> Path:
    """Methods of such names on datasets of such names, in three trials."""
    for dataset, trial, (number, label) in itertools.product(datasets, range(3), enumerate(("base", *NAMES))):
        line = (0, make_scores("a", 0.5 + 0.01 * number + 0.001 * trial * number))
        make_run(runs_dir, [line], designated_domains="a", dataset=dataset, label=label, trial_seed=trial)
    return runs_dir


def printed(thing: object) -> str:
    """On a console as anyone makes one."""
    file = io.StringIO()
    Console(file=file, width=140).print(thing)
    return file.getvalue()


def rows(said: str, name: str) -> list[str]:
    """The lines of a table whose method has that name."""
    return [line for line in said.splitlines() if re.match(rf"\s*\d* *{re.escape(name)}  ", line)]


@pytest.mark.parametrize("show", [str, printed])
def test_tables_have_names_as_they_are(tmp_path: Path, show: Show) -> None:
    said = show(dgbench.table(make(tmp_path, *DATASETS)))
    # One per dataset, and one of both.
    assert {name: len(rows(said, name)) for name in NAMES} == dict.fromkeys(NAMES, 3)
    *_, heading = [line.split() for line in said.splitlines() if "method" in line and "found" in line]
    assert heading == ["#", "method", *DATASETS, "Average", "found"]
    assert said.startswith("[red]one: accuracy")


@pytest.mark.parametrize("show", [str, printed])
def test_comparisons_have_names_as_they_are(tmp_path: Path, show: Show) -> None:
    said = show(compare(make(tmp_path, *DATASETS), "base"))
    assert {name: len(rows(said, name)) for name in NAMES} == dict.fromkeys(NAMES, 3)
    assert said.startswith("[red]one: accuracy")
