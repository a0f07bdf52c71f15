"""One adaptation, resolved: a trained run, an adapter and a stream."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dgbench import composition, hparams, plugins, record
from dgbench.expansion import choices
from dgbench.keys import LOGGERS, typed
from dgbench.registry import UnknownName, adapters
from dgbench.selection import selection
from dgbench.stream import STREAMS
from dgbench.trained import DEFAULT

ACCELERATORS = ("auto", "cpu", "gpu")
TARGETS = ("test", "validation")
# The groups of keys, and what a command that names none takes.
GROUPS = {"adapter": "source", "stream": "online"}
# Columns of a trained run that tables of its adaptations have too.
OF_THE_SOURCE = (
    *("dataset", "data", "dataset_domains", "train_domains", "val_domains", "test_domains", "score"),
    *("protocol_key", "network", "network_key", "algorithm", "averaging", "label", "variant", "tuned"),
    *("trial_seed", "data_seed"),
)


@dataclass(kw_only=True)
class AdaptKeys:
    """The keys of an adaptation outside the groups; `configs/adapt.yaml` says what each means."""

    runs: str | list[str]
    step: int | None
    criterion: str
    batch_size: int
    examples: int | None
    seed: int
    target: str
    hparams_seed: int
    source_after: bool
    data_dir: str | None
    runs_dir: str
    plugins: list[str]
    logger: str
    group: str | None
    overwrite: bool
    retry: bool
    skip_refused: bool
    accelerator: str
    threads: int | None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("examples", 1), ("seed", 0), ("hparams_seed", 0), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}, expected {least} or more.")
        for name, known in (("accelerator", ACCELERATORS), ("target", TARGETS), ("logger", LOGGERS)):
            if getattr(self, name) not in known:
                raise UnknownName(f"value of {name}", getattr(self, name), known)
        if selection(self.criterion).needs_pairs:
            raise ValueError(
                f"criterion={self.criterion} compares runs that leave out two domains, and an adaptation has one run. "
                "Name another, or a step."
            )
        if self.step is not None and self.criterion != DEFAULT:
            raise ValueError(f"step={self.step} and criterion={self.criterion} both choose weights. Leave out one.")


@dataclass(kw_only=True)
class Adaptation(record.Recorded):
    """What is adapted, by what, on which stream."""

    trained: record.RunFolder
    said: Mapping[str, Any] = field(repr=False)
    """The run.json of the trained run."""
    adapter: str
    version: int
    hp: Any
    stream: str
    options: Any
    """Of the stream."""
    keys: AdaptKeys
    config: dict[str, Any] = field(repr=False)
    """The composed configuration this was resolved from."""
    overrides: tuple[str, ...] = field(default=(), repr=False)
    """What a worker process composes it from."""

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers."""
        keys = self.keys
        return {
            "schema": record.SCHEMA,
            "kind": "adapt",
            "source": self.said["run_id"],
            "step": keys.step,
            "criterion": keys.criterion,
            "adapter": {"name": self.adapter, "version": self.version, "hparams": dataclasses.asdict(self.hp)},
            "stream": {"name": self.stream, "options": dataclasses.asdict(self.options)},
            "seed": self.seed,
            **{name: getattr(keys, name) for name in ("batch_size", "examples", "target", "source_after")},
        }

    @functools.cached_property
    def seed(self) -> int:
        """Of all randomness: another one in each dataset and trial, the same for all adapters."""
        theirs = self.said["columns"]
        return hparams.seed_hash("adapt", theirs["dataset"], theirs["trial_seed"], self.keys.seed)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.adapter} on {self.stream}, {self.said['label']}"

    @property
    def columns(self) -> dict[str, Any]:
        """What tables group by."""
        theirs = self.said["columns"]
        # Models of several draws are several models; those that a search chose may be of any draw.
        draw = theirs["hparams"] if theirs["hparams_seed"] == 0 else f"hparams_seed={theirs['hparams_seed']}"
        usual = self.options.__class__()
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options)}
        changed = [f"{name}={value}" for name, value in options.items() if value != getattr(usual, name)]
        return {
            **{name: theirs[name] for name in OF_THE_SOURCE},
            "norm": self.said["identity"]["network"].get("norm") or "",
            "draw": "" if theirs["tuned"] else draw,
            "source": self.said["run_id"],
            "source_step": self.keys.step,
            "source_criterion": self.keys.criterion,
            "adapter": self.adapter,
            "adapter_hparams": record.identity_hash(self.identity["adapter"]),
            "hparams_seed": self.keys.hparams_seed,
            "stream": self.stream,
            "stream_options": ", ".join(changed),
            "stream_key": record.identity_hash(self.identity["stream"]),
            **{name: getattr(self.keys, name) for name in ("batch_size", "examples", "seed", "target")},
        }


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The whole configuration that some overrides ask for, as plain Python.

    Raises:
        UnknownName: an adapter, a stream or a key that does not exist.
        ValueError: anything else that Hydra refuses.
    """
    parsed = composition.parse(overrides)
    chosen = {group: register(parsed, group)[0] for group in GROUPS}
    lines = [override.input_line or "" for override in parsed]
    try:
        container = OmegaConf.to_container(composition.composed(lines, "adapt"), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        fields = {"adapter": adapters[chosen["adapter"]].HParams, "stream": STREAMS[chosen["stream"]].Options}
        known = [f.name for f in dataclasses.fields(AdaptKeys)]
        known += [f"{group}.{f.name}" for group, cls in fields.items() for f in dataclasses.fields(cls)]
        for key in (override.get_key_element() for override in parsed):
            if key not in (*known, *GROUPS):
                place = key.rpartition(".")[0]
                siblings = [name for name in known if place and name.startswith(f"{place}.")]
                raise UnknownName(
                    f"key of adapter={chosen['adapter']} stream={chosen['stream']}", key, siblings or known
                ) from error
        raise ValueError(" ".join(str(error).split())) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def register(parsed: Sequence[Override], group: str) -> list[str]:
    """Make adapters or streams choices of Hydra, those that some overrides name with all their keys; these names.

    Raises:
        UnknownName: one that does not exist.
    """
    composition.register_sweeper()
    names = [GROUPS[group]]
    for override in parsed:
        if override.get_key_element() == group:
            names = [str(getattr(value, "text", value)) for _, _, value in choices(override)]
    for name in names:
        if group == "adapter":
            adapters.place(name)
        elif name not in STREAMS:
            raise UnknownName("stream", name, STREAMS)
    for name in adapters.names() if group == "adapter" else STREAMS:
        node: dict[str, Any] = {"name": name}
        if name in names:
            # Every key is null, so that a value the user writes is told from a default.
            cls = adapters[name].HParams if group == "adapter" else STREAMS[name].Options
            node |= {f.name: None for f in dataclasses.fields(cls)}
        ConfigStore.instance().store(group=group, name=name, node=node, provider="dgbench")
    return names


def resolve(config: Mapping[str, Any], trained: record.RunFolder, overrides: Sequence[str] = ()) -> Adaptation:
    """An adaptation of one trained run.

    Args:
        config: as `compose` gives it.
        trained: the run.
        overrides: what a worker process composes it from.

    Raises:
        UnknownName: a name that does not exist.
        ValueError: a value that does not fit.
    """
    said = trained.read()
    assert said is not None
    resolved, config = check(config), {**config, "plugins": plugins.in_effect()}
    return Adaptation(trained=trained, said=said, config=config, overrides=tuple(overrides), **resolved)


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of an adaptation does not depend on the trained run: its fields adapter to keys.

    Raises:
        UnknownName: a name that does not exist.
        ValueError: a value that does not fit.
    """
    nodes = {name: dict(config[name]) for name in ("adapter", "stream")}
    keys = typed(AdaptKeys, {key: value for key, value in config.items() if key not in nodes}, "")
    plugins.add(keys.plugins)
    adapter, stream = nodes["adapter"].pop("name"), nodes["stream"].pop("name")
    cls = adapters[adapter]
    hp = hparams.draw(cls.HParams, keys.hparams_seed, 0, regime="small")
    return {
        "adapter": adapter,
        "version": cls.version,
        "hp": _explicit(type(hp), dataclasses.asdict(hp), nodes["adapter"], "adapter."),
        "stream": stream,
        "options": _explicit(STREAMS[stream].Options, {}, nodes["stream"], "stream."),
        "keys": keys,
    }


