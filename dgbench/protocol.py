"""How methods are compared: which domains train and test, how each is split, when it is evaluated.

Splits and seeds are DomainBed's to the number: a split depends on (trial seed, index of the domain, size) alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import RandomState

from dgbench.domainbed import domainbed_jobs
from dgbench.hparams import seed_hash
from dgbench.registry import UnknownName

__all__ = [
    "Domains",
    "Protocol",
    "domain_sets",
    "domainbed_jobs",
    "resolve_domains",
    "seed_hash",
    "split_indices",
    "split_uda",
]

SAMPLINGS = ("balanced", "pooled", "merged", "domains:k")
SPLITS = ("random", "official")
ERROR_BARS = ("n-1", "n")
# What `test_domains` may say instead of the domains of one run.
DOMAIN_SETS = ("each", "pairs", "each_train")


def _reporting(default: Any) -> Any:
    """A rule for reading finished runs; it changes no number of a run."""
    return field(default=default, metadata={"reporting": True})


@dataclass(kw_only=True)
class Protocol:
    """The part of a run that has to be equal for two methods to be compared.

    What is None is the dataset's own standard, from its card. `configs/protocol/dgbench.yaml` says what each means,
    and the files beside it are the presets.
    """

    name: str = "dgbench"
    num_steps: int | None = None
    evaluate_every: int | None = None
    evaluate_last: bool = True
    splits: str | None = None
    holdout_fraction: float = 0.2
    uda_holdout_fraction: float = 0.0
    sampling: str = "balanced"
    replacement: bool = True
    augment: bool = True
    augment_validation: bool = False
    draw_data_per_run: bool = False
    cap_steps: bool = True
    resnet_weights: str | None = None
    resnet_freeze_bn: bool = False
    error_bar: str = _reporting("n-1")
    use_unfinished: bool = _reporting(False)
    oracle_last_record: bool = _reporting(False)
    literal: bool = _reporting(False)

    def __post_init__(self) -> None:
        for name in ("num_steps", "evaluate_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"protocol.{name}={value}, expected at least 1.")
        if not 0 < self.holdout_fraction < 1:
            raise ValueError(f"protocol.holdout_fraction={self.holdout_fraction}, expected between 0 and 1.")
        if not 0 <= self.uda_holdout_fraction < 1:
            raise ValueError(
                f"protocol.uda_holdout_fraction={self.uda_holdout_fraction}, expected at least 0 and less than 1."
            )
        for name, known in (("splits", SPLITS), ("error_bar", ERROR_BARS)):
            if getattr(self, name) not in (None, *known):
                raise UnknownName(f"value of protocol.{name}", getattr(self, name), known)
        if self.sampling not in SAMPLINGS[:3] and not re.fullmatch(r"domains:[1-9]\d*", self.sampling):
            raise UnknownName("sampling (protocol.sampling)", self.sampling, SAMPLINGS)

    def evaluates_at(self, step: int, last: int) -> bool:
        """Whether an evaluation follows step `step` (counted from 0) of a run whose last step is `last`."""
        assert self.evaluate_every is not None
        return step % self.evaluate_every == 0 or (self.evaluate_last and step == last)

    @property
    def last_evaluation(self) -> int:
        """The last step that an evaluation follows."""
        assert self.num_steps is not None
        last = self.num_steps - 1
        return next(step for step in range(last, -1, -1) if self.evaluates_at(step, last))

    @property
    def decisive(self) -> dict[str, Any]:
        """The fields that decide a run's numbers."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata.get("reporting")}

    @property
    def reporting(self) -> dict[str, Any]:
        """The fields that say how finished runs are read: into means, errors and choices."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata.get("reporting")}


def split_indices(n: int, holdout_fraction: float, trial_seed: int, domain_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Split one domain at random into the examples to train (or test) on and those held out.

    Args:
        n: size of the domain.
        holdout_fraction: part that is held out.
        trial_seed: which of the random splits.
        domain_index: position of the domain in its dataset.

    Returns:
        Indices of the `in` and of the `out` split.

    >>> split_indices(10, 0.2, 0, 0)[1].tolist()
    [2, 3]
    """
    keys = _shuffled(n, trial_seed, domain_index)
    held_out = int(n * holdout_fraction)
    return keys[held_out:], keys[:held_out]


