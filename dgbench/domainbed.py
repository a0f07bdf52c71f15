"""DomainBed's sweep, job by job: what it would run, in its order, with its seeds and folders, and what that is here.

Gulrajani and Lopez-Paz (2021), In Search of Lost Domain Generalization, https://arxiv.org/abs/2007.01434; the names are
those of its repository as of 2024-12 (commit b93c22a).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgbench.hparams import Optim, facts, seed_hash
from dgbench.registry import Registry, UnknownName, algorithms, datasets

ALGORITHMS = (
    *("ERM", "ERMPlusPlus", "Fish", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL"),
    *("SagNet", "ARM", "VREx", "RSC", "SD", "ANDMask", "SANDMask", "IGA", "SelfReg", "Fishr", "TRM", "IB_ERM"),
    *("IB_IRM", "CAD", "CondCAD", "Transfer", "CausIRL_CORAL", "CausIRL_MMD", "EQRM", "RDM", "ADRMX", "URM"),
)
DATASETS = {
    "Debug28": 3,
    "Debug224": 3,
    "ColoredMNIST": 3,
    "RotatedMNIST": 6,
    "VLCS": 4,
    "PACS": 4,
    "OfficeHome": 4,
    "TerraIncognita": 4,
    "DomainNet": 6,
    "SVIRO": 10,
    "WILDSCamelyon": 5,
    "WILDSFMoW": 6,
    "SpawriousO2O_easy": 3,
    "SpawriousO2O_medium": 3,
    "SpawriousO2O_hard": 3,
    "SpawriousM2M_easy": 3,
    "SpawriousM2M_medium": 3,
    "SpawriousM2M_hard": 3,
}
"""Number of domains by DomainBed's name, in its order."""
TASKS = ("domain_generalization", "domain_adaptation")
HOLDOUT_FRACTION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainBedJob:
    """One training run of DomainBed's sweep."""

    dataset: str
    """As DomainBed spells it, e.g. `RotatedMNIST`."""
    algorithm: str
    """As DomainBed spells it, e.g. `GroupDRO`."""
    test_domains: tuple[int, ...]
    """Indices of the one or two domains that are left out."""
    hparams_seed: int
    trial_seed: int
    data_dir: str
    task: str
    holdout_fraction: float
    steps: int | None
    """Training steps; None: the dataset's standard."""
    hparams: str | None
    """Hyper-parameters that replace drawn ones, a JSON object under DomainBed's keys; None: none."""

    @property
    def seed(self) -> int:
        """Seed of the run, from 0 to 2**31 - 1."""
        return seed_hash(self.dataset, self.algorithm, list(self.test_domains), self.hparams_seed, self.trial_seed)

    @property
    def arguments(self) -> dict[str, Any]:
        """DomainBed's arguments of the run, those of its sweep and no others."""
        given = {"steps": self.steps, "hparams": self.hparams}
        return {
            "dataset": self.dataset,
            "algorithm": self.algorithm,
            "test_envs": list(self.test_domains),
            "holdout_fraction": self.holdout_fraction,
            "hparams_seed": self.hparams_seed,
            "data_dir": self.data_dir,
            "task": self.task,
            "trial_seed": self.trial_seed,
            "seed": self.seed,
        } | {name: value for name, value in given.items() if value is not None}

    @property
    def folder(self) -> str:
        """Name of the folder that DomainBed writes the run to, below that of the sweep."""
        return hashlib.md5(json.dumps(self.arguments, sort_keys=True).encode()).hexdigest()

    def overrides(self, protocol: str = "domainbed_2024") -> list[str]:
        """The same run here, as overrides of `dgbench train`; where data and runs lie is left to the command.

        Args:
            protocol: preset of the comparison.

        Raises:
            UnknownName: a method, a dataset or a hyper-parameter that dgbench does not have.
            ValueError: `task=domain_adaptation`, for which DomainBed's sweep gives no unlabelled examples.
        """
        if self.task != TASKS[0]:
            raise ValueError(
                f"task={self.task}: DomainBed's sweep does not say which part of a test domain is given without "
                f"labels. List the jobs with task={TASKS[0]} and add protocol.uda_holdout_fraction=PART."
            )
        algorithm = _ours(algorithms, self.algorithm)
        return [
            f"algorithm={algorithm}",
            f"dataset={_ours(datasets, self.dataset)}",
            f"test_domains=[{','.join(map(str, self.test_domains))}]",
            f"hparams_seed={self.hparams_seed}",
            f"trial_seed={self.trial_seed}",
            f"seed={self.seed}",
            f"protocol={protocol}",
            *_given("protocol.num_steps", self.steps, None),
            *_given("protocol.holdout_fraction", self.holdout_fraction, HOLDOUT_FRACTION),
            *_hparam_overrides(algorithm, json.loads(self.hparams or "{}")),
        ]


