"""Texts and numbers as a submission may hold them: bounded, and plain where a page or a path is made of them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _text(pattern: str, most: int, expected: str) -> AfterValidator:
    """Text of which all matches `pattern`."""

    def check(value: str) -> str:
        if len(value) > most or not re.fullmatch(pattern, value):
            raise PydanticCustomError("expected", "{expected}", {"expected": f"{expected}, at most {most} characters"})
        return value

    return AfterValidator(check)


def _that(is_so: Callable[[Any], bool], expected: str) -> AfterValidator:
    """What holds of a value beyond its type."""

    def check(value: Any) -> Any:
        if not is_so(value):
            raise PydanticCustomError("expected", "{expected}", {"expected": expected})
        return value

    return AfterValidator(check)


_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9+()]|[ _.:-](?=[A-Za-z0-9+()]))*"
# A label must not look as if the table had added something to a name ("erm + swad", "erm (tuned)"), nor as a link.
_LABEL = r"(?!.*(?i:www)\.)[A-Za-z0-9](?:[A-Za-z0-9]|\+(?! )|[ _.:-](?=[A-Za-z0-9]))*"
_FACT = r"[A-Za-z0-9 ._+:/()@,-]*"
_LEVEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST = rf"{_LEVEL}(?:\.{_LEVEL})*"
_DOMAIN = rf"{_LEVEL}(?:\.{_LEVEL})+"
_PORT = r"(?::[0-9]{1,5})?"
# Nothing is seen of these, though Python calls them printable: fillers, joiners, selectors, the empty Braille cell.
_UNSEEN = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
MAX_MARKS = 3
MAX_ITEMS = 32
MAX_NAMES = 200


def is_seen(text: str) -> bool:
    """Whether every character of a text shows, and no pile of accents reaches into other lines."""
    marks = "".join("m" if unicodedata.category(character) in ("Mn", "Me") else " " for character in text)
    return not _UNSEEN.search(text) and "m" * (MAX_MARKS + 1) not in marks


def is_plain(value: Any) -> bool:
    """Whether a value is true, false, null, a finite number or short text in plain ASCII."""
    if isinstance(value, str):
        return len(value) <= 120 and re.fullmatch(_FACT, value) is not None
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


# Names are plain ASCII, so that no letter of another alphabet can pass for one; marks that build paths, markup or
# formulas are left out.
Name = Annotated[
    str,
    _text(
        _NAME,
        60,
        "letters a-z and A-Z and digits, with '+', '(', ')' and single ' ', '_', '.', ':', '-' between them",
    ),
]
Label = Annotated[
    str,
    _text(
        f"({_LABEL})?",
        60,
        "a name of letters a-z and A-Z, digits, '+' and single ' ', '_', '.', ':', '-' between them, without 'www.' "
        "and without a space beside '+', or nothing",
    ),
]
Identifier = Annotated[str, _text(r"[a-z][a-z0-9_]*", 60, "a name of a-z, 0-9 and _")]
Column = Annotated[str, _text(r"Average|[a-z][a-z0-9_]*", 60, "a test domain, or Average")]
Choice = Annotated[str, _text(r"[a-z0-9_.:+-]+", 60, "a name of a-z, 0-9 and _.:+-")]
Contact = Annotated[
    str,
    _text(
        rf"[A-Za-z0-9._+'-]+@{_DOMAIN}|https://{_HOST}{_PORT}(/[A-Za-z0-9._~/@-]*)?",
        120,
        "an e-mail address or an https address",
    ),
]
Link = Annotated[
    str,
    _text(
        rf"https://{_DOMAIN}{_PORT}(/[A-Za-z0-9._~/?=&%#+:,;()@-]*)?",
        300,
        "an https address in plain ASCII",
    ),
]
Sentence = Annotated[
    str,
    _that(
        lambda text: len(text) <= 300 and text.isprintable() and not set(text) & set("<>"),
        "one line of at most 300 printable characters without < and >",
    ),
    _that(is_seen, f"characters that can be seen, with at most {MAX_MARKS} accents on each"),
]
Fact = Annotated[str, _text(_FACT, 120, "letters a-z and A-Z, digits, spaces and ._+:/()@,-")]
Hash = Annotated[str, _text(r"[0-9a-f]{16}", 16, "16 hexadecimal digits")]
Sha256 = Annotated[str, _text(r"[0-9a-f]{64}", 64, "64 hexadecimal digits")]
Moment = Annotated[
    str,
    _text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", 20, "a time in UTC such as 2026-01-31T12:00:00Z"),
]
DataSeed = Annotated[str, _text(r"-1|0|[1-9][0-9]{0,15}", 16, "a data_seed, or -1")]
Base64 = Annotated[str, _text(r"[A-Za-z0-9+/]+={0,2}", 8_000_000, "base64")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seed = Annotated[int, Field(ge=-1, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = Annotated[Any, _that(is_plain, "true, false, null, a number or short plain text")]
Setting = Annotated[
    Any,
    _that(
        lambda value: (
            is_plain(value) or (isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(is_plain, value)))
        ),
        f"true, false, null, a number, short plain text or a list of at most {MAX_ITEMS} such",
    ),
]
_FEW = _that(lambda value: len(value) <= MAX_NAMES, f"at most {MAX_NAMES} names")
Scalars = Annotated[dict[Choice, Scalar], _FEW]
Settings = Annotated[dict[Identifier, Setting], _FEW]
Versions = Annotated[dict[Fact, Fact], _FEW]
T = TypeVar("T")
# Of a list of millions of wrong items the first says enough.
Many = Annotated[list[T], Field(fail_fast=True)]
