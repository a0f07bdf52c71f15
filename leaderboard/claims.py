"""Whether a submission is what the suite that it claims asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

import polars as pl

from dgbench import composition, config
from dgbench.cells import with_cells
from dgbench.record import FINISHED
from dgbench.registry import UnknownName, algorithms
from dgbench.selection import criteria, selection

from .bounded import below, shown
from .submission import Submission, Tables
from .submitted import protocol_of
from .suites import Suite, suite, suites

# Stands in for a method that does not come with dgbench.
STRANGER = "erm"
_CELL = ("dataset", "test_domain", "trial_seed", "data_seed")


def claim(said: Submission, tables: Tables, runs: pl.DataFrame, chosen: pl.DataFrame) -> Iterator[str]:
    """Whether the suite that the submission claims is complete, once each, and run as the suite says.

    Args:
        said: the submission.
        tables: what its payload holds.
        runs: its runs, as `submitted.frames` gives them.
        chosen: what the criteria chose, as `submitted.results` gives it.
    """
    if said.suite is None:
        return
    if said.suite.name not in suites():
        yield f"$.suite.name: {UnknownName('suite', said.suite.name, suites())}"
        return
    wanted = suite(said.suite.name)
    if said.suite.version != wanted.version:
        yield (
            f"$.suite.version: got {said.suite.version}, expected {wanted.version}, which this dgbench has. "
            "Make the runs again, or update dgbench."
        )
    given = [one.name for one in said.datasets]
    for name in wanted.datasets:
        if name not in given:
            yield f"$.datasets: {name} is missing, expected all datasets of suite {wanted.name}. Make its runs too."
    for index, one in enumerate(said.datasets):
        if one.name not in wanted.datasets:
            yield (
                f"$.datasets[{index}].name: got {one.name}, expected datasets of suite {wanted.name} only "
                f"({', '.join(wanted.datasets)}). Submit it by itself."
            )
        else:
            yield from _settings(said, index, wanted)
    yield from _hyperparameters(said, tables, wanted)
    yield from _cells(wanted, runs, chosen)


@cache
def _identity(keys: tuple[str, ...], algorithm: str, dataset: str) -> dict[str, Any]:
    names = [f"algorithm={algorithm}", f"dataset={dataset}", "test_domains=[0]"]
    run = config.resolve(composition.compose([*names, *keys]))
    return {**run.identity, "rules": run.protocol.reporting}


def _is_ours(said: Submission) -> bool:
    return said.method.source is None and said.method.algorithm in algorithms


def _settings(said: Submission, index: int, wanted: Suite) -> Iterator[str]:
    one = said.datasets[index]
    planned = _identity(wanted.keys, said.method.algorithm if _is_ours(said) else STRANGER, one.name)
    options = dict(planned["dataset"]["options"])
    seed = options.pop("data_seed", -1)
    network = {key: value for key, value in planned["network"].items() if key != "dropout"}
    place = f"$.datasets[{index}]"
    if index == 0:
        yield from _differences("$.protocol", protocol_of(said, one).reporting, planned["rules"], wanted)
    yield from _differences(f"{place}.options", one.options, options, wanted)
    yield from _differences(
        f"{place}.fingerprints", one.fingerprints, {str(seed): planned["dataset"]["fingerprint"]}, wanted
    )
    yield from _differences(f"{place}.protocol", one.protocol, planned["protocol"], wanted)
    yield from _differences(f"{place}.trainer", one.trainer, planned["trainer"], wanted)
    yield from _differences(f"{place}.network", one.network, network, wanted)


def _hyperparameters(said: Submission, tables: Tables, wanted: Suite) -> Iterator[str]:
    used = sorted(set(zip(tables.runs.hparams, tables.runs.dataset, strict=True)))
    for index, name in used:
        one = said.hparams[index]
        if name not in wanted.datasets:
            continue
        if not _is_ours(said):
            # What a method of one's own has for defaults only its file knows, but not the suite's part.
            optim = _identity(wanted.keys, STRANGER, name)["optim"]
            got = {key: one.optim.get(key) for key in ("batch_size", "num_steps")}
            yield from _differences(f"$.hparams[{index}].optim", got, {key: optim[key] for key in got}, wanted)
            continue
        planned = _identity(wanted.keys, said.method.algorithm, name)
        if said.method.version == planned["algorithm"]["version"]:
            hparams = planned["algorithm"]["hparams"]
            yield from _differences(f"$.hparams[{index}].algorithm", one.algorithm, hparams, wanted)
        yield from _differences(f"$.hparams[{index}].optim", one.optim, planned["optim"], wanted)


def _cells(wanted: Suite, runs: pl.DataFrame, chosen: pl.DataFrame) -> Iterator[str]:
    expected = {
        (name, domain, trial, planned["dataset"]["options"].get("data_seed", -1))
        for name in wanted.datasets
        for planned in [_identity(wanted.keys, STRANGER, name)]
        for domain in chain.from_iterable(planned["domains"].values())
        for trial in wanted.trials
    }
    eligible = with_cells(runs.filter(pl.col("status").is_in(FINISHED) | pl.col("use_unfinished")))
    found = {row[:4]: row[4] for row in eligible.group_by(_CELL).len().iter_rows()}
    for cell in sorted(expected - found.keys()):
        yield f"$.payload.runs: {_named(cell)} is missing, expected all of suite {wanted.name}. Make its run too."
    for cell in sorted(found.keys() - expected):
        yield f"$.payload.runs: got {_named(cell)}, which is no cell of suite {wanted.name}. Leave those runs out."
    for cell in sorted(expected & found.keys()):
        if found[cell] > 1:
            yield (
                f"$.payload.runs: got {found[cell]} runs for {_named(cell)}, expected one in suite {wanted.name}. "
                "Leave the others out."
            )
    for name in criteria():
        if selection(name).needs_pairs:
            continue
        cells = set(chosen.filter(pl.col("criterion") == name).select(_CELL).iter_rows())
        for cell in sorted((expected & found.keys()) - cells):
            yield (
                f"$.payload.evaluations: nothing that {name} chooses by for {_named(cell)}, expected it in suite "
                f"{wanted.name}. Make the run with the criteria of the suite."
            )


def _named(cell: tuple[Any, ...]) -> str:
    return f"{cell[0]}, test {cell[1]}, trial {cell[2]}" + (f", data_seed {cell[3]}" if cell[3] > 0 else "")


def _differences(place: str, got: Mapping[str, Any], expected: Mapping[str, Any], wanted: Suite) -> Iterator[str]:
    for name in sorted({**got, **expected}):
        mine, theirs = got.get(name), expected.get(name)
        if mine != theirs:
            yield (
                f"{below(place, name)}: got {shown(mine)}, expected {shown(theirs)}, as suite {wanted.name} has it. "
                f"Make the runs with {' '.join(wanted.keys)} and nothing else, or leave out --suite."
            )