def domainbed_jobs(
    algorithms: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    *,
    n_hparams: int = 20,
    n_hparams_from: int = 0,
    n_trials: int = 3,
    data_dir: str | Path,
    task: str = "domain_generalization",
    holdout_fraction: float = HOLDOUT_FRACTION,
    single_test_envs: bool = False,
    steps: int | None = None,
    hparams: str | None = None,
) -> list[DomainBedJob]:
    """The jobs of DomainBed's sweep, in its order: trial, dataset, algorithm, test domains, hyper-parameters.

    Args:
        algorithms: as DomainBed or dgbench spells them (`GroupDRO`, `group_dro`); None: all 34.
        datasets: likewise (`PACS`, `pacs`); None: all 16 that are not for debugging.
        n_hparams: end of the hyper-parameter seeds, itself left out; seed 0 is the default.
        n_hparams_from: the first of them.
        n_trials: trials, seeded 0, 1, ...
        data_dir: as DomainBed is told it, to the letter: it is part of a folder's name.
        task: `domain_generalization` or `domain_adaptation`.
        holdout_fraction: part of every domain that is held out.
        single_test_envs: leave out one domain at a time; otherwise pairs too, for leave-one-domain-out validation.
        steps: training steps; None: the dataset's standard.
        hparams: a JSON object of hyper-parameters that replace drawn ones, to the letter; None: none.

    Returns:
        The jobs: 438,600 for all defaults, 60 n (n + 1) / 2 per algorithm and dataset of n domains, or 60 n with
        `single_test_envs`.

    Raises:
        UnknownName: a method, dataset or task that DomainBed does not have.
        ValueError: a number out of range, or `hparams` that is no JSON object.

    >>> job = domainbed_jobs(["erm"], ["pacs"], data_dir="/data")[0]
    >>> job.seed, job.folder
    (94828300, '7358bc3c867a56585b37a848f2aaa0c1')
    """
    if task not in TASKS:
        raise UnknownName("task of DomainBed", task, TASKS)
    if not 0 <= n_hparams_from < n_hparams or n_trials < 1:
        raise ValueError(
            f"n_hparams_from={n_hparams_from}, n_hparams={n_hparams} and n_trials={n_trials} ask for no job: "
            "hyper-parameter seeds go from n_hparams_from, at least 0, to n_hparams - 1, and trials are at least 1."
        )
    if not 0 <= holdout_fraction < 1:
        raise ValueError(f"holdout_fraction={holdout_fraction}, expected at least 0 and less than 1.")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}, expected at least 1, or None for the dataset's standard.")
    _check_json(hparams)
    every_dataset = [name for name in DATASETS if "Debug" not in name]
    return [
        DomainBedJob(
            dataset=dataset,
            algorithm=algorithm,
            test_domains=left_out,
            hparams_seed=hparams_seed,
            trial_seed=trial_seed,
            data_dir=str(data_dir),
            task=task,
            holdout_fraction=float(holdout_fraction),
            steps=steps,
            hparams=hparams,
        )
        for trial_seed, dataset, algorithm in itertools.product(
            range(n_trials),
            every_dataset if datasets is None else _theirs("dataset", datasets, DATASETS),
            ALGORITHMS if algorithms is None else _theirs("algorithm", algorithms, ALGORITHMS),
        )
        for left_out in _left_out(DATASETS[dataset], single_test_envs)
        for hparams_seed in range(n_hparams_from, n_hparams)
    ]


def _left_out(num_domains: int, only_single: bool) -> Iterator[tuple[int, ...]]:
    """Every domain, each followed by its pairs with later ones."""
    for first in range(num_domains):
        yield (first,)
        if not only_single:
            yield from ((first, second) for second in range(first + 1, num_domains))


def _check_json(hparams: str | None) -> None:
    try:
        is_object = hparams is None or isinstance(json.loads(hparams), dict)
    except (json.JSONDecodeError, TypeError):
        is_object = False
    if not is_object:
        raise ValueError(
            f"hparams={hparams!r}, expected a JSON object as text: DomainBed hashes it to the letter. "
            """Write it as in hparams='{"lr": 0.001}'."""
        )


def _plain(name: str) -> str:
    """What two spellings of a name share: dgbench writes `group_dro` where DomainBed writes `GroupDRO`."""
    return name.replace("_", "").lower()


def _theirs(kind: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    spelled = {_plain(name): name for name in known}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if _plain(name) not in spelled:
            raise UnknownName(f"{kind} of DomainBed", name, spelled.values())
    return [spelled[_plain(name)] for name in names]


@functools.cache
def _ours(registry: Registry, name: str) -> str:
    known = registry.names()
    for ours in known:
        if _plain(ours) == _plain(name):
            return ours
    raise UnknownName(registry.kind, name, known)


def _given(key: str, value: Any, standard: Any) -> Sequence[str]:
    return () if value == standard else (f"{key}={value}",)


def _hparam_overrides(algorithm: str, hparams: dict[str, Any]) -> Sequence[str]:
    if not hparams:
        return ()
    cls = algorithms[algorithm]
    fields = {fact.key: f"optim.{name}" for name, fact in facts(Optim, cls.optim_fields).items()}
    fields |= {fact.key: f"algorithm.{name}" for name, fact in facts(cls.HParams).items()}
    for key in hparams:
        if key not in fields:
            raise UnknownName(f"hyper-parameter of DomainBed for {algorithm}", key, fields)
    return [f"{fields[key]}={json.dumps(value)}" for key, value in hparams.items()]
