"""What has to be true of one submission, beside its results: its names, data, clocks, runs and rows.

Each check yields sentences that begin with the place, as JSON path.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from dgbench import composition
from dgbench.averaging import make_averaging
from dgbench.cells import with_cells
from dgbench.protocol import Protocol
from dgbench.record import FINISHED
from dgbench.registry import UnknownName, algorithms, datasets

from .aggregate import method_name
from .bounded import shown
from .names import skeleton
from .submission import Data, Submission, Tables
from .submitted import protocol_of

ANEW = "Write the file anew with `dgbench submit`."
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
# Clocks of two machines may differ.
TOLERANCE_SECONDS = 3600
MAX_STEPS = 1_000_000
# Accuracies are quotients in float64: times n they are whole but for rounding, which is far smaller.
WHOLE = 1e-6
RUNS, ROWS = "$.payload.runs", "$.payload.evaluations"


def method(said: Submission) -> Iterator[str]:
    """The name follows from what was run, and cannot be taken for another method's."""
    own = said.method
    expected = method_name(own.algorithm, own.averaging, own.label, "", "")
    if own.name != expected:
        yield f"$.method.name: got {shown(own.name)}, expected {shown(expected)}, the row's name. {ANEW}"
    known = algorithms.names()
    base, place = (own.label, "label") if own.label else (own.algorithm, "algorithm")
    for name in known:
        if name != own.algorithm and skeleton(name) == skeleton(base):
            yield (
                f"$.method.{place}: got {shown(base)}, which can be taken for the algorithm {name}, expected a name of "
                "its own. Give the runs another label."
            )
    try:
        make_averaging(own.averaging)
    except (ValueError, UnknownName) as error:
        yield f"$.method.averaging: {error} {ANEW}"
    if own.algorithm in known and own.source is None:
        version = algorithms[own.algorithm].version
        if own.version > version:
            yield (
                f"$.method.version: got {own.version}, expected at most {version}, which this dgbench has. "
                "Update dgbench, or the submission."
            )
    if own.algorithm not in known and own.source is None:
        yield (
            f"$.method.algorithm: got {shown(own.algorithm)}, expected an algorithm of dgbench, or the hash of your "
            "own in $.method.source. Update dgbench, or make the runs with your file as a plugin."
        )


