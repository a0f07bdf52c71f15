"""Which runs a command asks for.

Hydra composes once per distinct (method, dataset, preset); everything else is set in the composed configuration, so
that thousands of jobs expand in seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override

from dgbench import composition, config, tuning
from dgbench.protocol import DOMAIN_SETS, domain_sets, named_domains
from dgbench.run import Run, open_dataset
from dgbench.selection import selection

# Overrides that change which keys there are; the rest only change values.
GROUPS = ("algorithm", "dataset", "protocol")


@dataclass(frozen=True)
class Job:
    """One run that a command asks for."""

    run: Run
    overrides: tuple[str, ...]
    """What a worker process composes it from."""


def expand(arguments: Sequence[str]) -> list[Job]:
    """The runs that some overrides ask for, each once; `test_domains=each` is expanded per dataset.

    Raises:
        UnknownName: a name or key that does not exist.
        ValueError: an override that cannot be read, or a value that does not fit.
    """
    tuning.forget()
    overrides = [o for o in composition.parse(arguments) if not o.is_hydra_override()]
    # What takes one value is in the composition already, its interpolations resolved.
    swept = {o.get_key_element() for o in overrides if o.is_sweep_override()} - set(GROUPS)
    jobs: dict[str, Job] = {}
    bases: dict[tuple[str, ...], dict[str, Any]] = {}
    for chosen in itertools.product(*map(choices, overrides)):
        lines = [f"{key}={text}" for key, text, _ in chosen]
        groups = tuple(line for line, (key, _, _) in zip(lines, chosen, strict=True) if key in GROUPS)
        if groups not in bases:
            bases[groups] = composition.compose(lines)
        composed = bases[groups]
        for key, _, value in chosen:
            if key in swept:
                composed = _with(composed, key.lstrip("+").split("."), value)
        for train, test in _domain_sets(composed):
            run = config.resolve({**composed, "test_domains": test, "train_domains": train})
            kept = [line for line in lines if not line.startswith(("test_domains=", "train_domains="))]
            kept += [] if train is None else [f"train_domains=[{','.join(map(str, train))}]"]
            jobs.setdefault(run.run_id, Job(run, (*kept, f"test_domains=[{','.join(test)}]")))
    return list(jobs.values())


def choices(override: Override) -> list[tuple[str, str, Any]]:
    """Key, text and value of each value that an override takes."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [(key, override.get_value_element_as_str(), override.value())]
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line}: expected values separated by commas, or range(n).")
    texts = list(override.sweep_string_iterator())
    return [(key, text, composition.parse([f"{key}={text}"])[0].value()) for text in texts]


def _with(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with one value changed; what lies off the path is shared, as copying all of it for each run is slow."""
    first, *rest = path
    return {**node, first: _with(node[first], rest, value) if rest else value}


def _domain_sets(composed: Mapping[str, Any]) -> list[tuple[list[str | int] | None, list[str]]]:
    """Training domains (None: those that are left) and test domains of each run."""
    node = dict(composed["dataset"])
    dataset = open_dataset(node.pop("name"), composed["data_dir"], node)
    names, wanted, trained = dataset.domain_names, composed["test_domains"], composed["train_domains"]
    if wanted == "each_train" and trained:
        raise ValueError(
            f"test_domains=each_train trains on one domain after the other, but train_domains={trained} names them. "
            "Leave one of the two out."
        )
    if wanted in DOMAIN_SETS:
        taken = named_domains([*(composed["val_domains"] or []), *(trained or [])], names, "val_domains")
        names = tuple(name for name in names if name not in taken)
    sets = domain_sets(wanted, names, ((), ()) if trained else dataset.designated)
    criteria = composed["criteria"]
    if criteria and not isinstance(criteria, str):
        needs_pairs = any(selection(name).needs_pairs for name in criteria)
        if wanted == "pairs" and not needs_pairs:
            raise ValueError(
                f"test_domains=pairs serves domain_cross_validation, which criteria=[{','.join(criteria)}] leaves out. "
                "Name it there, or use test_domains=each."
            )
        if wanted == "each" and needs_pairs and len(sets) > 1:
            check_pairs(criteria, names, composed["dataset"]["name"])
            sets += domain_sets("pairs", names)
    return [(trained if train is None else [*train], test) for train, test in sets]


def check_pairs(criteria: Sequence[str], names: Sequence[str], dataset: str) -> None:
    """Refuse to leave out two domains of two.

    Raises:
        ValueError: there are fewer than three.
    """
    if len(names) < 3:
        raise ValueError(
            f"criteria=[{','.join(criteria)}]: domain_cross_validation needs at least 3 domains, got "
            f"{', '.join(names)}. Leave it out for {dataset}."
        )
