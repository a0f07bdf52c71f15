"""Whether a submission is what the suite that it claims asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

import polars as pl

from dgbench import composition, config
from dgbench.cells import with_cells
from dgbench.hparams import seed_hash
from dgbench.record import FINISHED, identity_hash
from dgbench.registry import UnknownName, algorithms

from .bounded import below, shown
from .checks import ROWS, RUNS, is_ours
from .evaluated import SPLITS
from .submission import Submission, Tables
from .submitted import protocol_of
from .suites import Suite, suite, suites
from .wording import ANEW, about, written

# Stands in for a method that does not come with dgbench.
STRANGER = "erm"
_ABSENT = object()
_CELL = ("dataset", "test_domain", "trial_seed", "data_seed")


def claim(said: Submission, tables: Tables, runs: pl.DataFrame, rows: pl.DataFrame) -> Iterator[str]:
    """Whether the suite that the submission claims is complete, once each, and run as the suite says.

    Args:
        said: the submission.
        tables: what its payload holds.
        runs: its runs, as `submitted.frames` gives them.
        rows: its evaluations, likewise.
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
    amiss = [*_data(said, wanted), *_method(said, tables, wanted)]
    yield from amiss
    yield from _cells(wanted, runs)
    if not amiss:
        yield from _whole(said, runs, rows, wanted)
        yield from _run_ids(said, tables, wanted)


def _data(said: Submission, wanted: Suite) -> Iterator[str]:
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


@cache
def _identity(keys: tuple[str, ...], algorithm: str, dataset: str) -> dict[str, Any]:
    names = [f"algorithm={algorithm}", f"dataset={dataset}", "test_domains=[0]"]
    run = config.resolve(composition.compose([*names, *keys]))
    return {**run.identity, "rules": run.protocol.reporting}


def _model(said: Submission) -> str:
    """The method whose settings the suite's are."""
    return said.method.algorithm if is_ours(said.method.algorithm) else STRANGER


def _settings(said: Submission, index: int, wanted: Suite) -> Iterator[str]:
    one = said.datasets[index]
    planned = _identity(wanted.keys, _model(said), one.name)
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


def _method(said: Submission, tables: Tables, wanted: Suite) -> Iterator[str]:
    """The hyper-parameters are the defaults of the method, as it is here, and it was trained to the end."""
    own = said.method
    if is_ours(own.algorithm) and own.version != (version := algorithms[own.algorithm].version):
        yield (
            f"$.method.version: got {own.version}, expected {version}, as this dgbench has it. Make the runs again, "
            "or leave out --suite."
        )
    seeds = tables.runs.hparams_seed
    drawn = [index for index, seed in enumerate(seeds) if seed != 0]
    if drawn:
        yield (
            f"{RUNS}.hparams_seed[{drawn[0]}]: got {seeds[drawn[0]]}, expected 0, the defaults, in suite "
            f"{wanted.name}. Make the runs without hparams_seed, or leave out --suite."
        )
    used = sorted(set(zip(tables.runs.dataset, tables.runs.hparams, strict=True)))
    diverged = [index for index, status in enumerate(tables.runs.status) if status == "diverged"]
    if diverged:
        yield (
            f"{RUNS}.status[{diverged[0]}]: got {len(diverged)} runs that diverged, expected none in suite "
            f"{wanted.name}, as they ended before the suite's last step. Submit them without --suite."
        )
    for name in wanted.datasets:
        settings = [index for dataset, index in used if dataset == name]
        if len(settings) > 1:
            yield (
                f"$.hparams[{settings[1]}]: got {len(settings)} settings of the method on {name}, expected one, its "
                f"defaults, in suite {wanted.name}. Leave out --suite."
            )
        for index in settings:
            yield from _hyperparameters(said, index, _identity(wanted.keys, _model(said), name), wanted)


def _hyperparameters(said: Submission, index: int, planned: Mapping[str, Any], wanted: Suite) -> Iterator[str]:
    one, place = said.hparams[index], f"$.hparams[{index}]"
    if is_ours(said.method.algorithm):
        yield from _differences(f"{place}.algorithm", one.algorithm, planned["algorithm"]["hparams"], wanted)
        yield from _differences(f"{place}.optim", one.optim, planned["optim"], wanted)
        return
    # What a method of one's own has for defaults only its file knows, but not the suite's part.
    part = ("batch_size", "num_steps")
    got = {key: value for key, value in one.optim.items() if key in part}
    yield from _differences(f"{place}.optim", got, {key: planned["optim"][key] for key in part}, wanted)


