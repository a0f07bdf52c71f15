"""What a submission is: one method's results on some datasets, with all that is needed to compute them again.

The file is JSON. Its results and aggregates are conveniences: they follow from the runs and evaluations in `payload`,
and a file where they do not is refused. These models say what form a file has; `validate` says whether it is true.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .fields import (
    Base64,
    Choice,
    Column,
    Contact,
    Count,
    DataSeed,
    Finite,
    Hash,
    Identifier,
    Label,
    Link,
    Many,
    Moment,
    Name,
    Scalar,
    Scalars,
    Seed,
    Sentence,
    Settings,
    Sha256,
    Versions,
)

SCHEMA_VERSION = "1.0"


class _Strict(BaseModel):
    """No conversion, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Method(_Strict):
    """What was run, by the name of its row."""

    name: Name
    """As the tables print it; what a page calls the method."""
    algorithm: Identifier
    version: Count
    """Of the algorithm."""
    averaging: Choice
    """`none`, or the average of the weights that was evaluated."""
    label: Label
    """What the runs called the row, if not by algorithm and averaging."""
    paper: Link | None
    code: Link | None
    summary: Sentence
    """What the method does, in a sentence; may be empty."""
    source: Hash | None
    """Of the file of an algorithm that does not come with dgbench."""


class SuiteClaim(_Strict):
    """The suite that the submission says it completes."""

    name: Identifier
    version: Count


class Rules(BaseModel):
    """The preset, and how its finished runs are read: all that `dgbench.protocol.Protocol.reporting` names."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)
    name: Choice
    error_bar: Literal["n-1", "n"]
    """Divisor of the variance over trials."""


class Data(_Strict):
    """One dataset, and how models were trained and evaluated on it."""

    name: Identifier
    version: Count
    options: Scalars
    """Without `data_seed`."""
    fingerprints: dict[DataSeed, Hash]
    """By `data_seed`; -1 where data are not drawn."""
    domains: Many[Identifier]
    """All of the dataset's, in its order."""
    designated_domains: Many[Identifier]
    """Those that the data designate to test on; empty: each in turn."""
    score: Literal["accuracy", "rmse"]
    """By which models are selected and compared: a fraction in [0, 1], or in the units of the target."""
    regime: Identifier
    protocol: Scalars
    """Every option that decides numbers, by name (`dgbench.protocol.Protocol.decisive`)."""
    trainer: Scalars
    network: Scalars
    """The recipe, without dropout, which is a hyper-parameter."""


class Hyperparameters(_Strict):
    """One setting of a method."""

    algorithm: Settings
    optim: Scalars


class Environment(_Strict):
    """Where runs were made."""

    versions: Versions
    """Of dgbench, Python and the packages that decide numbers."""
    hardware: Scalars


class Result(_Strict):
    """What a criterion chose for one cell, and what that reached on the test domain."""

    criterion: Identifier
    dataset: Identifier
    test_domain: Identifier
    trial_seed: Count
    data_seed: Seed
    run_id: Hash
    step: Count
    """Step after which the chosen weights were evaluated, from 0."""
    selection_value: Finite | None
    """What was maximised; null where nothing is compared, or where it is not a number."""
    value: Finite | None
    """The dataset's score on the test domain; null: not a number, of a run that diverged."""
    n: Count
    """Examples that `value` is over."""


class Aggregate(_Strict):
    """A mean over trials, as the tables print it."""

    criterion: Identifier
    dataset: Identifier
    column: Column
    """A test domain, or the average over all of them within each trial."""
    mean: Finite | None
    """null: no trial is whole."""
    se: Finite | None
    """Standard error of the mean; null for fewer than two trials."""
    num_trials: Count
    expected_trials: Count


class Payload(_Strict):
    """All runs and evaluations that selection needs (`Tables`): JSON, compressed by zstd, in base64."""

    encoding: Literal["base64(zstd(json))"]
    size: Count
    """Bytes of the JSON."""
    data: Base64


class Submission(_Strict):
    """One method's results: what a file holds."""

    schema_version: Literal["1.0"]
    created: Moment
    method: Method
    contact: Contact
    suite: SuiteClaim | None
    protocol: Rules
    datasets: Annotated[list[Data], Field(min_length=1, max_length=100, fail_fast=True)]
    hparams: Annotated[list[Hyperparameters], Field(min_length=1, max_length=20_000, fail_fast=True)]
    environments: Annotated[list[Environment], Field(min_length=1, max_length=1000, fail_fast=True)]
    results: Many[Result]
    """One per criterion and cell that the runs allow, sorted by criterion, dataset, test domain and trial."""
    aggregates: Many[Aggregate]
    """Sorted by criterion, dataset and column."""
    payload: Payload
    supersedes: Sha256 | None
    """Checksum of the submission of which this one changes values."""
    checksum: Sha256
    """Of all the rest: see `checksum`."""


class Runs(_Strict):
    """The runs, as columns of equal length; sorted by `run_id`."""

    run_id: Many[Hash]
    dataset: Many[Identifier]
    train_domains: Many[Many[Identifier]]
    val_domains: Many[Many[Identifier]]
    test_domains: Many[Many[Identifier]]
    """One domain, or two for the runs that serve domain_cross_validation, or all that the data designate."""
    trial_seed: Many[Count]
    data_seed: Many[Seed]
    """-1 where data are not drawn."""
    hparams: Many[Count]
    """Place in the submission's `hparams`."""
    hparams_seed: Many[Count]
    environment: Many[Count]
    """Place in the submission's `environments`."""
    status: Many[Literal["complete", "diverged", "failed", "interrupted"]]
    begun: Many[Finite]
    """Seconds since 1970, UTC."""
    finished: Many[Finite | None]
    seconds: Many[Finite | None]
    """Time of training and evaluating."""
    peak_memory: Many[Count | None]
    """Bytes."""


class Evaluations(_Strict):
    """The scores of the runs, as columns of equal length; of the weights that `averaging` asks for."""

    run: Many[Count]
    """Place in the columns of `Runs`."""
    step: Many[Count]
    split: Many[Identifier]
    domain: Many[Identifier]
    value: Many[Finite | None]
    """The dataset's score; null: an error that is not a number, in a run that diverged."""
    n: Many[Count]


class Tables(_Strict):
    """What the payload holds."""

    runs: Runs
    evaluations: Evaluations


def checksum(said: Mapping[str, Any]) -> str:
    """SHA-256 of a submission without its `checksum`: of its JSON with sorted keys, no spaces and ASCII only."""
    rest = {name: value for name, value in said.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
