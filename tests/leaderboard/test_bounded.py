"""What a file must not do to its reader: bytes that are refused before anything is made of them."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from dgbench.leaderboard import bounded
from dgbench.leaderboard.bounded import MAX_FILE, MAX_PAYLOAD, Refused, below, pack, parse, shown, unpack
from tests.leaderboard.submitted_runs import changed, judge, put, refused


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
    assert expected in "\n".join(judge(tmp_path, change(text)).problems)
    assert time.perf_counter() - began < 30


def test_other_encodings_are_refused(small, tmp_path: Path):
    text = json.dumps(small)
    assert judge(tmp_path, text.encode("utf-8")).problems == ()
    for encoded in (text.encode("utf-16"), text.replace("someone", "\xe9").encode("latin-1")):
        (said,) = judge(tmp_path, encoded).problems
        assert re.match(r"\$: byte \d+ is no UTF-8, expected UTF-8 text\.", said)
    (said,) = judge(tmp_path, text.encode("utf-8-sig")).problems
    assert said.startswith("$: no JSON at line 1, column 1")


def squeeze(content: bytes) -> str:
    return base64.b64encode(zstandard.ZstdCompressor(level=1).compress(content)).decode()


DATA = ("payload", "data")
PAYLOADS = {
    "declared too large": (
        put("payload", "size", to=MAX_PAYLOAD + 1),
        f"$.payload.size: got {MAX_PAYLOAD + 1} bytes, expe",
    ),
    "declared too small": (
        put("payload", "size", to=10),
        "$.payload.data: decompresses to more than 10 bytes, expected the 10",
    ),
    "declared larger": (put("payload", "size", to=10**6), "bytes, expected the 1000000 that size says."),
    "bomb": (put(*DATA, to=squeeze(bytes(500_000_000))), "$.payload.data: decompresses to more than "),
    "no base64": (put(*DATA, to="abc"), "$.payload.data: no base64 (Incorrect padding)."),
    "no zstd": (put(*DATA, to="aGVsbG8gd29ybGQ="), "$.payload.data: cannot be decompressed ("),
    "pickle": (
        put(*DATA, to=base64.b64encode(b"\x80\x04cos\nsystem\n.").decode()),
        "$.payload.data: cannot be decompressed (",
    ),
    "other encoding": (
        put("payload", "encoding", to="pickle"),
        "$.payload.encoding: got 'pickle', expected 'base64(zstd(json))'",
    ),
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_one_change_of_the_payload_of_a_valid_file_is_refused_with_its_place(case, small, tmp_path: Path):
    change, text = PAYLOADS[case]
    assert text in refused(tmp_path, small, change)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[NaN]", "$.payload[0]: got NaN, expected a finite number or null."),
        (b"[" * 50 + b"]" * 50, "$.payload: got brackets deeper than 16 levels, expected fewer."),
        (b"\xff", "$.payload: byte 0 is no UTF-8, expected UTF-8 text."),
        (b'{"runs": {}}', "$.payload.evaluations: is missing, expected a value."),
    ],
)
def test_what_is_packed_is_as_bounded_as_the_file(content, text, small, tmp_path: Path):
    def change(said):
        said["payload"]["size"], said["payload"]["data"] = len(content), squeeze(content)

    assert text in refused(tmp_path, small, change)


def test_a_bomb_takes_no_more_memory_than_it_declares():
    bomb = squeeze(bytes(500_000_000))
    tracemalloc.start()
    with pytest.raises(Refused, match="decompresses to more than 1000000 bytes"):
        unpack(bomb, 1_000_000, "$.payload")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_frame_with_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=3)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = writer.compress(os.urandom(1000)) + writer.flush()
    with pytest.raises(Refused, match=r"\$\.payload\.data: cannot be decompressed"):
        unpack(base64.b64encode(packed).decode(), 1000, "$.payload")


def test_packing_is_undone_and_the_same_bytes_each_time():
    said = {"runs": [1, 2.5, None, "\xe9"]}
    size, text = pack(said)
    assert (size, text) == pack(said)
    assert parse(unpack(text, size, "$")) == said
    two_frames = base64.b64encode(base64.b64decode(text) * 2).decode()
    with pytest.raises(Refused, match=f"decompresses to more than {size} bytes"):
        unpack(two_frames, size, "$")


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