def _cells(wanted: Suite, runs: pl.DataFrame) -> Iterator[str]:
    expected: set[tuple[Any, ...]] = {
        (name, domain, trial, planned["dataset"]["options"].get("data_seed", -1))
        for name in wanted.datasets
        for planned in [_identity(wanted.keys, STRANGER, name)]
        for domain in chain.from_iterable(planned["domains"].values())
        for trial in wanted.trials
    }
    eligible = with_cells(runs.filter(pl.col("status").is_in(FINISHED) | pl.col("use_unfinished")))
    found = {row[:4]: row[4] for row in eligible.group_by(_CELL).len().iter_rows()}
    for cell in sorted(expected - found.keys()):
        yield f"{RUNS}: {_about(cell)} is missing, expected all of suite {wanted.name}. Make its run too."
    for cell in sorted(found.keys() - expected):
        yield f"{RUNS}: got {_about(cell)}, which is no cell of suite {wanted.name}. Leave those runs out."
    for cell in sorted(expected & found.keys()):
        if found[cell] > 1:
            yield (
                f"{RUNS}: got {found[cell]} runs for {_about(cell)}, expected one in suite {wanted.name}. "
                "Leave the others out."
            )


def _about(cell: tuple[Any, ...]) -> str:
    return about(dict(zip(_CELL, cell, strict=True)))


def _whole(said: Submission, runs: pl.DataFrame, rows: pl.DataFrame, wanted: Suite) -> Iterator[str]:
    """Each finished run was evaluated wherever any criterion looks."""
    splits = {one.name: SPLITS[one.protocol["splits"]] for one in said.datasets}
    pairs = rows.select("run_id", pair=pl.concat_str("split", "domain", separator="/")).unique().sort("pair")
    found = dict(pairs.group_by("run_id").agg("pair").iter_rows())
    for run in runs.filter(pl.col("status").is_in(FINISHED)).iter_rows(named=True):
        expected = [
            f"{split}/{domain}"
            for role, names in splits[run["dataset"]].items()
            for domain in run[f"{role}_domains"].split()
            for split in names
        ]
        for pair in sorted({*expected}.difference(found.get(run["run_id"], ()))):
            yield (
                f"{ROWS}: run {run['run_id']} was not evaluated on {pair}, expected it in suite {wanted.name}. "
                "Make the run without criteria."
            )


def _run_ids(said: Submission, tables: Tables, wanted: Suite) -> Iterator[str]:
    """Runs have the names that follow from what they are; beyond a suite the file does not hold their seeds."""
    own, runs, data = said.method, tables.runs, {one.name: one for one in said.datasets}
    for index, name in enumerate(runs.dataset):
        planned = {key: value for key, value in _identity(wanted.keys, _model(said), name).items() if key != "rules"}
        setting, test, seed = said.hparams[runs.hparams[index]], runs.test_domains[index], runs.data_seed[index]
        facts = (name, own.algorithm, test, runs.hparams_seed[index], runs.trial_seed[index])
        identity = {
            **planned,
            "domains": {"train": runs.train_domains[index], "val": runs.val_domains[index], "test": test},
            "network": {**data[name].network, "dropout": setting.optim.get("dropout")},
            "algorithm": {"name": own.algorithm, "version": own.version, "hparams": setting.algorithm},
            "optim": setting.optim,
            "averaging": own.averaging,
            "seed": seed_hash(*facts, *([seed] if seed > 0 else [])),
            "trial_seed": runs.trial_seed[index],
            "label": own.label or None,
        }
        if runs.run_id[index] != (expected := identity_hash(identity)):
            yield (
                f"{RUNS}.run_id[{index}]: got {runs.run_id[index]}, expected {expected}, which follows from its "
                f"settings in suite {wanted.name}. {ANEW}"
            )


def _differences(place: str, got: Mapping[str, Any], expected: Mapping[str, Any], wanted: Suite) -> Iterator[str]:
    for name in sorted({**got, **expected}):
        mine, theirs = got.get(name, _ABSENT), expected.get(name, _ABSENT)
        if _ABSENT in (mine, theirs) or written(mine) != written(theirs):
            yield (
                f"{below(place, name)}: got {_shown(mine)}, expected {_shown(theirs)}, as suite {wanted.name} has it. "
                f"Make the runs with {' '.join(wanted.keys)} and nothing else, or leave out --suite."
            )


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else shown(value)
