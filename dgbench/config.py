"""From what a user writes (`algorithm=vrex dataset=pacs optim.lr=1e-4`) to one fully resolved run.

Explicit value > draw (`hparams_seed` > 0) > default. What is resolved here is what is printed, recorded and hashed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dgbench import composition, description, hparams, plugins, tuning
from dgbench.dataset import Card, MultiDomainDataset
from dgbench.hparams import Optim, seed_hash
from dgbench.keys import Keys, NetworkOptions, TrainerOptions, typed
from dgbench.network import network_recipe
from dgbench.protocol import DOMAIN_SETS, Domains, Protocol, domain_sets, named_domains, resolve_domains
from dgbench.registry import UnknownName, algorithms
from dgbench.run import Run, open_dataset


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
    seed = keys.seed
    if seed is None:
        # DomainBed's, and for further draws of the data one of their own: they are trials too.
        drawn = getattr(dataset.options, "data_seed", 0)
        facts: tuple[Any, ...] = (dataset_name, algorithm_name, list(domains.test), keys.hparams_seed, keys.trial_seed)
        seed = seed_hash(*facts, *([drawn] if drawn else []))
    run = Run(
        algorithm=algorithm_name,
        version=cls.version,
        hp=hp,
        optim=optim,
        dataset=dataset,
        dataset_name=dataset_name,
        domains=domains,
        protocol=protocol,
        network=network,
        recipe=_recipe(network, optim),
        trainer=typed(TrainerOptions, nodes["trainer"], "trainer."),
        keys=keys,
        seed=seed,
        tuned=None,
        config=config,
    )
    return run if keys.hparams_from is None else _tuned(run, nodes)


def _tuned(run: Run, nodes: Mapping[str, Mapping[str, Any]]) -> Run:
    """The run with the hyper-parameters that another sweep chose; what the user writes still stands."""
    sweep = str(run.keys.hparams_from)
    plain = dataclasses.replace(run, keys=dataclasses.replace(run.keys, label=None))
    facts = {**description.columns(plain), "splits": run.protocol.splits}
    if run.keys.hparams_seed != 0:
        raise ValueError(
            f"hparams_seed={run.keys.hparams_seed} draws hyper-parameters, and hparams_from={sweep} has them chosen. "
            "Leave one of the two out."
        )
    said = tuning.chosen(sweep, run.keys.hparams_by, facts)
    hp = _with_explicit(type(run.hp)(**said.pop("hparams")), nodes["algorithm"], "algorithm.")
    optim = _with_explicit(Optim(**said.pop("optim")), nodes["optim"], "optim.")
    optim = dataclasses.replace(optim, num_steps=run.protocol.num_steps)
    return dataclasses.replace(run, hp=hp, optim=optim, recipe=_recipe(run.network, optim), tuned=said)


def _recipe(network: NetworkOptions, optim: Optim) -> dict[str, Any]:
    options = {name: value for name, value in dataclasses.asdict(network).items() if name != "name"}
    return network_recipe(network.name, dropout=optim.dropout, **options)


def _protocol(node: Mapping[str, Any], dataset: MultiDomainDataset) -> Protocol:
    protocol, card = typed(Protocol, node, "protocol."), dataset.card
    if protocol.name not in composition.presets():
        # Methods ask for the preset by its name.
        raise UnknownName("protocol (protocol.name; label names a row)", protocol.name, composition.presets())
    protocol = dataclasses.replace(
        protocol,
        num_steps=protocol.num_steps or card.num_steps,
        evaluate_every=protocol.evaluate_every or card.evaluate_every,
        splits=protocol.splits or card.splits,
    )
    if protocol.draw_data_per_run and getattr(dataset.options, "data_seed", 0) != 0:
        raise ValueError(
            f"dataset.data_seed={dataset.options.data_seed} decides nothing under "  # type: ignore[attr-defined]
            "protocol.draw_data_per_run=true, where the run's seed draws the data. Leave one of the two out."
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
    val: Sequence[str | int] | None = keys.val_domains
    if val is None and is_official:
        taken = {*named_domains(test, names, "test_domains"), *named_domains(trained or [], names, "train_domains")}
        val = [name for name in dataset.card.val_domains if name not in taken]
    return resolve_domains(names, test, trained, val, may_share=is_official)


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
        # Without pretrained weights there are no statistics worth keeping.
        is_resnet = re.match(r"timm:resnet\d", network.name) is not None and network.weights is not None
        network = dataclasses.replace(network, freeze_bn=protocol.resnet_freeze_bn and is_resnet)
    return network


def _with_explicit(instance: Any, written: Mapping[str, Any], where: str) -> Any:
    explicit = {name: value for name, value in written.items() if value is not None}
    return typed(type(instance), {**dataclasses.asdict(instance), **explicit}, where)


def _capped(hp: Any, num_steps: int) -> Any:
    """Step counts at most half the run, so that what begins there has time to act."""
    steps = [name for name, fact in hparams.facts(type(hp)).items() if fact.is_step]
    return dataclasses.replace(hp, **{name: min(getattr(hp, name), num_steps // 2) for name in steps})
