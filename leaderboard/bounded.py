"""Reading what a stranger sent: JSON and compressed JSON, bounded in size and depth before anything looks at it."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard

MAX_FILE = 10_000_000
MAX_PAYLOAD = 40_000_000
MAX_DEPTH = 16
# An empty list takes two bytes of a file, and 56 in memory.
MAX_CONTAINERS = 200_000
# Of an object with wrong names each would be a problem of its own.
MAX_NAMES = 1000
# More problems are not collected.
MAX_PROBLEMS = 100
# The longest number that a float64 or an int64 needs has 24 characters.
MAX_DIGITS = 30
# A decompressor keeps a window of what it wrote; its size is the sender's choice.
MAX_WINDOW = 8 * 2**20
# Compressed bytes that are read at once: a block takes at least 4, and gives at most 2**17.
_PIECE = 64

# A text with the colon that makes it a name, or a bracket.
_MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+"?(?:\s*+:)?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Refused(ValueError):
    """What was sent cannot be read; the text says where, what was got and what to do."""


@dataclass
class _Bad:
    """Stands in parsed JSON where something is that must not be there."""

    sentence: str


class _TooMany(Exception):
    """What must not be there is not worth to be collected any more."""


def read_file(path: Path) -> bytes:
    """A file of at most `MAX_FILE` bytes.

    Raises:
        FileNotFoundError: it is not there.
        Refused: it is no file, or larger.
    """
    if not path.exists():
        raise FileNotFoundError(f"{named(path)} is not there. Name a submission that `dgbench submit` wrote.")
    if not path.is_file():
        raise Refused("$: got no regular file, expected a submission. Name one that `dgbench submit` wrote.")
    with path.open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise Refused(
            f"$: got {path.stat().st_size} bytes, expected at most {MAX_FILE}. Submit fewer runs or datasets at once."
        )
    return content


def parse(content: bytes, root: str = "$") -> Any:
    """JSON without what its readers disagree on: every name once, finite numbers, whole characters, little depth.

    Args:
        content: UTF-8.
        root: what the place of its outermost value is called.

    Raises:
        Refused: one sentence per line for each thing that must not be there.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{root}: byte {error.start} is no UTF-8, expected UTF-8 text. Write the file anew.") from None
    _refuse_many(text, root)
    found: list[_Bad] = []
    try:
        said = json.loads(
            text,
            parse_constant=lambda name: _note(found, f"got {name}, expected a finite number or null"),
            parse_int=lambda digits: _integer(found, digits),
            parse_float=lambda digits: _number(found, digits),
            object_pairs_hook=lambda pairs: _object(found, pairs),
        )
    except json.JSONDecodeError as error:
        raise Refused(
            f"{root}: no JSON at line {error.lineno}, column {error.colno} ({error.msg}). Write the file anew."
        ) from None
    except _TooMany:
        raise Refused(
            f"{root}: {found[0].sentence}, and {MAX_PROBLEMS} other values that must not be there. Write the file anew."
        ) from None
    has_surrogates = re.search(r"\\u[dD][89a-fA-F]", text) is not None
    if found or has_surrogates:
        some = islice(_bad(said, root), MAX_PROBLEMS)
        problems = [f"{place}: {sentence}. Write the file anew." for place, sentence in some]
        if problems:
            raise Refused("\n".join(problems))
    return said


def _refuse_many(text: str, root: str) -> None:
    count = 0
    names = [0]  # of each object that is open
    for mark in _MARKS.finditer(text):
        first = mark[0][0]
        if first == '"':
            names[-1] += mark[0][-1] == ":"
        elif first in "[{":
            names.append(0)
            count += 1
        elif len(names) > 1:
            names.pop()
        if names[-1] > MAX_NAMES:
            raise Refused(f"{root}: got an object of more than {MAX_NAMES} names, expected fewer. Write the file anew.")
        if len(names) - 1 > MAX_DEPTH:
            raise Refused(f"{root}: got brackets deeper than {MAX_DEPTH} levels, expected fewer. Write the file anew.")
        if count > MAX_CONTAINERS:
            raise Refused(
                f"{root}: got more than {MAX_CONTAINERS} lists and objects, expected fewer. Submit fewer runs at once."
            )


