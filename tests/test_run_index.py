"""An index of runs changes no table: whatever happened to the runs, to it, or beside it."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import dgbench
from dgbench import record, run_index
from tests.edits import PAST, change
from tests.fabricate import add_lines, make_runs
from tests.naive_reading import read_naively, runs_naively


@pytest.fixture(autouse=True)
def _always_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "WORTHWHILE", 0)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A small sweep, dated as if it had ended long ago."""
    make_runs(tmp_path / "runs")
    for file in (tmp_path / "runs").glob("*/*.json*"):
        os.utime(file, (PAST, PAST))
    return tmp_path / "runs"


def files(sweep: Path) -> list[Path]:
    return sorted((sweep / ".index").iterdir()) if (sweep / ".index").is_dir() else []


def is_as_it_should(sweep: Path) -> bool:
    """Whether what is read now, and read again, is what a loop over the files finds."""
    expected = runs_naively(sweep), read_naively(sweep)
    for _ in range(2):
        assert_frame_equal(record.runs(sweep), expected[0], check_exact=True)
        assert_frame_equal(record.read(sweep), expected[1], check_exact=True)
    return True


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read anew."""
    found: list[str] = []
    content = run_index._content

    def told(path: str, size: int) -> bytes:
        found.append(path)
        return content(path, size)

    monkeypatch.setattr(run_index, "_content", told)
    return found


def test_the_second_reading_opens_no_file_of_a_run(sweep: Path, parsed: list[str]) -> None:
    assert is_as_it_should(sweep)
    assert [file.name for file in files(sweep)] == ["evaluations.jsonl.parquet", "run.json.parquet"]
    parsed.clear()
    said = str(dgbench.table(sweep))
    assert parsed == []
    shutil.rmtree(sweep / ".index")
    assert str(dgbench.table(sweep)) == said


def test_an_index_is_used_at_all(sweep: Path) -> None:
    """Rewritten with another number, and a checksum that fits, it would be believed."""
    record.read(sweep)
    (file, _) = files(sweep)
    index = pl.read_parquet(file.read_bytes()[run_index.DIGEST :])
    run_index._store(file, index.with_columns(step=pl.lit(7, pl.Int64)))
    assert set(record.read(sweep)["step"]) == {7}


@pytest.mark.parametrize("seed", range(6))
def test_random_edits_of_runs_are_seen(sweep: Path, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(12):
        change(rng, sweep, number + 1)
        assert is_as_it_should(sweep)


def test_what_is_wrong_with_an_index_is_passed_over(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_as_it_should(sweep)
    whole = {file: file.read_bytes() for file in files(sweep)}
    for damage in (
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[: len(data) // 2],
        lambda data: bytes(reversed(data)),
        *(lambda data, i=i: data[: len(data) * i // 8] + b"\x5a" + data[len(data) * i // 8 + 1 :] for i in range(8)),
    ):
        for file, data in whole.items():
            file.write_bytes(damage(data))
        assert is_as_it_should(sweep)
    monkeypatch.setattr(run_index, "VERSION", "another")
    assert is_as_it_should(sweep)
    assert all(file.read_bytes() != data for file, data in whole.items()), "made anew"
    for file in files(sweep):
        run_index._store(file, pl.DataFrame({"name": ["x"], "other": [1]}))
    assert is_as_it_should(sweep)
    for file in files(sweep):
        file.unlink()
        file.mkdir()
    assert is_as_it_should(sweep)


def test_where_nothing_can_be_written_runs_are_read_all_the_same(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep / ".index").write_text("in the way")
    assert is_as_it_should(sweep)
    (sweep / ".index").unlink()

    def refuse(*of: Any, **how: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert is_as_it_should(sweep)
    assert not files(sweep)


def test_the_status_of_a_run_that_is_not_finished_is_asked_each_time(sweep: Path) -> None:
    folder = record.find(sweep)[0]
    folder.write(status="running")
    os.utime(folder.run_file, (PAST, PAST))
    of = pl.col("path") == str(folder.path)
    assert record.runs(sweep).filter(of)["status"].item() == "interrupted"
    with folder.lock.held():
        assert record.runs(sweep).filter(of)["status"].item() == "running"
    assert record.runs(sweep).filter(of)["status"].item() == "interrupted"
    assert is_as_it_should(sweep)


def test_what_changed_a_moment_ago_is_not_kept(sweep: Path, parsed: list[str]) -> None:
    """A clock of two ticks per second shows no difference between a file and its next content of the same size."""
    folder = record.find(sweep)[0]
    now = time.time()
    os.utime(folder.lines_file, (now, now))
    record.read(sweep)
    folder.lines_file.write_text(folder.lines_file.read_text().replace("0.5", "0.4"))
    os.utime(folder.lines_file, (now, now))
    assert is_as_it_should(sweep)
    parsed.clear()
    record.read(sweep)
    assert parsed == [str(folder.lines_file)]


def test_a_part_of_a_sweep_leaves_the_rest_of_its_index(sweep: Path, parsed: list[str]) -> None:
    record.read(sweep)
    gone, changed, *_ = record.find(sweep)
    shutil.rmtree(gone.path)
    add_lines(changed, [(5, {"in/a": 0.5})])
    os.utime(changed.lines_file, (PAST, PAST))
    record.read(changed.path)
    index = pl.read_parquet(files(sweep)[0].read_bytes()[run_index.DIGEST :])
    assert set(index["name"]) == {path.name for path in sweep.iterdir()} - {".index"}
    parsed.clear()
    assert is_as_it_should(sweep)
    assert parsed == []


def test_little_to_read_leaves_nothing_behind(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "WORTHWHILE", 4 * 2**20)
    assert is_as_it_should(sweep)
    assert not files(sweep)


def read_often(sweep: Path, expected: int, failures: Any) -> None:
    run_index.WORTHWHILE = 0
    for _ in range(8):
        if len(record.read(sweep)) != expected:
            failures.put("another number of rows")
        shutil.rmtree(sweep / ".index", ignore_errors=True)


def test_many_may_read_at_once(sweep: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    failures = context.Queue()
    readers = [context.Process(target=read_often, args=(sweep, len(read_naively(sweep)), failures)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
        assert reader.exitcode == 0
    assert failures.empty()
    assert is_as_it_should(sweep)
    assert json.loads((record.find(sweep)[0]).run_file.read_text())["status"] == "complete"


def test_a_file_that_goes_while_it_is_read_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real = tmp_path / "grown", os.read

    def read(handle: int, size: int) -> bytes:
        file.unlink()
        return real(handle, size)

    file.write_text("more than was told")
    monkeypatch.setattr(os, "read", read)
    assert run_index._content(str(file), 5) == b""