def clock(said: Submission, tables: Tables) -> Iterator[str]:
    """Nothing happened before it began, before there was a dgbench, or in the future."""
    try:
        created = datetime.strptime(said.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        yield f"$.created: got {shown(said.created)}, expected a day and an hour that exist. Give another by --created."
        return
    if not BEGINNING <= created <= time.time() + TOLERANCE_SECONDS:
        yield f"$.created: got {said.created}, expected a time from 2020 until now. Give another by --created."
    runs = tables.runs
    for index, (begun, finished) in enumerate(zip(runs.begun, runs.finished, strict=True)):
        if begun < BEGINNING:
            yield f"{RUNS}.begun[{index}]: got {begun}, expected a time since 2020, in seconds since 1970. {ANEW}"
        if finished is not None and finished < begun:
            yield f"{RUNS}.finished[{index}]: got {finished}, before the run begun at {begun}, expected later. {ANEW}"
        if max(begun, finished or begun) > created + TOLERANCE_SECONDS:
            yield f"{RUNS}.begun[{index}]: got a run later than $.created ({said.created}), expected earlier. {ANEW}"
    for name, seconds in enumerate(runs.seconds):
        if seconds is not None and seconds < 0:
            yield f"{RUNS}.seconds[{name}]: got {seconds}, expected at least 0. {ANEW}"


def data(said: Submission) -> Iterator[str]:
    """The datasets are those that this dgbench has, and their settings are settings."""
    seen = set()
    for index, one in enumerate(said.datasets):
        place = f"$.datasets[{index}]"
        if one.name in seen:
            yield f"{place}.name: got {one.name} twice, expected each dataset once. {ANEW}"
        seen.add(one.name)
        if one.name not in datasets:
            yield f"{place}.name: {UnknownName('dataset', one.name, datasets.names())}"
            continue
        yield from _sheet(one, place)
        yield from _settings(said, one, place)


def _sheet(one: Data, place: str) -> Iterator[str]:
    card = datasets[one.name].card
    if not card.domains:
        yield (
            f"{place}.name: got {one.name}, whose domains are the reader's own, expected data that others have too. "
            "Contribute them as a dataset of their own first."
        )
        return
    facts = {
        "version": card.version,
        "regime": card.regime,
        "score": "accuracy" if card.classes else "rmse",
        "designated_domains": list(card.test_domains),
    }
    for name, expected in facts.items():
        if getattr(one, name) != expected:
            yield (
                f"{place}.{name}: got {shown(getattr(one, name))}, expected {shown(expected)}, as {one.name} has it "
                "here. Make the runs again with this version of dgbench."
            )
    for number, name in enumerate(one.domains):
        if name not in card.domains:
            yield f"{place}.domains[{number}]: {UnknownName(f'domain of {one.name}', name, card.domains)}"
    if list(one.domains) != [name for name in card.domains if name in one.domains] or (
        _is_standard(one) and len(one.domains) < len(card.domains)
    ):
        yield (
            f"{place}.domains: got {' '.join(one.domains) or 'none'}, expected {' '.join(card.domains)}, once each and "
            f"in this order. {ANEW}"
        )


def _is_standard(one: Data) -> bool:
    """Whether all options have their defaults, so that the card tells domains and sizes."""
    standard = {f.name: f.default for f in dataclasses.fields(datasets[one.name].Options)}
    return all(standard.get(name) == value for name, value in one.options.items())


def _settings(said: Submission, one: Data, place: str) -> Iterator[str]:
    try:
        protocol = protocol_of(said, one)
    except (ValueError, UnknownName) as error:
        yield f"{place}.protocol: {error} {ANEW}"
        return
    rules = said.protocol.model_dump(exclude={"name"})
    if not rules.items() <= protocol.reporting.items():
        yield f"$.protocol: got {', '.join(rules)}, expected rules by which runs are read, of their types. {ANEW}"
    if protocol.decisive != {**one.protocol, "name": protocol.name} or None in (
        protocol.num_steps,
        protocol.evaluate_every,
        protocol.splits,
    ):
        yield f"{place}.protocol: some options are missing or of another type, expected all, resolved. {ANEW}"
    elif (protocol.num_steps or 0) > MAX_STEPS:
        yield f"{place}.protocol.num_steps: got {protocol.num_steps}, expected at most {MAX_STEPS}. {ANEW}"
    if one.protocol.get("name") != protocol.name or protocol.name not in composition.presets():
        known = ", ".join(composition.presets())
        yield (
            f"{place}.protocol.name: got {shown(one.protocol.get('name'))}, and in $.protocol.name "
            f"{shown(protocol.name)}, expected twice the same of {known}. {ANEW}"
        )
    if not isinstance(one.network.get("name"), str):
        yield f"{place}.network.name: got {shown(one.network.get('name'))}, expected the network's name. {ANEW}"


def runs(said: Submission, tables: Tables) -> Iterator[str]:
    """The columns fit each other and the rest of the submission, so that frames can be made of them."""
    for name, table in (("runs", tables.runs), ("evaluations", tables.evaluations)):
        lengths = {key: len(column) for key, column in table}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            yield f"$.payload.{name}: got columns of lengths {listed}, expected one length. {ANEW}"
            return
    own = tables.runs
    for name, most in (("hparams", len(said.hparams)), ("environment", len(said.environments))):
        yield from _beyond(f"{RUNS}.{name}", getattr(own, name), most)
    yield from _beyond(f"{ROWS}.run", tables.evaluations.run, len(own.run_id))
    if own.run_id != sorted(set(own.run_id)):
        yield f"{RUNS}.run_id: got run ids twice or out of order, expected each once, sorted. {ANEW}"
    known = {one.name: one for one in said.datasets}
    missing = sorted(set(known) - set(own.dataset))
    if missing:
        yield f"$.datasets: got {missing[0]} without any run, expected runs on each dataset. {ANEW}"
    for index, name in enumerate(own.dataset):
        if name not in known:
            yield f"{RUNS}.dataset[{index}]: {UnknownName('dataset of $.datasets', name, known)}"
        else:
            yield from _domains(index, own, known[name])


def _beyond(place: str, column: Sequence[int], most: int) -> Iterator[str]:
    if column and max(column) >= most:
        yield f"{place}[{column.index(max(column))}]: got {max(column)}, expected less than {most}. {ANEW}"


def _domains(index: int, own: Any, one: Data) -> Iterator[str]:
    parts = {name: getattr(own, name)[index] for name in ("train_domains", "val_domains", "test_domains")}
    for name, part in parts.items():
        for domain in part:
            if domain not in one.domains:
                yield f"{RUNS}.{name}[{index}]: {UnknownName(f'domain of {one.name}', domain, one.domains)}"
        if len(set(part)) < len(part) or (not part and name != "val_domains"):
            yield f"{RUNS}.{name}[{index}]: got {shown(' '.join(part))}, expected domains, each once. {ANEW}"
    if one.protocol.get("splits") == "random":
        both = sorted(set(parts["test_domains"]) & {*parts["train_domains"], *parts["val_domains"]})
        if both:
            yield f"{RUNS}.test_domains[{index}]: got {both[0]}, which the run trained on too, expected another. {ANEW}"
    if str(own.data_seed[index]) not in one.fingerprints:
        got, seeds = own.data_seed[index], ", ".join(one.fingerprints) or "none"
        yield f"{RUNS}.data_seed[{index}]: got {got}, expected one that has a fingerprint ({seeds}). {ANEW}"


def rows(said: Submission, of: pl.DataFrame, found: pl.DataFrame) -> Iterator[str]:
    """The scores are scores, each once, of the splits that the data have.

    Args:
        said: the submission.
        of: its runs, as `submitted.frames` gives them.
        found: its evaluations, likewise.
    """
    for (name,), part in with_cells(of).group_by("dataset", maintain_order=True):
        for key in ("trained_on", "val_domains"):
            if part[key].n_unique() > 1:
                yield f"{RUNS}: runs on {name} differ in {key}, expected one way to divide the domains. {ANEW}"
    value, n, is_accuracy = pl.col("value"), pl.col("n"), pl.col("metric") == "accuracy"
    roles = {
        role: pl.col("domain").is_in(pl.col(f"{role}_domains").str.split(" ")) for role in ("train", "val", "test")
    }
    rules = {
        "value": (
            (value.is_nan() & (pl.col("status") != "diverged"), "a number, as the run did not diverge"),
            (is_accuracy & ~value.is_nan() & ~value.is_between(0, 1), "an accuracy, from 0 to 1"),
            (~is_accuracy & (value < 0), "an error of at least 0"),
            (
                is_accuracy & value.is_between(0, 1) & ((value * n - (value * n).round()).abs() > WHOLE),
                f"an accuracy that some count of n examples gives (value times n is whole to {WHOLE})",
            ),
        ),
        "n": ((n < 1, "at least 1 example"),),
        "step": (
            (pl.col("step") >= pl.col("num_steps"), "a step of the run, before num_steps"),
            (
                pl.struct("run_id", "step", "split", "domain").is_duplicated(),
                "each step of a run once for each split and domain",
            ),
        ),
        "domain": ((~pl.any_horizontal(*roles.values()), "a domain that the run trains, validates or tests on"),),
        "run": (
            (
                ~pl.col("status").is_in(FINISHED) & ~pl.col("use_unfinished"),
                "evaluations of finished runs only",
            ),
        ),
    }
    numbered = found.with_row_index("place").with_columns(run=pl.col("run_id"))
    for column, checks in rules.items():
        for is_wrong, expected in checks:
            yield from _first(numbered.filter(is_wrong), column, expected)
    yield from _sizes(said, numbered)


def _first(wrong: pl.DataFrame, column: str, expected: str) -> Iterator[str]:
    if len(wrong):
        got = f"got {shown(wrong[column][0])}"
        if column == "value":
            got += f" of n={wrong['n'][0]}"
        more = f" ({len(wrong) - 1} more such rows)" if len(wrong) > 1 else ""
        yield f"{ROWS}.{column}[{wrong['place'][0]}]: {got}, expected {expected}{more}. {ANEW}"


def _sizes(said: Submission, numbered: pl.DataFrame) -> Iterator[str]:
    """Random splits have the sizes that the cards and the protocol make them have."""
    sizes = []
    for one in said.datasets:
        card, protocol = datasets[one.name].card, Protocol(**one.protocol)
        if protocol.splits == "random" and protocol.uda_holdout_fraction == 0 and _is_standard(one):
            for domain, size in zip(card.domains, card.sizes, strict=False):
                out = int(size * protocol.holdout_fraction)
                sizes += [(one.name, domain, "out", out), (one.name, domain, "in", size - out)]
    schema = {"dataset": pl.String, "domain": pl.String, "split": pl.String, "size": pl.Int64}
    known = pl.DataFrame(sizes, schema=schema, orient="row")
    wrong = numbered.join(known, on=["dataset", "domain", "split"], maintain_order="left").filter(
        pl.col("n") != pl.col("size")
    )
    if len(wrong):
        yield from _first(wrong, "n", f"{wrong['size'][0]}, the size of {wrong['split'][0]}/{wrong['domain'][0]}")
