"""Runs in a folder that cannot be written are read like any others: no index is made there, and none made anew."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgbench import record, run_index
from tests.edits import PAST
from tests.fabricate import add_lines, make_run, make_runs
from tests.naive_reading import read_naively, runs_naively


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep that is worth an index, with a run that was interrupted, dated as if it had ended long ago."""
    monkeypatch.setattr(run_index, "WORTHWHILE", 0)
    make_runs(tmp_path / "runs")
    make_run(tmp_path / "runs", status="running", num_steps=9, algorithm="irm", domains=("a", "b", "c_long_name"))
    for file in (tmp_path / "runs").glob("*/*.json*"):
        os.utime(file, (PAST, PAST))
    return tmp_path / "runs"


def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer as a read-only file system does, to whoever runs the tests; returns what was asked for."""
    asked: list[str] = []

    def refuse(path: Any, *of: Any, **how: Any) -> None:
        asked.append(str(path))
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("dgbench.writing.open", refuse, raising=False)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    return asked


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("has_index", [False, True])
def test_a_read_only_sweep_gives_its_rows(sweep: Path, has_index: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_index:
        # It is of another day: the runs have more evaluations by now.
        record.read(sweep)
        for folder in record.find(sweep):
            add_lines(folder, [(5, {"in/a": 0.25})])
            os.utime(folder.lines_file, (PAST, PAST))
    before = content(sweep)
    asked = refuse_to_write(monkeypatch)
    assert record.runs(sweep).equals(runs_naively(sweep))
    assert record.read(sweep).equals(read_naively(sweep))
    assert any(run_index.FOLDER in path for path in asked), "an index was tried"
    assert content(sweep) == before


def test_commands_read_it_too(
    sweep: Path, command: Callable[..., tuple[Any, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (("status", sweep), ("table", sweep, "--explain"), ("compare", sweep, "--baseline", "erm"))
    refuse_to_write(monkeypatch)
    refused = [command(*arguments) for arguments in asked]
    assert not (sweep / run_index.FOLDER).exists()
    monkeypatch.undo()
    monkeypatch.setattr(run_index, "WORTHWHILE", 0)
    assert refused == [command(*arguments) for arguments in asked]
    assert [code for code, *_ in refused] == [0, 0, 0]
    assert (sweep / run_index.FOLDER).is_dir()
