"""What a file must not do to its reader: bytes that are refused before anything is made of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench.leaderboard import bounded
from dgbench.leaderboard.bounded import MAX_FILE, MAX_NAMES, MAX_PROBLEMS, Refused, below, named, parse, shown
from dgbench.leaderboard.validate import sentences
from tests.leaderboard.submitted_runs import changed, inside, judge, put, refused


def swap(old: str, new: str) -> Callable[[str], str]:
    """A change of the text of a file, in one place."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


CONTACT = '"someone@example.org"'
TEXTS = {
    "NaN": (swap(CONTACT, "NaN"), "$.contact: got NaN, expected a finite number or null."),
    "infinity": (swap(CONTACT, "[-Infinity]"), "$.contact[0]: got -Infinity, expected a finite number or null."),
    "overflow": (swap(CONTACT, "1e999"), "$.contact: got 1e999, expected a finite number."),
    "gigabyte number": (
        swap(CONTACT, "9" * 5_000_000),
        "$.contact: got a number of 5000000 characters, expected at most 30.",
    ),
    "endless fraction": (
        swap(CONTACT, "0." + "1" * 99),
        "$.contact: got a number of 101 characters, expected at most 30.",
    ),
    "name twice": (
        swap('"contact"', '"contact": "x@y.org", "contact"'),
        "$.contact: got this name twice in one object,",
    ),
    "half a character": (
        swap("someone", "\\ud800"),
        "$.contact: got half of a character in '\\ud800@example.org', expected",
    ),
    "half in a name": (
        swap('"contact"', '"\\udfff": 1, "contact"'),
        "$: got half of a character in the name '\\udfff', expected",
    ),
    "deep nesting": (
        swap(CONTACT, "[" * 10_000 + "]" * 10_000),
        "$: got brackets deeper than 16 levels, expected fewer.",
    ),
    "unclosed": (swap(CONTACT, "[" * 1_000_000), "$: got brackets deeper than 16 levels, expected fewer."),
    "many lists": (
        swap(CONTACT, "[" + "[]," * 300_000 + "[]]"),
        "$: got more than 200000 lists and objects, expected fewer.",
    ),
    "many names": (
        swap(CONTACT, "{" + ",".join(f'"a{i}": 1' for i in range(MAX_NAMES + 1)) + "}"),
        "$: got an object of more than 1000 names, expected fewer.",
    ),
    "many NaN": (
        swap(CONTACT, "[" + "NaN," * 100_000 + "1]"),
        "$: got NaN, expected a finite number or null, and 100 other values that must not be there.",
    ),
    "many halves": (
        swap(CONTACT, "[" + '"\\ud800",' * 100_000 + "1]"),
        "$.contact[99]: got half of a character in '\\ud800', expected",
    ),
    "half a file": (lambda text: text[: len(text) // 2], "$: no JSON at line 1, column "),
    "two values": (lambda text: text + "{}", "$: no JSON at line 1, column "),
    "code": (lambda text: "__import__('os').system('x')", "$: no JSON at line 1, column 1 (Expecting value)."),
    "a list": (lambda text: f"[{text}]", "$: got a list of 1, expected a valid dictionary or instance of Submission."),
    "too large": (
        lambda text: text + " " * MAX_FILE,
        f"bytes, expected at most {MAX_FILE}. Submit fewer runs or datasets",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_one_change_of_the_text_of_a_valid_file_is_refused_with_its_place(case, small, tmp_path: Path):
    change, expected = TEXTS[case]
    text = json.dumps(small)
    assert judge(tmp_path, text).problems == ()
    began = time.perf_counter()
    problems = judge(tmp_path, change(text)).problems
    assert expected in "\n".join(problems)
    assert len(problems) <= MAX_PROBLEMS
    assert time.perf_counter() - began < 30


def test_other_encodings_are_refused(small, tmp_path: Path):
    text = json.dumps(small)
    assert judge(tmp_path, text.encode("utf-8")).problems == ()
    for encoded in (text.encode("utf-16"), text.replace("someone", "\xe9").encode("latin-1")):
        (said,) = judge(tmp_path, encoded).problems
        assert re.match(r"\$: byte \d+ is no UTF-8, expected UTF-8 text\.", said)
    (said,) = judge(tmp_path, text.encode("utf-8-sig")).problems
    assert said.startswith("$: no JSON at line 1, column 1")


def test_quotes_and_brackets_in_texts_are_no_brackets():
    said = {"a": '["' * 100, "b": "\\" * 7, "c": ['}"', "[" * 50]}
    assert parse(json.dumps(said).encode()) == said
    # Many escaped quotes behind an unclosed one: time that grows with the square would not end.
    with pytest.raises(Refused, match="no JSON"):
        parse(b'"' + b'\\"' * 2_000_000)


def test_places_and_values_are_safe_to_print():
    assert below(below("$", "a"), 3) == "$.a[3]"
    assert below("$", "<b>\n") == "$['<b>\\n']"
    assert shown("\x1b[31m" + "x" * 100) == "'\\x1b[31m" + "x" * 35 + "'... (105 characters)"
    assert list(map(shown, (None, True, 1.5, [1], {}))) == ["null", "true", "1.5", "a list of 1", "an object of 0"]


MANY = 100_000
RUNS = ("runs", "run_id")
PROBLEMS = {
    "wrong items": (inside(put(*RUNS, to=["x"] * MANY)), "$.payload.runs.run_id[0]: got 'x', expected 16 hex", 1),
    "wrong lists": (inside(put("runs", "test_domains", to=[["X"]] * MANY)), "runs.test_domains[0][0]: got 'X', exp", 1),
    "objects with nothing": (put("results", to=[{}] * MANY), "$.results[0].criterion: is missing, expected", 10),
    "unknown names": (put("results", to=[{f"x{i}": 1 for i in range(999)}]), "$.results[0].criterion: is missing", 100),
    "wrong aggregates": (put("aggregates", to=[1] * MANY), "$.aggregates[0]: got 1, expected", 1),
    "many hyper-parameters": (put("hparams", to=[{}] * 20_001), "$.hparams[0].algorithm: is missing, expected", 2),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_no_more_problems_are_collected_than_anyone_reads(case, small, tmp_path: Path):
    change, text, most = PROBLEMS[case]
    said = refused(tmp_path, small, change).splitlines()
    assert text in said[0]
    assert len(said) <= most


def test_of_problems_that_follow_from_the_rows_so_many_are_collected(submission, tmp_path: Path):
    assert len(submission["results"]) > MAX_PROBLEMS
    said = refused(tmp_path, submission, put("results", to=[]))
    assert len(said.splitlines()) == MAX_PROBLEMS
    file = tmp_path / "submission.json"
    assert sentences([file])[1][-1] == f"{file}: and at least {MAX_PROBLEMS - 20} more."


def test_a_path_is_safe_to_print():
    assert named(Path("a b/\xe9.json")) == "a b/\xe9.json"
    assert named(Path("a\n::error::\x1b[2J\u202e.json")) == "a\\n::error::\\x1b[2J\\u202e.json"


def test_only_so_much_of_a_file_is_read(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(bounded, "MAX_FILE", 10)
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(Refused, match="got 11 bytes, expected at most 10"):
        bounded.read_file(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert bounded.read_file(tmp_path / "a") == b"x" * 10


def test_a_checksum_does_not_depend_on_how_a_file_is_written(small, tmp_path: Path):
    assert judge(tmp_path, json.dumps(small, indent=3, sort_keys=True)).problems == ()
    assert changed(small, lambda said: None) == small
