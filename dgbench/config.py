"""From what a user writes (`algorithm=vrex dataset=pacs optim.lr=1e-4`) to one fully resolved run.

Explicit value > draw (`hparams_seed` > 0) > default. What is resolved here is what is printed, recorded and hashed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pydantic

from dgbench import hparams, plugins, record
from dgbench.dataset import Card, GeneratedOptions, MultiDomainDataset
from dgbench.devices import check_devices
from dgbench.hparams import Optim, seed_hash
from dgbench.network import network_recipe
from dgbench.protocol import DOMAIN_SETS, Domains, Protocol, domain_sets, named_domains, resolve_domains
from dgbench.registry import UnknownName, algorithms, datasets
from dgbench.selection import selection

CHECKPOINTS = ("none", "selected", "all")
LOGGERS = ("none", "wandb")
HPARAMS_PER = ("trial", "sweep")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(kw_only=True)
class NetworkOptions:
    """The keys `network.*`."""

    name: str = "auto"
    width: int | None = None
    depth: int | None = None
    activation: str | None = None
    init: str | None = None
    norm: str | None = None
    normalise: str | None = None
    weights: str | None = None
    freeze_bn: bool | None = None
    channels_last: bool = False
    compile: bool = False


@dataclass(kw_only=True)
class TrainerOptions:
    """The keys `trainer.*`."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    deterministic: bool = True
    benchmark: bool = False

    def __post_init__(self) -> None:
        if self.devices != 1 or self.strategy != "auto":
            raise ValueError(
                f"trainer.devices={self.devices} trainer.strategy={self.strategy}: a run uses one device in this "
                "version. Leave them 1 and auto, and start several runs at once with hydra/launcher=joblib."
            )
        if self.accumulate_grad_batches < 1:
            raise ValueError(f"trainer.accumulate_grad_batches={self.accumulate_grad_batches}, expected at least 1.")
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"trainer.gradient_clip_val={self.gradient_clip_val}, expected more than 0, or null.")
        if self.precision not in PRECISIONS:
            raise UnknownName("precision (trainer.precision)", self.precision, PRECISIONS)


