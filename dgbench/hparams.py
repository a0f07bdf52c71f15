"""Hyper-parameters: a default, a search distribution and a meaning, written once beside the method.

The draw is DomainBed's: every hyper-parameter has a generator of its own, seeded by hashing its key, so that
adding one never shifts another.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from numpy.random import RandomState

from dgbench.registry import UnknownName

OPTIMIZERS = ("adam", "adamw", "sgd")
REGIMES = ("small", "large", "domain_net")


def seed_hash(*args: object) -> int:
    """Hash what a seed is for into the seed, in [0, 2**31).

    >>> seed_hash(0, 0)
    894182419
    """
    return int(hashlib.md5(str(args).encode("utf-8")).hexdigest(), 16) % 2**31


class Sampler(NamedTuple):
    """A search distribution: how to draw one value, and how to say so."""

    text: str
    sample: Callable[[RandomState], Any]


def uniform(low: float, high: float) -> Sampler:
    """Uniform in [low, high)."""
    return Sampler(f"U({low:g}, {high:g})", lambda r: float(r.uniform(low, high)))


def log10_uniform(low: float, high: float) -> Sampler:
    """Ten to the power of a uniform exponent in [low, high)."""
    return Sampler(f"10^U({low:g}, {high:g})", lambda r: float(10 ** r.uniform(low, high)))


def log10_int(low: float, high: float) -> Sampler:
    """As `log10_uniform`, cut to an integer."""
    return Sampler(f"int 10^U({low:g}, {high:g})", lambda r: int(10 ** r.uniform(low, high)))


def log2_int(low: float, high: float) -> Sampler:
    """Two to the power of a uniform exponent in [low, high), cut to an integer."""
    return Sampler(f"int 2^U({low:g}, {high:g})", lambda r: int(2 ** r.uniform(low, high)))


def uniform_int(low: float, high: float) -> Sampler:
    """Uniform in [low, high), cut to an integer."""
    return Sampler(f"int U({low:g}, {high:g})", lambda r: int(r.uniform(low, high)))


def choices(*values: Any) -> Sampler:
    """One of `values`, all equally likely."""
    return Sampler("{" + ", ".join(map(str, values)) + "}", lambda r: values[int(r.randint(len(values)))])


def fixed(value: Any) -> Sampler:
    """Always `value`: a hyper-parameter that sweeps do not search."""
    return Sampler("fixed", lambda r: value)


class Choice(NamedTuple):
    """Default and search distribution in one regime."""

    default: Any
    sampler: Sampler


@dataclass(frozen=True)
class HParam:
    """What the file of a method says about one of its hyper-parameters."""

    name: str
    doc: str
    key: str
    is_step: bool
    by_regime: Mapping[str, Choice]
    presets: Mapping[str, Any]

    def choice(self, regime: str) -> Choice:
        """Default and distribution in `regime`; regimes that are not spelled out follow `large`."""
        if regime not in REGIMES:
            raise UnknownName("regime", regime, REGIMES)
        return self.by_regime[regime if regime in self.by_regime else "large"]


def hparam(
    default: Any,
    sampler: Sampler,
    doc: str,
    *,
    key: str | None = None,
    is_step: bool = False,
    presets: Mapping[str, Any] | None = None,
    may_be_infinite: bool = False,
) -> Any:
    """A hyper-parameter: a dataclass field with its search distribution and meaning.

    Args:
        default: value at `hparams_seed=0`.
        sampler: search distribution, e.g. `log10_uniform(-1, 5)`.
        doc: meaning, unit, symbol in the paper.
        key: seeds the draw; DomainBed's name where it has one, so that sweeps draw DomainBed's own values.
        is_step: the value counts training steps (it is capped so that it takes effect within the run).
        presets: the value under a named protocol preset.
        may_be_infinite: infinity has a meaning, which `doc` says.
    """
    facts = {
        "by_regime": {"large": Choice(default, sampler)},
        "doc": doc,
        "key": key,
        "is_step": is_step,
        "presets": presets or {},
    }
    metadata = {"hparam": facts, "may_be_infinite": may_be_infinite}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def by_regime(doc: str, *, key: str | None = None, is_step: bool = False, **regimes: tuple[Any, Sampler]) -> Any:
    """A hyper-parameter whose default and distribution depend on the data's regime.

    Args:
        doc: meaning, unit, symbol in the paper.
        key: as in `hparam`.
        is_step: as in `hparam`.
        regimes: `(default, sampler)` for `small` and `large`, and `domain_net` where it differs from `large`.

    Raises:
        UnknownName: no such regime.
        ValueError: `large` is missing.
    """
    for regime in regimes:
        if regime not in REGIMES:
            raise UnknownName("regime", regime, REGIMES)
    if "large" not in regimes:
        raise ValueError(f"by_regime gives {', '.join(regimes)}, expected also large, which the others follow.")
    facts = {
        "by_regime": {regime: Choice(*choice) for regime, choice in regimes.items()},
        "doc": doc,
        "key": key,
        "is_step": is_step,
        "presets": {},
    }
    return field(default=None, metadata={"hparam": facts})


def like(name: str, doc: str = "", *, key: str | None = None) -> Any:
    """A hyper-parameter distributed as `name` of `Optim`, by a draw of its own: a second learning rate, say.

    Raises:
        UnknownName: `Optim` has no such field.
    """
    if name not in _OPTIM_FACTS:
        raise UnknownName("field of Optim", name, _OPTIM_FACTS)
    facts = _OPTIM_FACTS[name]
    return field(default=None, metadata={"hparam": {**facts, "doc": doc or facts["doc"], "key": key}})


_SMALL_LR = (1e-3, log10_uniform(-4.5, -2.5))
_LARGE_LR = (5e-5, log10_uniform(-5, -3.5))


@dataclass(kw_only=True)
class Optim:
    """How the weights are updated; what depends on the data's regime is filled by `draw` or `default_optim`."""

    lr: float | None = by_regime("learning rate", key="lr", small=_SMALL_LR, large=_LARGE_LR)
    weight_decay: float | None = by_regime(
        "weight decay", key="weight_decay", small=(0.0, fixed(0.0)), large=(0.0, log10_uniform(-6, -2))
    )
    batch_size: int | Literal["all"] | None = by_regime(
        "examples per training domain in a batch, or all",
        key="batch_size",
        small=(64, log2_int(3, 9)),
        large=(32, log2_int(3, 5.5)),
        domain_net=(32, log2_int(3, 5)),
    )
    dropout: float = hparam(0.0, choices(0.0, 0.1, 0.5), "dropout rate on the features", key="resnet_dropout")
    optimizer: str = hparam("adam", fixed("adam"), "adam, adamw or sgd (momentum 0.9)")
    num_steps: int | None = None  # filled from the protocol; no key of its own

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"optim.{name}={value}, expected at least 0.")
        if isinstance(self.batch_size, str) and self.batch_size != "all":
            raise ValueError(f"optim.batch_size={self.batch_size}, expected a number, or all.")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"optim.batch_size={self.batch_size}, expected at least 1, or all.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"optim.dropout={self.dropout}, expected at least 0 and less than 1.")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)


