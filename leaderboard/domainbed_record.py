"""A record of DomainBed, which is a line of its `results.jsonl`: read, and held to what the import needs of it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

SPLITS = ("in", "out")
# DomainBed's arguments and hyper-parameters have no more than a list in them.
LEVELS = 8
# Of 64 bits, as tables hold whole numbers.
_LARGEST = 2**63
_TOO_DEEP = f"it is nested too deeply, expected at most {LEVELS} levels"


class Broken(Exception):
    """A line that is whole and no record of DomainBed; the text says why."""


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, None if the line was cut short.

    Raises:
        Broken: it is no record of DomainBed.
    """
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        # Where a job was killed; in the middle of a file, if it was started again.
        return None
    except RecursionError as error:
        raise Broken(_TOO_DEEP) from error
    except ValueError as error:
        raise Broken("it has a number of thousands of digits") from error
    for name, value, is_right, expected in _claims(record):
        if not is_right:
            raise Broken(f"{name} is {reprlib.repr(value)}, expected {expected}")
    if not _is_shallow([record["args"], record.get("hparams", {})]):
        raise Broken(_TOO_DEEP)
    return record


def num_domains(record: Mapping[str, Any]) -> int:
    """How many environments a record was evaluated on."""
    number = 0
    while f"env{number}_out_acc" in record:
        number += 1
    return number


def is_number(value: Any) -> TypeGuard[float]:
    """Whether JSON's value is a number that a float holds; NaN and the infinities are."""
    return isinstance(value, float) or _is_whole(value)


def _claims(record: Any) -> Iterator[tuple[str, Any, bool, str]]:
    """What has to hold of a record, in an order in which each may take the earlier ones for granted.

    Yields: name, value, whether it is as it should be, what was expected.
    """
    args: Any = record.get("args") if isinstance(record, dict) else None
    yield "args", args, isinstance(args, dict), "a mapping"
    for name in ("dataset", "algorithm"):
        yield f"args.{name}", args.get(name), isinstance(args.get(name), str), "a name"
    for name in ("hparams_seed", "trial_seed"):
        yield f"args.{name}", args.get(name), _is_whole(args.get(name)), "a whole number"
    steps, hparams = args.get("steps"), record.get("hparams", {})
    yield "args.steps", steps, steps is None or _is_whole(steps), "a whole number or null"
    yield "hparams", hparams, isinstance(hparams, dict), "a mapping"
    yield "step", record.get("step"), _is_whole(record.get("step")), "a whole number"
    number, tested = num_domains(record), args.get("test_envs")
    scores = [f"env{i}_{split}_acc" for i in range(max(1, number)) for split in SPLITS]
    for key in scores:
        yield key, record.get(key), _is_fraction(record.get(key)), "a fraction from 0 to 1, or NaN"
    are_known = isinstance(tested, list) and all(_is_whole(env) and 0 <= env < number for env in tested)
    yield "args.test_envs", tested, are_known and bool(tested), f"a list of numbers from 0 to {number - 1}"
    for key in (f"env{i}_uda_acc" for i in range(len(tested))):
        score = record.get(key)
        yield key, score, score is None or _is_fraction(score), "a fraction from 0 to 1, NaN or null"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST


def _is_fraction(value: Any) -> bool:
    # DomainBed divides by the sum of weights, which may be 0.
    return is_number(value) and (value != value or 0 <= value <= 1)


def _is_shallow(value: Any, levels: int = LEVELS) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_is_shallow(item, levels - 1) for item in items)
