"""The splits of a run: which examples of each domain are for what."""

from __future__ import annotations

import torch

from dgbench.dataset import Augmented, Domain
from dgbench.loader import Split
from dgbench.protocol import split_indices, split_uda
from dgbench.registry import algorithms
from dgbench.run import Run
from dgbench.selection import REPORTED, VALIDATION, criteria, selection

HELD_OUT = ("val", "out")


def wanted_splits(run: Run) -> list[tuple[str, str]]:
    """The (split, domain) pairs that the selection criteria read."""
    asked = [selection(name) for name in run.keys.criteria or criteria()]
    wanted = {pair for chooser in asked for pair in _first(run, chooser.scores)} | _first(run, REPORTED)
    if algorithms[run.algorithm].needs.evaluation or run.keys.averaging.startswith("swad") or not run.keys.criteria:
        # What a method or an average is told, and what keeps its meaning if validation domains are dropped.
        wanted |= _first(run, VALIDATION[1:])
    domains = run.domains
    pairs = [(split, name) for split in HELD_OUT for name in domains.train if ("train", split) in wanted]
    pairs += [("in", name) for name in domains.val if ("val", "in") in wanted]
    pairs += [(split, name) for name in domains.test for split in ("test", "in", "out") if ("test", split) in wanted]
    if run.protocol.uda_holdout_fraction > 0:
        pairs += [("uda", name) for name in domains.test]
    return pairs


def _first(run: Run, places: tuple[tuple[str, str], ...]) -> set[tuple[str, str]]:
    """The first of some (role, split) that the run has."""
    return set(next(([place] for place in places if _has(run, *place)), ()))


def _has(run: Run, role: str, split: str) -> bool:
    names = getattr(run.domains, role)
    if run.protocol.splits != "official":
        return bool(names) and split in ("in", "out")
    declared = (run.dataset.splits or {}).get(split, {})
    return bool(names) and all(name in declared for name in names)


def make_splits(run: Run) -> dict[tuple[str, str], Split]:
    """All splits of the run's domains, as the protocol says.

    Raises:
        ValueError: a split that is needed is empty or not declared.
    """
    splits = _official(run) if run.protocol.splits == "official" else _random(run)
    for (split, name), part in splits.items():
        if len(part) == 0:
            raise ValueError(
                f"The {split} split of {name} is empty: the domain has {len(part.domain)} examples, and "
                f"protocol.holdout_fraction={run.protocol.holdout_fraction}, "
                f"protocol.uda_holdout_fraction={run.protocol.uda_holdout_fraction}. "
                "Hold out another part, or give the domain more examples."
            )
    return splits


def _random(run: Run) -> dict[tuple[str, str], Split]:
    splits = {}
    fraction, uda_fraction = run.protocol.holdout_fraction, run.protocol.uda_holdout_fraction
    roles = {*run.domains.train, *run.domains.val, *run.domains.test}
    for index, domain in enumerate(run.data.domains):
        if domain.name not in roles:
            continue
        inside, outside = split_indices(len(domain), fraction, run.keys.trial_seed, index)
        if domain.name in run.domains.test and uda_fraction > 0:
            inside, unlabeled = split_uda(inside, uda_fraction, run.keys.trial_seed, index)
            splits["uda", domain.name] = Split(domain, torch.from_numpy(unlabeled))
        splits["in", domain.name] = Split(domain, torch.from_numpy(inside))
        splits["out", domain.name] = Split(_held_out(run, domain), torch.from_numpy(outside))
    return splits


def _official(run: Run) -> dict[tuple[str, str], Split]:
    if run.protocol.uda_holdout_fraction > 0:
        raise ValueError(
            f"protocol.uda_holdout_fraction={run.protocol.uda_holdout_fraction} divides random splits, but "
            "protocol.splits=official. Set it to 0, or protocol.splits=random."
        )
    domains = {domain.name: domain for domain in run.data.domains}
    declared = run.data.splits or {}
    splits = {}
    for split, names in (
        ("in", {*run.domains.train, *run.domains.val}),
        ("val", {*run.domains.train}),
        ("test", {*run.domains.test}),
    ):
        for name in sorted(names):
            if name in declared.get(split, {}):
                domain = _held_out(run, domains[name]) if split == "val" else domains[name]
                splits[split, name] = Split(domain, declared[split][name])
            elif split != "val":
                having = ", ".join(declared.get(split, {})) or "none"
                raise ValueError(
                    f"protocol.splits=official, but {name} has no {split} split; it is declared for {having}. "
                    f"Name these as {'test' if split == 'test' else 'train'}_domains, or set protocol.splits=random."
                )
    return splits


def _held_out(run: Run, domain: Domain) -> Domain:
    """The domain as the examples held out of it are evaluated."""
    return Augmented(domain) if run.protocol.augment_validation and domain.name in run.domains.train else domain