@dataclass(kw_only=True)
class Keys:
    """The keys of a run outside the groups; `configs/config.yaml` says what each means."""

    data_dir: str
    runs_dir: str
    plugins: list[str]
    test_domains: str | int | list[str | int]
    train_domains: list[str | int] | None
    val_domains: list[str | int] | None
    hparams_seed: int
    hparams_per: str
    hparams_from: str | None
    trial_seed: int
    seed: int | None
    averaging: str
    logger: str
    group: str | None
    label: str | None
    criteria: list[str] | None
    checkpoints: str
    overwrite: bool
    retry: bool
    workers: int
    threads: int | None
    devices: Any
    runs_per_device: int

    def __post_init__(self) -> None:
        for name, known in (
            ("checkpoints", CHECKPOINTS),
            ("logger", LOGGERS),
            ("averaging", ("none",)),
            ("hparams_per", HPARAMS_PER),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(f"value of {name}", getattr(self, name), known)
        for name in self.criteria or ():
            selection(name)
        for name in ("hparams_seed", "trial_seed", "seed", "workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}, expected 0 or more.")
        check_devices(self.devices, self.runs_per_device)


@dataclass(kw_only=True)
class Run:
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

    @functools.cached_property
    def run_id(self) -> str:
        """The name of the run's folder."""
        return record.identity_hash(self.identity)

    @property
    def folder(self) -> record.RunFolder:
        """Where the run is, or will be."""
        return record.RunFolder(Path(self.keys.runs_dir).expanduser() / self.run_id)

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


def typed(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a dataclass from what a user wrote.

    Args:
        cls: the dataclass.
        values: its fields.
        where: prefix of the keys in messages.

    Raises:
        UnknownName: a field that the dataclass does not have.
        ValueError: a value of another type.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise UnknownName("key", where + name, [where + k for k in known])
    try:
        return _adapter(cls).validate_python(dict(values))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ValueError):
            raise cause from error
        name = where + str(first["loc"][0])
        raise ValueError(f"{name}={first['input']!r}: {first['msg'].lower()}.") from error


@functools.cache
def _adapter(cls: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(cls)


@functools.lru_cache(maxsize=4)
def _opened(cls: type[MultiDomainDataset], data_dir: str, options: str) -> MultiDomainDataset:
    return cls(data_dir, **json.loads(options))


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


def resolve(config: Mapping[str, Any]) -> Run:
    """Fill everything that a composed configuration leaves open.

    Raises:
        UnknownName: a name that does not exist.
        ValueError: a value that does not fit.
    """
    config = dict(config)
    nodes = {name: dict(config[name]) for name in ("algorithm", "dataset", "protocol", "optim", "network", "trainer")}
    keys = typed(Keys, {key: value for key, value in config.items() if key not in nodes}, "")
    plugins.add(keys.plugins)
    config["plugins"] = plugins.in_effect()
    algorithm_name, dataset_name = nodes["algorithm"].pop("name"), nodes["dataset"].pop("name")
    cls = algorithms[algorithm_name]
    dataset = open_dataset(dataset_name, keys.data_dir, nodes["dataset"])
    card = dataset.card
    dataset.task.check_scale(dataset.options.target_scale)
    protocol = _protocol(nodes["protocol"], dataset)
    domains = _domains(keys, protocol, dataset)

    trial = keys.trial_seed if keys.hparams_per == "trial" else 0
    common: Any = {"regime": card.regime, "preset": protocol.name}
    hp = hparams.draw(cls.HParams, keys.hparams_seed, trial, **common)
    if protocol.cap_steps:
        hp = _capped(hp, protocol.num_steps or 0)
    optim = hparams.draw(Optim, keys.hparams_seed, trial, overrides=cls.optim_fields, **common)
    network = _network(typed(NetworkOptions, nodes["network"], "network."), protocol, card)
    hp = _with_explicit(hp, nodes["algorithm"], "algorithm.")
    optim = dataclasses.replace(_with_explicit(optim, nodes["optim"], "optim."), num_steps=protocol.num_steps)
    options = {name: value for name, value in dataclasses.asdict(network).items() if name != "name"}
    seed = keys.seed
    if seed is None:
        seed = seed_hash(dataset_name, algorithm_name, list(domains.test), keys.hparams_seed, keys.trial_seed)
    return Run(
        algorithm=algorithm_name,
        version=cls.version,
        hp=hp,
        optim=optim,
        dataset=dataset,
        dataset_name=dataset_name,
        domains=domains,
        protocol=protocol,
        network=network,
        recipe=network_recipe(network.name, dropout=optim.dropout, **options),
        trainer=typed(TrainerOptions, nodes["trainer"], "trainer."),
        keys=keys,
        seed=seed,
        tuned=None,
        config=config,
    )


def _protocol(node: Mapping[str, Any], dataset: MultiDomainDataset) -> Protocol:
    protocol, card = typed(Protocol, node, "protocol."), dataset.card
    protocol = dataclasses.replace(
        protocol,
        num_steps=protocol.num_steps or card.num_steps,
        evaluate_every=protocol.evaluate_every or card.evaluate_every,
        splits=protocol.splits or card.splits,
    )
    if protocol.splits == "official" and dataset.splits is None:
        raise ValueError(f"protocol.splits=official, but {type(dataset).__name__} declares no splits. Leave it random.")
    return protocol


def _domains(keys: Keys, protocol: Protocol, dataset: MultiDomainDataset) -> Domains:
    names, (train, _) = dataset.domain_names, dataset.designated
    if keys.test_domains in DOMAIN_SETS:
        sets = domain_sets(str(keys.test_domains), names, dataset.designated)
        if len(sets) > 1:
            raise ValueError(
                f"test_domains={keys.test_domains} asks for {len(sets)} runs. Add -m, or name one: "
                f"test_domains=[{','.join(sets[0][1])}]."
            )
        test: Sequence[str | int] = sets[0][1]
    else:
        test = keys.test_domains if isinstance(keys.test_domains, list) else [keys.test_domains]
    is_official = protocol.splits == "official"
    trained: Sequence[str | int] | None = keys.train_domains
    if trained is None and train:
        tested = () if is_official else named_domains(test, names, "test_domains")
        trained = [name for name in train if name not in tested]
    return resolve_domains(names, test, trained, keys.val_domains, may_share=is_official)


def _network(network: NetworkOptions, protocol: Protocol, card: Card) -> NetworkOptions:
    """The card's network if none is named; for ResNets what the protocol says of them."""
    if network.name == "auto":
        standard = card.weights
        if standard is not None and card.network.startswith("timm:resnet"):
            standard = protocol.resnet_weights or standard
        network = dataclasses.replace(network, name=card.network, weights=network.weights or standard)
    if network.weights == "none":
        network = dataclasses.replace(network, weights=None)
    if network.freeze_bn is None:
        frozen = protocol.resnet_freeze_bn and network.name.startswith("timm:resnet")
        network = dataclasses.replace(network, freeze_bn=frozen)
    return network


def _with_explicit(instance: Any, written: Mapping[str, Any], where: str) -> Any:
    explicit = {name: value for name, value in written.items() if value is not None}
    return typed(type(instance), {**dataclasses.asdict(instance), **explicit}, where)


def _capped(hp: Any, num_steps: int) -> Any:
    """Step counts at most half the run, so that what begins there has time to act."""
    steps = [name for name, fact in hparams.facts(type(hp)).items() if fact.is_step]
    return dataclasses.replace(hp, **{name: min(getattr(hp, name), num_steps // 2) for name in steps})