def expand(arguments: Sequence[str]) -> list[Adaptation]:
    """The adaptations that some overrides ask for, each once: of every run in the folders that `runs` names.

    Raises:
        UnknownName: a name or key that does not exist.
        ValueError: an override that cannot be read, or runs that cannot be adapted.
        FileNotFoundError: there is no run.
    """
    overrides = [o for o in composition.parse(arguments) if not o.is_hydra_override()]
    made: dict[str, Adaptation] = {}
    for chosen in itertools.product(*map(choices, overrides)):
        lines = [f"{key}={text}" for key, text, _ in chosen]
        config = compose(lines)
        for trained in trained_runs(config["runs"]):
            kept = [line for line in lines if not line.startswith("runs=")]
            adaptation = resolve(config, trained, (*kept, f"runs={composition.literal(str(trained.path))}"))
            made.setdefault(adaptation.run_id, adaptation)
    return list(made.values())


def trained_runs(paths: str | Sequence[str]) -> list[record.RunFolder]:
    """The complete trained runs in some folders.

    Raises:
        FileNotFoundError: there are none.
    """
    given = [Path(path).expanduser() for path in ([paths] if isinstance(paths, str) else paths)]
    every = [(folder, folder.read() or {"kind": ""}) for folder in record.find(given)]
    found = [folder for folder, said in every if said.get("kind", "train") == "train"]
    complete = [folder for folder in found if folder.status() == "complete"]
    if not complete:
        raise FileNotFoundError(
            f"runs={','.join(map(str, given))} holds {len(found)} trained runs, none of them complete. "
            "Train some first, with checkpoints=selected, and name their folder."
        )
    return complete


def _explicit(cls: type, usual: Mapping[str, Any], written: Mapping[str, Any], where: str) -> Any:
    return typed(cls, {**usual, **{name: value for name, value in written.items() if value is not None}}, where)