def _note(found: list[_Bad], sentence: str) -> _Bad:
    if len(found) > MAX_PROBLEMS:
        raise _TooMany
    found.append(_Bad(sentence))
    return found[-1]


def _integer(found: list[_Bad], digits: str) -> Any:
    # More digits are slow to convert: the time grows with the square of their number.
    if len(digits) > MAX_DIGITS:
        return _note(found, f"got a number of {len(digits)} characters, expected at most {MAX_DIGITS}")
    return int(digits)


def _number(found: list[_Bad], digits: str) -> Any:
    if len(digits) > MAX_DIGITS:
        return _note(found, f"got a number of {len(digits)} characters, expected at most {MAX_DIGITS}")
    value = float(digits)
    if value == 0 and digits.startswith("-"):
        return _note(found, f"got {digits}, expected 0.0, which is the same number")
    return value if math.isfinite(value) else _note(found, f"got {digits}, expected a finite number")


def _object(found: list[_Bad], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                made[name] = _note(found, "got this name twice in one object, expected it once")
            seen.add(name)
    return made


def _bad(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Bad):
        yield place, value.sentence
    elif isinstance(value, str) and _SURROGATE.search(value):
        yield place, f"got half of a character in {shown(value)}, expected whole characters"
    elif isinstance(value, dict):
        for name, item in value.items():
            if _SURROGATE.search(name):
                yield place, f"got half of a character in the name {shown(name)}, expected whole characters"
            yield from _bad(item, below(place, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _bad(item, below(place, index))


def below(place: str, step: str | int) -> str:
    """The place of an item of what is at `place`, as JSON path."""
    if isinstance(step, int):
        return f"{place}[{step}]"
    return f"{place}.{step}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,59}", step) else f"{place}[{shown(step)}]"


def named(path: Path) -> str:
    """A path as it is safe to print: without characters that start a line or steer a terminal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def shown(value: Any) -> str:
    """A value as it is safe to print: short, ASCII only, on one line."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:40]!a}... ({len(value)} characters)"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else ascii(value)


def pack(said: Any) -> tuple[int, str]:
    """JSON, compressed by zstd, in base64: the size of the JSON in bytes, and the text."""
    raw = json.dumps(said, separators=(",", ":"), allow_nan=False).encode("ascii")
    return len(raw), base64.b64encode(zstandard.ZstdCompressor(level=19).compress(raw)).decode("ascii")


def unpack(text: str, size: int, place: str) -> bytes:
    """What `pack` packed, never holding more than `size` bytes of it.

    Args:
        text: base64.
        size: how many bytes it says that it is.
        place: its own, for messages.

    Raises:
        Refused: it is no such text, or of another size.
    """
    if size > MAX_PAYLOAD:
        raise Refused(f"{place}.size: got {size} bytes, expected at most {MAX_PAYLOAD}. Submit fewer runs at once.")
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Refused(f"{place}.data: no base64 ({error}). Write the file anew.") from None
    content, reader = bytearray(), zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    read = 0
    try:
        while read < len(packed) and len(content) <= size and not reader.eof:
            content += reader.decompress(packed[read : read + _PIECE])
            read += _PIECE
    except (zstandard.ZstdError, MemoryError) as error:
        raise Refused(f"{place}.data: cannot be decompressed ({error}). Write the file anew.") from None
    if reader.unused_data or (reader.eof and read < len(packed)):
        raise Refused(f"{place}.data: got bytes behind the first zstd frame, expected one frame. Write the file anew.")
    if len(content) <= size and not reader.eof:
        raise Refused(f"{place}.data: cannot be decompressed (it breaks off). Write the file anew.")
    if len(content) != size:
        more = "more than" if len(content) > size else "only"
        got = min(len(content), size)
        raise Refused(
            f"{place}.data: decompresses to {more} {got} bytes, expected the {size} that size says. "
            "Write the file anew."
        )
    return bytes(content)
