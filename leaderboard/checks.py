"""What has to be true of one submission, beside its results: its names, data, clocks and runs.

Each check yields sentences that begin with the place, as JSON path.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dgbench import composition
from dgbench.averaging import make_averaging
from dgbench.protocol import Protocol
from dgbench.registry import UnknownName, algorithms, datasets

from .aggregate import method_name
from .bounded import below, shown
from .names import is_heading, skeleton, stem
from .submission import Data, Submission, Tables
from .submitted import protocol_of
from .wording import ANEW, written

BEGINNING = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
# Clocks of two machines may differ.
TOLERANCE_SECONDS = 3600
MAX_STEPS = 1_000_000
RUNS, ROWS = "$.payload.runs", "$.payload.evaluations"
# Columns of runs, by the lists that they point into.
LISTS = {"hparams": "hparams", "environments": "environment"}


def method(said: Submission) -> Iterator[str]:
    """The name follows from what was run, and cannot be taken for another method's."""
    own = said.method
    expected = method_name(own.algorithm, own.averaging, own.label, "", "")
    if own.name != expected:
        yield f"$.method.name: got {shown(own.name)}, expected {shown(expected)}, the row's name. {ANEW}"
    known = algorithms.names()
    base, place = (own.label, "label") if own.label else (own.algorithm, "algorithm")
    # A row without a label is called by its algorithm, and no label may imitate such a row.
    rivals = {*known, own.algorithm} if own.label else {*known} - {own.algorithm}
    for name in sorted(rivals):
        if skeleton(name) == skeleton(stem(base)):
            yield (
                f"$.method.{place}: got {shown(base)}, which can be taken for the algorithm {name}, expected a name of "
                "its own. Give the runs another label."
            )
    if is_heading(base):
        yield (
            f"$.method.{place}: got {shown(base)}, which can be taken for a heading of the tables, expected a name of "
            "its own. Give the runs another label."
        )
    try:
        make_averaging(own.averaging)
    except (ValueError, UnknownName) as error:
        yield f"$.method.averaging: {error} {ANEW}"
    if is_ours(own.algorithm):
        version = algorithms[own.algorithm].version
        if own.source is not None:
            yield (
                f"$.method.source: got {own.source}, the hash of a file of your own, but {own.algorithm} comes with "
                "dgbench, expected null. Give your method another name."
            )
        if own.version > version:
            yield (
                f"$.method.version: got {own.version}, expected at most {version}, which this dgbench has. "
                "Update dgbench, or the submission."
            )
    elif own.source is None:
        yield (
            f"$.method.algorithm: got {shown(own.algorithm)}, expected an algorithm of dgbench, or the hash of your "
            "own in $.method.source. Update dgbench, or make the runs with your file as a plugin."
        )


def is_ours(name: str) -> bool:
    """Whether an algorithm comes with dgbench: neither a plugin nor unknown."""
    return name in algorithms and algorithms.place(name).module.startswith(f"{algorithms.shelf}.")


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
    amiss = list(_rules(said))
    yield from amiss
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
        if not amiss:
            yield from _settings(said, one, place)


def _rules(said: Submission) -> Iterator[str]:
    known = Protocol().reporting
    for name, value in said.protocol.model_dump(exclude={"name"}).items():
        if name not in known:
            yield f"{below('$.protocol', name)}: {UnknownName('rule of the protocol', name, known)} {ANEW}"
        elif type(value) is not type(known[name]):
            yield f"$.protocol.{name}: got {shown(value)}, expected such as {shown(known[name])}. {ANEW}"


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
        is_standard(one) and len(one.domains) < len(card.domains)
    ):
        yield (
            f"{place}.domains: got {' '.join(one.domains) or 'none'}, expected {' '.join(card.domains)}, once each and "
            f"in this order. {ANEW}"
        )


def is_standard(one: Data) -> bool:
    """Whether all options have their defaults, so that the card tells domains and sizes."""
    standard = {f.name: f.default for f in dataclasses.fields(datasets[one.name].Options)}
    return all(standard.get(name) == value for name, value in one.options.items())


def _settings(said: Submission, one: Data, place: str) -> Iterator[str]:
    try:
        protocol = protocol_of(said, one)
    except (ValueError, UnknownName) as error:
        yield f"{place}.protocol: {error} {ANEW}"
        return
    if written(protocol.decisive) != written({**one.protocol, "name": protocol.name}) or None in (
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
    for name, column in LISTS.items():
        most, used = len(getattr(said, name)), getattr(own, column)
        yield from _beyond(f"{RUNS}.{column}", used, most)
        for place in sorted({*range(most)} - {*used}):
            yield f"$.{name}[{place}]: got an entry that no run has, expected it left out. {ANEW}"
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