def split_uda(
    in_indices: np.ndarray, uda_fraction: float, trial_seed: int, domain_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split a test domain's `in` split into what remains and the unlabelled `uda` split."""
    order = _shuffled(len(in_indices), trial_seed, domain_index)
    unlabeled = int(len(in_indices) * uda_fraction)
    return in_indices[order[unlabeled:]], in_indices[order[:unlabeled]]


def _shuffled(n: int, trial_seed: int, domain_index: int) -> np.ndarray:
    # DomainBed shuffles a list; shuffling an array draws the same permutation, faster.
    keys = np.arange(n)
    RandomState(seed_hash(trial_seed, domain_index)).shuffle(keys)
    return keys


@dataclass(frozen=True)
class Domains:
    """Which domains of a dataset train, validate and test, by name in the dataset's order."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def domain_sets(
    wanted: str | int | Sequence[str | int],
    names: Sequence[str],
    designated: tuple[Sequence[str], ...] = ((), ()),
) -> list[tuple[list[str] | None, list[str]]]:
    """The training and test domains of each run that `test_domains=wanted` asks for.

    Args:
        wanted: `each` (leave out one, or the designated run where there is one), `pairs` (leave out two, for
            `domain_cross_validation`), `each_train` (train on one, test on all the others), or the names or indices
            of the test domains of one run.
        names: the dataset's domains that may be left out.
        designated: domains that the data designate to train and to test on.

    Returns:
        (training domains, or None for all that are left; test domains) per run.

    Raises:
        UnknownName: a name that is no domain of the dataset.
        ValueError: too few domains.
    """
    if wanted in ("pairs", "each_train") and len(names) < (least := 3 if wanted == "pairs" else 2):
        raise ValueError(f"test_domains={wanted} needs at least {least} domains, got {', '.join(names)}.")
    if wanted == "each" and any(designated):
        return [(list(designated[0]) or None, list(designated[1]))]
    if wanted == "each":
        return [(None, [name]) for name in names]
    if wanted == "pairs":
        return [(None, list(pair)) for pair in itertools.combinations(names, 2)]
    if wanted == "each_train":
        return [([name], [other for other in names if other != name]) for name in names]
    if isinstance(wanted, str | int):
        wanted = [wanted]
    return [(None, named_domains(wanted, names, "test_domains"))]


def resolve_domains(
    names: Sequence[str],
    test: Sequence[str | int],
    train: Sequence[str | int] | None = None,
    val: Sequence[str | int] | None = None,
    *,
    may_share: bool = False,
) -> Domains:
    """Which domains train, validate and test; those not named train.

    Args:
        names: the dataset's domains in order.
        test: test domains, names or indices.
        train: training domains; None: all that neither test nor validate.
        val: validation domains; None: none.
        may_share: a domain may train and test, as where official splits hold apart what is for which.

    Raises:
        UnknownName: a name that is no domain of the dataset.
        ValueError: a domain that has two roles, or no domain left to train or test on.
    """
    tested, validated = named_domains(test, names, "test_domains"), named_domains(val or [], names, "val_domains")
    rest = [name for name in names if name not in tested + validated]
    trained = rest if train is None else named_domains(train, names, "train_domains")
    for role, other, shared in (
        ("train_domains", "test_domains", set(trained) & set(tested)),
        ("val_domains", "test_domains", set(validated) & set(tested)),
        ("train_domains", "val_domains", set(trained) & set(validated)),
    ):
        if shared and not (may_share and {role, other} == {"train_domains", "test_domains"}):
            raise ValueError(
                f"{', '.join(sorted(shared))} stands in {role} and in {other}; a domain has one role. "
                "Take it out of one."
            )
    if not trained or not tested:
        role = "train" if not trained else "test"
        raise ValueError(f"No domain of {', '.join(names)} is left to {role} on. Name it with {role}_domains=[...].")
    return Domains(tuple(trained), tuple(validated), tuple(tested))


def named_domains(wanted: Sequence[str | int], names: Sequence[str], key: str) -> list[str]:
    """Domains given by name or index, by name and in the dataset's order.

    Args:
        wanted: names or indices.
        names: the dataset's domains.
        key: what they were given for, in messages.

    Raises:
        UnknownName: a name that is no domain.
        ValueError: an index out of range.
    """
    chosen = set()
    for item in wanted:
        # An integer is always an index, also if it came as text.
        index = int(item) if isinstance(item, int) or str(item).isdigit() else None
        if index is not None and not 0 <= index < len(names):
            raise ValueError(f"{key}: {index} is no index of {', '.join(names)}, expected 0 to {len(names) - 1}.")
        name = names[index] if index is not None else str(item)
        if name not in names:
            raise UnknownName(f"domain ({key})", name, names)
        chosen.add(name)
    return [name for name in names if name in chosen]