_OPTIM_FACTS: dict[str, dict[str, Any]] = {
    f.name: dict(f.metadata["hparam"]) for f in dataclasses.fields(Optim) if "hparam" in f.metadata
}


def facts(hparams: type, overrides: Mapping[str, Any] | None = None) -> dict[str, HParam]:
    """What a dataclass of hyper-parameters says about each, by field name.

    Args:
        hparams: dataclass of `hparam` fields.
        overrides: fields that replace those of the same name (a method's `optim_fields`).
    """
    fields = {f.name: f.metadata.get("hparam") for f in dataclasses.fields(hparams)}
    fields |= {name: f.metadata["hparam"] for name, f in (overrides or {}).items()}
    return {
        name: HParam(
            name,
            said["doc"],
            said["key"] or name,
            said["is_step"],
            said["by_regime"],
            said["presets"],
        )
        for name, said in fields.items()
        if said is not None
    }


def draw(
    hparams: type,
    hparams_seed: int,
    trial_seed: int = 0,
    *,
    regime: str = "large",
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Any:
    """An instance of `hparams`: defaults for `hparams_seed` 0, a random draw otherwise.

    Values are plain Python. `R = seed_hash(hparams_seed, trial_seed)` and the generator of a field is
    `RandomState(seed_hash(R, key))`: the draw differs between trials, as DomainBed's does.

    Args:
        hparams: dataclass of `hparam` fields.
        hparams_seed: which draw.
        trial_seed: which trial.
        regime: small, large or domain_net.
        overrides: fields that replace those of the same name (a method's `optim_fields`).
        preset: the protocol's preset; a field that names a value for it always has that.

    >>> draw(Optim, 1, 0, regime="large").batch_size
    39
    """
    root = seed_hash(hparams_seed, trial_seed)
    generator = RandomState(0)  # seeding one anew is much cheaper than making one for each value
    values = {}
    for name, fact in facts(hparams, overrides).items():
        choice = fact.choice(regime)
        if preset is not None and preset in fact.presets:
            values[name] = fact.presets[preset]
        elif hparams_seed == 0:
            values[name] = choice.default
        else:
            generator.seed(seed_hash(root, fact.key))
            values[name] = choice.sampler.sample(generator)
    return hparams(**copy.deepcopy(values))  # a list among them is the instance's own


def filled(instance: Any, regime: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """A copy in which fields left None take the default of `regime`."""
    defaults = {name: fact.choice(regime).default for name, fact in facts(type(instance), overrides).items()}
    missing = {name: value for name, value in defaults.items() if getattr(instance, name) is None}
    return dataclasses.replace(instance, **copy.deepcopy(missing))


def check_finite(instance: Any, where: str) -> None:
    """Refuse, of what a user wrote, NaN, and infinity where the field does not say that it has a meaning.

    Raises:
        ValueError: such a number; `where` is the prefix of its key.
    """
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        may_be = isinstance(value, float) and math.isinf(value) and f.metadata.get("may_be_infinite")
        if isinstance(value, float) and not math.isfinite(value) and not may_be:
            raise ValueError(f"{where}{f.name}={value}, expected a finite number. Set it to one, or leave it out.")
