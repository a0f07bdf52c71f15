"""One run, resolved: what it is called, what identifies it, what it is made of."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from dgbench import record
from dgbench.dataset import GeneratedOptions, MultiDomainDataset
from dgbench.hparams import Optim
from dgbench.keys import Keys, NetworkOptions, TrainerOptions, typed
from dgbench.protocol import Domains, Protocol
from dgbench.registry import datasets


@dataclass(kw_only=True)
class Run(record.Recorded):
    """One run, resolved: every value that decides its numbers, and where and how it is run."""

    algorithm: str
    version: int
    hp: Any
    optim: Optim
    dataset: MultiDomainDataset
    dataset_name: str
    domains: Domains
    protocol: Protocol
    network: NetworkOptions
    recipe: dict[str, Any]
    """The network's options with its defaults filled in."""
    trainer: TrainerOptions
    keys: Keys
    seed: int
    tuned: dict[str, Any] | None
    """Where the hyper-parameters were chosen, if a sweep was asked for them."""
    config: dict[str, Any] = field(repr=False)
    """The composed configuration this was resolved from."""

    @functools.cached_property
    def data(self) -> MultiDomainDataset:
        """The examples: those of `dataset`, or, where every run draws its own, those of the run's seed."""
        if not self.draws_data:
            return self.dataset
        options = {**dataclasses.asdict(self.dataset.options), "data_seed": self.seed}
        return type(self.dataset)(self.keys.data_dir, **options)

    @property
    def draws_data(self) -> bool:
        """Whether the data are drawn from the run's seed."""
        return self.protocol.draw_data_per_run and isinstance(self.dataset.options, GeneratedOptions)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers; no path, no machine, no code version."""
        trainer = self.trainer
        return {
            "schema": record.SCHEMA,
            "kind": "train",
            "dataset": {
                "name": self.dataset_name,
                "version": self.dataset.card.version,
                "options": self.dataset.describe_options() | ({"data_seed": "seed"} if self.draws_data else {}),
                "fingerprint": fingerprint(self.dataset),
            },
            "domains": dataclasses.asdict(self.domains),
            "protocol": self.protocol.decisive,
            "network": self.recipe,
            "algorithm": {
                "name": self.algorithm,
                "version": self.version,
                "hparams": dataclasses.asdict(self.hp),
            },
            "optim": dataclasses.asdict(self.optim),
            "averaging": self.keys.averaging,
            "trainer": {
                "precision": trainer.precision,
                "accumulate_grad_batches": trainer.accumulate_grad_batches,
                "gradient_clip_val": trainer.gradient_clip_val,
                "devices": trainer.devices,
            },
            "seed": self.seed,
            "trial_seed": self.keys.trial_seed,
            # What sets a run apart from another of equal numbers, so that each has its own row.
            "label": self.keys.label,
            "tuned": self.tuned,
        }

    @property
    def label(self) -> str:
        """What a person calls it."""
        trial = f"h{self.keys.hparams_seed} t{self.keys.trial_seed}"
        name = self.keys.label or self.algorithm
        return f"{name} on {self.dataset_name}, test {'+'.join(self.domains.test)}, {trial}"


_FINGERPRINTS: WeakKeyDictionary[MultiDomainDataset, str] = WeakKeyDictionary()


def fingerprint(dataset: MultiDomainDataset) -> str:
    """The dataset's fingerprint, computed once per object."""
    if dataset not in _FINGERPRINTS:
        _FINGERPRINTS[dataset] = dataset.fingerprint()
    return _FINGERPRINTS[dataset]


_ALIVE: WeakValueDictionary[tuple[type, str, str], MultiDomainDataset] = WeakValueDictionary()


@functools.lru_cache(maxsize=4)
def _opened(cls: type[MultiDomainDataset], data_dir: str, options: str) -> MultiDomainDataset:
    # Runs that wait keep theirs: a sweep over many datasets in turn must not read each again for every run.
    made = _ALIVE.get((cls, data_dir, options)) or cls(data_dir, **json.loads(options))
    _ALIVE[cls, data_dir, options] = made
    return made


def open_dataset(name: str, data_dir: str, options: Mapping[str, Any]) -> MultiDomainDataset:
    """A dataset by name; the same object for the same options, so that a sweep reads it once.

    Args:
        name: of the registry.
        data_dir: folder under which datasets keep their files.
        options: fields of its `Options` that are not null.
    """
    cls = datasets[name]
    given = {key: value for key, value in options.items() if value is not None}
    checked = dataclasses.asdict(typed(cls.Options, given, "dataset."))
    return _opened(cls, str(data_dir), json.dumps(checked, sort_keys=True))
