"""From overrides as a user writes them (`algorithm=vrex optim.lr=1e-4`) to one plain configuration."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dgbench import plugins
from dgbench.registry import UnknownName, algorithms, datasets
from dgbench.shelves import configs, presets


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides of a command line, in Hydra's grammar; the plugins that they name are in effect from here on.

    Raises:
        ValueError: an override that is not `key=value`, or a plugin that cannot be used.
    """
    try:
        parsed = OverridesParser.create().parse_overrides([_spelled_out(override) for override in overrides])
    except HydraException as error:
        said = " ".join(str(error).split("See https")[0].split())
        raise ValueError(f"Cannot read an override: {said}. Write key=value, lists as key=[a,b].") from error
    return [_plugged(override) if override.get_key_element() == "plugins" else override for override in parsed]


def _plugged(override: Override) -> Override:
    """Put plugins into effect; afterwards it says all that are, so that a worker anywhere knows them."""
    if override.is_sweep_override():
        raise ValueError(
            f"{override.input_line}: all runs of a command have the same plugins. Write several as plugins=[a,b]."
        )
    value: Any = override.value()
    names = value if isinstance(value, list) else [] if value is None else [value]
    plugins.add(str(getattr(name, "text", name)) for name in names)
    return OverridesParser.create().parse_override(in_effect())


def in_effect() -> str:
    """The override that names all plugins in effect."""
    return f"plugins={literal(plugins.in_effect())}"


def _spelled_out(override: str) -> str:
    """What a person writes and Hydra's grammar does not know.

    `network=NAME` is `network.name=NAME`: a timm model is no file that Hydra could find. A path may begin with `~/`,
    which no shell expands behind `key=`.
    """
    key, equals, value = override.partition("=")
    if key == "network":
        key = "network.name"
    if value.strip("'\"").startswith("~/"):
        value = literal(Path(value.strip("'\"")).expanduser())
    if key == "plugins" and value.startswith("["):
        value = re.sub(r"(?<=[\[,])~/", f"{Path.home()}/", value)
    return f"{key}{equals}{value}"


def demo() -> list[str]:
    """The overrides of `dgbench demo`."""
    return list(OmegaConf.load(configs() / "demo.yaml"))


@functools.cache
def defaults() -> dict[str, str]:
    """The method and the data of a command that names none."""
    config: Any = OmegaConf.load(configs() / "config.yaml")
    return {str(k): str(v) for item in config.defaults if not isinstance(item, str) for k, v in item.items()}


def chosen(parsed: Iterable[Override], group: str) -> list[str]:
    """The choices of `algorithm`, `dataset` or `protocol` that some overrides name, each checked to exist.

    Raises:
        UnknownName: one that does not.
    """
    names = [defaults()[group]]
    for override in parsed:
        if override.get_key_element() == group:
            values = override.sweep_iterator() if override.is_discrete_sweep() else [override.value()]
            names = [str(getattr(value, "text", value)) for value in values]
    for name in names:
        if group == "protocol" and name not in presets():
            raise UnknownName("protocol", name, presets())
        if group != "protocol":
            {"algorithm": algorithms, "dataset": datasets}[group].place(name)
    return names


def literal(value: Any) -> str:
    """A Python value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(literal, value))}]"
    return QuotedString(text=str(value), quote=Quote.single).with_quotes()


def bare(value: Any) -> str:
    """As `literal`, strings without quotes where they are the same: for people, who read them in a shell's quotes."""
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(bare, value))}]"
    return value if isinstance(value, str) and _is_itself(value) else literal(value)


def _is_itself(text: str) -> bool:
    """Whether Hydra's grammar reads a text as that string, alone and in a list."""
    try:
        one, several = OverridesParser.create().parse_overrides([f"key={text}", f"key=[{text}]"])
    except HydraException:
        return False
    return not one.is_sweep_override() and one.value() == text and several.value() == [text]


