"""What a contract is made of: clauses, and what a checker found about each."""

from __future__ import annotations

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Finding(NamedTuple):
    """What a checker found about one clause."""

    clause: str
    passed: bool | None
    """None: the clause could not be evaluated, or does not concern the component."""
    message: str
    """Got, expected, remedy if it failed; why not if it was not evaluated; else the clause's meaning."""


class Violation(Exception):
    """The component breaks the clause; the text says got, expected, remedy."""


class NotApplicable(Exception):
    """The clause does not concern the component, or the means to evaluate it are lacking; the text says why."""

    def __init__(self, why: str, *, blocks: bool = False):
        super().__init__(why)
        self.blocks = blocks
        """Whether the clauses that rest on this one cannot be evaluated either."""


@dataclass(frozen=True)
class Clause:
    """One promise of a contract.

    Args:
        examine: raises `Violation` if a component breaks it, `NotApplicable` if it does not concern it.
        after: names of the clauses without which it cannot be evaluated.
    """

    examine: Callable[[Any], None]
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How findings call it."""
        return self.examine.__name__

    @property
    def meaning(self) -> str:
        """The promise in one sentence."""
        return (self.examine.__doc__ or "").split("\n")[0]


def clause(contract: list[Clause], *, after: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Make a function the next clause of a contract.

    Args:
        contract: the list that it joins.
        after: as in `Clause`.
    """

    def add(examine: Callable[[Any], None]) -> Callable[[Any], None]:
        contract.append(Clause(examine, tuple(after)))
        return examine

    return add


def examine(contract: Sequence[Clause], subject: Any) -> list[Finding]:
    """Evaluate every clause in order; one defect fails one clause, what rests on it is not evaluated.

    Args:
        contract: the clauses.
        subject: what they look at.
    """
    findings: list[Finding] = []
    unknown: set[str] = set()
    with kept_generators():
        for item in contract:
            missing = [name for name in item.after if name in unknown]
            if missing:
                finding = Finding(item.name, None, f"Not evaluated: it rests on {' and '.join(missing)}.")
                blocks = True
            else:
                finding, blocks = _examine(item, subject)
            if blocks:
                unknown.add(item.name)
            findings.append(finding)
    return findings


def _examine(item: Clause, subject: Any) -> tuple[Finding, bool]:
    """The finding, and whether it blocks the clauses that rest on this one."""
    try:
        item.examine(subject)
    except Violation as violation:
        return Finding(item.name, False, str(violation)), True
    except NotApplicable as reason:
        return Finding(item.name, None, str(reason)), reason.blocks
    # A component may raise whatever it likes: that is a finding about it, and the other clauses go on.
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The innermost line that is not inside a package is the likeliest place to mend.
        frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
        text = " ".join(str(error).split())
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        message = f"Got {type(error).__name__}: {text} ({where}), expected: {item.meaning}"
        return Finding(item.name, False, message), True
    return Finding(item.name, True, item.meaning), False


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Afterwards the generators of Python, numpy and torch are where they were."""
    before = generators()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def generators() -> tuple[Any, Any, torch.Tensor]:
    """The states of the generators of Python, numpy and torch."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def moved_generators(before: tuple[Any, Any, torch.Tensor]) -> list[str]:
    """Whose generators have been drawn from or seeded since `before`."""
    python, numpy_, torch_ = generators()
    old = before[1]
    same_numpy = np.array_equal(old[1], numpy_[1]) and old[2:] == numpy_[2:]
    states = {"random": python == before[0], "numpy": same_numpy, "torch": torch.equal(before[2], torch_)}
    return [name for name, is_same in states.items() if not is_same]


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
