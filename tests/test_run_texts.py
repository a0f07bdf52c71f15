"""The text of runs, read at once by polars where it is what dgbench writes, and line by line where it is not."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal

from dgbench import record, run_texts
from dgbench.record import RunFolder
from tests.fabricate import add_lines, make_run, make_runs, make_scores
from tests.naive_reading import read_naively, runs_naively


def is_read_exactly(*runs_dirs: Path) -> bool:
    assert_frame_equal(record.runs(runs_dirs), runs_naively(*runs_dirs), check_exact=True)
    assert_frame_equal(record.read(runs_dirs), read_naively(*runs_dirs), check_exact=True)
    return True


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read line by line."""
    found: list[str] = []
    for name in ("_lines_exactly", "_said_exactly"):
        exactly = getattr(run_texts, name)

        def told(*of: Any, exactly: Any = exactly) -> Any:
            found.append(next(one for one in of if isinstance(one, str)))
            return exactly(*of)

        monkeypatch.setattr(run_texts, name, told)
    return found


def test_what_dgbench_writes_is_read_at_once(tmp_path: Path, slowly: list[str]) -> None:
    make_runs(tmp_path)
    add_lines(record.find(tmp_path)[0], [(5, make_scores("a", float("nan"), domains=("a", "b", "c_long_name")))])
    assert is_read_exactly(tmp_path)
    assert slowly == []


def test_every_double_is_read_to_the_bit(tmp_path: Path, slowly: list[str]) -> None:
    rng = random.Random(0)
    drawn = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(6000)]
    edges = [0.1, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3, 123456789012345678]
    values = edges + [value for value in drawn if abs(value) < float("inf")]
    make_run(tmp_path, [(step, {"in/a": value}) for step, value in enumerate(values)])
    assert is_read_exactly(tmp_path)
    assert slowly == []


@pytest.mark.parametrize(
    "odd",
    [
        '{"step": 9, "weights": "last", "values": {"in/a/accuracy": 0.5}, "n": {"in/a": 3}}',
        '{"step": 9, "weights": "last", "values": {"in/a/accuracy": 1, "in/a/nll": 2, "in/a/e": 3}, "n": {"in/a": 3}}',
        '{"step": 9, "weights": "last", "values": {"in/a/accuracy": 1, "in/a/ece": 3}, "n": {"in/a": 3}}',
        '{"step": 9, "weights": "null", "values": {"in/a/nll": 1, "in/a/accuracy": 3}, "n": {"in/a": 3}}',
        '{"step":9,"weights":"last","values":{"in/a/accuracy":1,"in/a/nll":null},"n":{"in/a":3}}',
        '{"n": {"in/a": 3}, "extra": {"x": [1]}, "values": {"in/a/nll": null}, "step": 9, "weights": "last"}',
        '{"step": 9, "weights": "last", "values": {}, "n": {}}',
    ],
)
def test_lines_that_differ_from_the_first_are_read_as_they_are(tmp_path: Path, odd: str) -> None:
    make_run(tmp_path, [(0, {"in/a": 0.5}), (1, {"in/a": float("nan")})])
    make_run(tmp_path, [(0, {"in/a": 0.25})], label="other")
    for folder in record.find(tmp_path):
        for text in (folder.lines_file.read_text() + odd + "\n", odd + "\n" + folder.lines_file.read_text()):
            folder.lines_file.write_text(text)
            assert is_read_exactly(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "{", "[]", "null", '{"step": 1}'),
        '{"step": 1, "weights": "last", "values": {"in/a": 1}, "n": {"in/a": 1}}',
        '{"step": 1, "weights": "last", "values": {"in/a/nll": 1}, "n": {}}',
    ],
)
def test_a_line_that_is_no_evaluation_is_named(tmp_path: Path, wrong: str) -> None:
    run_id = make_run(tmp_path, [(0, {"in/a": 0.5})])
    file = tmp_path / run_id / "evaluations.jsonl"
    file.write_text(file.read_text() + wrong + "\n")
    with pytest.raises(ValueError, match=rf"{run_id}/evaluations.jsonl, line 2, is no evaluation. Delete that run's"):
        record.read(tmp_path)


def test_a_run_that_is_no_run_is_named(tmp_path: Path) -> None:
    run_id = make_run(make_runs(tmp_path))
    folder = RunFolder(tmp_path / run_id)
    said = folder.read() or {}
    for text in ("", "{", "[]", "{}"):
        folder.run_file.write_text(text)
        with pytest.raises(ValueError, match=rf"{run_id}/run.json is no record of a run. Delete that folder, or name"):
            record.runs(tmp_path)
    folder.begin(**{**said, "schema": 1, "columns": {}})
    with pytest.raises(ValueError, match=rf"{run_id}/run.json has schema 1, expected 2: another version of dgbench"):
        record.runs(tmp_path)
    del said["columns"]["network"]
    folder.begin(**said)
    with pytest.raises(ValueError, match=rf"{run_id}/run.json lacks network among its columns. Make that run again"):
        record.runs(tmp_path)


def test_older_runs_lack_rules_that_came_later(tmp_path: Path) -> None:
    make_runs(tmp_path)
    make_run(tmp_path, [(0, {"in/a": 0.5})], literal=True)
    assert sorted(record.runs(tmp_path)["literal"])[-2:] == [False, True]
    assert is_read_exactly(tmp_path)


def test_adaptations_are_no_runs_but_are_there(tmp_path: Path) -> None:
    run_id = make_run(make_runs(tmp_path))
    RunFolder(tmp_path / run_id).begin(kind="adapt", run_id=run_id, schema=7, status="complete", columns={"stream": 1})
    assert record.kinds(tmp_path) == {"adapt", "train"}
    assert len(record.runs(tmp_path)) == 18
    assert record.kinds(tmp_path / run_id) == {"adapt"}
    assert record.runs(tmp_path / run_id).is_empty()


def test_strings_are_read_as_json_says_them(tmp_path: Path, slowly: list[str]) -> None:
    run_id = make_run(tmp_path, [(0, {"in/é_\u4e2d": 0.5})], label='two\nlines "quoted" \\ é')
    RunFolder(tmp_path / run_id).write(reason="Error:\r\n\ttab \u2028")
    assert is_read_exactly(tmp_path)
    assert json.loads((tmp_path / run_id / "run.json").read_text())["reason"] == record.runs(tmp_path)["reason"].item()
    assert slowly == []


def test_copies_of_a_run_count_once_by_a_finished_one(tmp_path: Path) -> None:
    for name, status in (("one", "failed"), ("two", "complete"), ("three", "complete")):
        make_run(tmp_path / name, [(0, {"in/a": 0.5})], status=status)
        make_run(tmp_path / name, status=status, label="also")
    assert is_read_exactly(tmp_path / "one", tmp_path / "two", tmp_path / "three")
    assert is_read_exactly(tmp_path / "three", tmp_path / "one")