def register(chosen_algorithms: Iterable[str] = (), chosen_datasets: Iterable[str] = ()) -> None:
    """Make every component a choice of Hydra's groups; the chosen ones with all their keys.

    Every key is null, so that a value the user writes is told from a default.
    """
    store = ConfigStore.instance()
    register_sweeper()
    for group, registry, chosen, attribute in (
        ("algorithm", algorithms, set(chosen_algorithms), "HParams"),
        ("dataset", datasets, set(chosen_datasets), "Options"),
    ):
        for name in registry.names():
            node: dict[str, Any] = {"name": name}
            if name in chosen:
                node |= {f.name: None for f in dataclasses.fields(getattr(registry[name], attribute))}
            store.store(group=group, name=name, node=node, provider="dgbench")


def register_sweeper() -> None:
    """Make our sweeper a choice of Hydra's."""
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="dgbench",
        node={"_target_": "hydra_plugins.dgbench_sweeper.DGBenchSweeper", "command": "train", "arguments": []},
        provider="dgbench",
    )


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The whole configuration that some overrides ask for, as plain Python.

    Raises:
        UnknownName: a key, a method or a dataset that does not exist.
        ValueError: anything else that Hydra refuses.
    """
    parsed = parse(overrides)
    algorithm, dataset, _ = (chosen(parsed, group) for group in ("algorithm", "dataset", "protocol"))
    register(algorithm, dataset)
    lines = [override.input_line or "" for override in parsed]
    try:
        container = OmegaConf.to_container(composed(lines), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        _raise_unknown_key(lines, algorithm, dataset, error)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def command(config: Mapping[str, Any], **changes: Any) -> str:
    """The command that makes a run of a composed configuration, as short as it can be.

    Its method and its data need not be known here: nothing of them is imported.

    Args:
        config: as `compose` gives it and a run records it.
        changes: keys with other values.
    """
    groups = [f"{group}={bare(config[group]['name'])}" for group in ("algorithm", "dataset", "protocol")]
    usual, wanted = _leaves(compose(groups[2:])), _leaves({**config, **changes})
    # A component's keys are null if not written, as `register` makes them.
    usual = {key: value for key, value in usual.items() if not key.startswith(_COMPONENTS)}
    usual |= {key: None for key in wanted if key.startswith(_COMPONENTS)}
    usual |= {f"{group}.name": config[group]["name"] for group in ("algorithm", "dataset")}
    own = [f"{key}={bare(value)}" for key, value in wanted.items() if key not in usual or usual[key] != value]
    return shlex.join(["dgbench", "train", *groups, *own])


_COMPONENTS = ("algorithm.", "dataset.")


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        flat |= _leaves(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def composed(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Hydra's composition, also from inside a Hydra application, whose own state is put aside for it."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(version_base=None, config_module="dgbench.configs"):
            return hydra_compose(config_name=config_name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = outer


def _raise_unknown_key(lines: list[str], algorithm: list[str], dataset: list[str], error: Exception) -> None:
    """Say which key is unknown and what it may have meant; otherwise say what Hydra said."""
    base = composed([f"algorithm={algorithm[0]}", f"dataset={dataset[0]}"])
    known = _paths(OmegaConf.to_container(base, resolve=False))
    for line in lines:
        key = line.split("=")[0].lstrip("+~")
        if key not in known and not key.startswith("hydra"):
            node = key.rpartition(".")[0]
            siblings = [name for name in known if node and name.startswith(f"{node}.")]
            if key.startswith("trainer.") and not difflib.get_close_matches(key, siblings, n=1, cutoff=0.85):
                raise ValueError(
                    f"{key} is not open: dgbench sets the rest of the Trainer itself. Known: {', '.join(siblings)}."
                ) from error
            raise UnknownName("key", key, siblings or known) from error
    raise ValueError(" ".join(str(error).split())) from error


def _paths(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return [prefix]
    inner = [path for key, value in node.items() for path in _paths(value, f"{prefix}.{key}" if prefix else str(key))]
    return ([prefix] if prefix else []) + inner
