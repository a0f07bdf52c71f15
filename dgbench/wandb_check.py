"""Whether what a run on W&B holds is a record of dgbench, whole and such that tables can be made of it.

Anybody who may write to a project may change what it holds, and one record that cannot be read spoils a table of all.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from dgbench.record import SCHEMA, STATUSES, identity_hash
from dgbench.run_texts import COLUMNS, USUAL

# Of each metric of `dgbench.task`, the least and the largest value.
BOUNDS = {
    **dict.fromkeys(("accuracy", "macro_accuracy"), (0.0, 1.0)),
    **dict.fromkeys(("rmse", "mae"), (0.0, math.inf)),
    **dict.fromkeys(("correct", "nll", "ece", "r2", "pearson"), (-math.inf, math.inf)),
}
# Far more than ours has; what is deeper could be parsed and yet not be written.
MAX_DEPTH = 32
# What reading goes wrong with, of what somebody else wrote.
WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Place = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]

_EXACT = ConfigDict(strict=True)
_TYPES: dict[Any, Any] = {pl.String: str, pl.Int64: Integer, pl.Boolean: bool}
_OF_COLUMNS: dict[str, Any] = {name: (_TYPES[kind], USUAL.get(name, ...)) for name, kind in COLUMNS.items()}
_Columns = create_model("_Columns", __config__=_EXACT, **_OF_COLUMNS)


@functools.cache
def _adapted_columns() -> type[BaseModel]:
    # Importing these takes seconds, for nothing where no adaptation is met.
    from dgbench.adaptation import OF_THE_SOURCE
    from dgbench.trained import DEFAULT

    texts = ("norm", "draw", "source", "adapter", "adapter_hparams", "stream", "stream_options", "stream_key", "target")
    fields: dict[str, Any] = {
        **{name: _OF_COLUMNS[name] for name in OF_THE_SOURCE},
        **dict.fromkeys(texts, (str, ...)),
        **dict.fromkeys(("hparams_seed", "batch_size", "seed"), (Integer, ...)),
        **dict.fromkeys(("source_step", "examples"), (Integer | None, ...)),
        "source_criterion": (str, DEFAULT),
    }
    # A table of adaptations makes one frame of all that they have: none may bring a column of its own.
    return create_model("_AdaptedColumns", __config__=ConfigDict(strict=True, extra="forbid"), **fields)


class OtherVersion(Exception):
    """A record of another schema."""


class _Record(BaseModel):
    """Of run.json, what is read of either kind."""

    model_config = _EXACT

    status: Literal[STATUSES]  # type: ignore[valid-type]
    identity: dict[str, Any]
    reason: str | None = None
    group: str | None = None
    package_version: str | None = None
    seconds: Finite | None = None
    peak_memory: Integer | None = None


class _Trained(_Record):
    kind: Literal["train"]
    columns: _Columns  # type: ignore[valid-type]


class _Adapter(BaseModel):
    model_config = _EXACT

    version: int
    hparams: dict[str, Any]


class _AdaptedIdentity(BaseModel):
    model_config = _EXACT

    adapter: _Adapter


class _Adapted(_Record):
    kind: Literal["adapt"]
    identity: _AdaptedIdentity  # type: ignore[assignment]


class _Complete(_Adapted):
    answers: Literal["before", "after"]
    seconds_per_batch: Finite


class _Line(BaseModel):
    model_config = _EXACT

    step: Count
    weights: str
    n: dict[Place, Count]
    values: dict[str, Finite | None]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, value in self.values.items():
            place, _, metric = key.rpartition("/")
            if place not in self.n or metric not in BOUNDS:
                raise ValueError(f"{key!a} is no split/domain/metric of it")
            low, high = BOUNDS[metric]
            if value is not None and not low <= value <= high:
                raise ValueError(f"{key!a} is {value}, expected {low} to {high}")
        return self


class _Curve(BaseModel):
    model_config = _EXACT

    domain: str | None = None
    n: list[Size]
    seconds: list[Finite]
    correct: list[Count] | None = None
    squared_error: list[Finite | None] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lists = (self.seconds, self.correct, self.squared_error)
        if any(len(part) != len(self.n) for part in lists if part is not None):
            raise ValueError("its lists differ in length")
        return self


class _AdaptedLine(_Line):
    phase: Literal["stream", "source_after"]
    round: Count
    position: Count
    curve: _Curve | None = None


def checked_record(said: Any, run_id: str) -> dict[str, Any]:
    """A run.json, if it is one.

    Args:
        said: parsed JSON.
        run_id: what the W&B run is called.

    Raises:
        OtherVersion: a record of another schema.
        ValueError: it lacks what readers need, or its identity has another hash than it is named by; other exceptions
            of `WRONG` where nothing fits.
    """
    if not run_id == said["run_id"] == identity_hash(said["identity"]):
        raise ValueError("its identity has another hash than its name")
    if isinstance(said["schema"], int) and said["schema"] is not True and said["schema"] != SCHEMA:
        raise OtherVersion
    # Whoever writes it hands its keys to `RunFolder.begin` as keyword arguments, beside which `self` cannot be one.
    if type(said["schema"]) is not int or "self" in said or _depth(said) > MAX_DEPTH:
        raise ValueError("its layout is not that of a record")
    _written(said)
    kind: type[BaseModel] = _Trained
    if said["kind"] == "adapt":
        kind = _Complete if said["status"] == "complete" else _Adapted
    _check(kind, said)
    if said["kind"] == "adapt":
        _check(_adapted_columns(), said["columns"], "columns.")
    return said


def checked_lines(lines: Sequence[Mapping[str, Any]], said: Mapping[str, Any]) -> bytes:
    """An evaluations.jsonl, if its lines are evaluations.

    Args:
        lines: of the file.
        said: the run.json.

    Raises:
        ValueError: one is none.
    """
    is_adapted = said["kind"] == "adapt"
    for line in lines:
        _check(_AdaptedLine if is_adapted else _Line, line)
        score = said["columns"]["score"]
        lacking = [place for place in line["n"] if is_adapted and f"{place}/{score}" not in line["values"]]
        if lacking:
            raise ValueError(f"{lacking[0]!a} has no {score}")
    return b"".join(map(_written, lines))


def _check(kind: type[BaseModel], said: Any, place: str = "") -> None:
    try:
        kind.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{place + '.'.join(map(str, first['loc']))!a}: {first['msg']}") from None


def _written(said: Any) -> bytes:
    """A line of JSON. Halves of characters, which JSON can spell, cannot be encoded: a ValueError."""
    json.dumps(said, ensure_ascii=False).encode("utf-8")
    return (json.dumps(said) + "\n").encode("ascii")


def _depth(said: Any) -> int:
    items: Iterable[Any] = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return 1 + max(map(_depth, items), default=0)
