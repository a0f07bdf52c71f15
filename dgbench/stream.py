"""The test streams: in which order the examples of the test domains reach an adapter, and when it starts afresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from dgbench.corruption import FAMILIES, SEVERITIES, STANDARD
from dgbench.dataset import option
from dgbench.hparams import check_finite, seed_hash
from dgbench.label_order import ORDERS
from dgbench.loader import Split
from dgbench.registry import UnknownName
from dgbench.visit import MIXED, Arrival, Block, Stream, Visit

__all__ = ["STREAMS", "Arrival", "Block", "Stream", "Visit", "make_stream"]


class Online(Stream):
    """One domain after the other; the adapter starts afresh in each."""

    def blocks(self) -> Iterator[Block]:
        """A block per domain."""
        for name in self.names:
            yield Block(name, self.rows(name), resets=True)


class Episodic(Online):
    """One domain after the other; the adapter starts afresh with every batch."""

    episodic = True


@dataclass(kw_only=True)
class ContinualOptions:
    """Options of `continual`."""

    rounds: int = option(1, "how often the sequence of domains comes")

    def __post_init__(self) -> None:
        _at_least("rounds", self.rounds, 1)


class Continual(Stream):
    """One domain after the other, the whole sequence several times; the adapter never starts afresh."""

    Options = ContinualOptions

    def blocks(self) -> Iterator[Block]:
        """A block per round and domain."""
        for round in range(self.options.rounds):
            for name in self.names:
                yield Block(name, self.rows(name, round), round)


@dataclass(kw_only=True)
class GradualOptions:
    """Options of `gradual`."""

    families: Sequence[str] = option((), "corruptions that come and go; empty: the domains forth and back")
    num_examples: int | None = option(None, "examples of a domain at each severity, the first; null: all")

    def __post_init__(self) -> None:
        _check_families(self.families)
        _at_least("num_examples", self.num_examples, 1)


class Gradual(Stream):
    """Severities 1, 2, 3, 4, 5, 4, 3, 2, 1 of one corruption after the other, or the domains forth and back."""

    Options = GradualOptions

    def blocks(self) -> Iterator[Block]:
        """A block per domain, family and severity, or per domain on the way forth and back."""
        if not self.options.families:
            for name in self.names:
                yield Block(name, self.rows(name))
            for name in self.names[-2::-1]:
                yield Block(name, self.rows(name, 1), 1)
        for name in self.names:
            for family in self.options.families:
                for round, severities in enumerate((SEVERITIES, SEVERITIES[-2::-1])):
                    rows = self.rows(name, round, self.options.num_examples)
                    for severity in severities:
                        yield Block(name, rows, round, (family, severity))


class Mixed(Stream):
    """The examples of all domains, shuffled."""

    def blocks(self) -> Iterator[Block]:
        """One block."""
        yield Block(MIXED, self.pooled())


@dataclass(kw_only=True)
class CorrelatedOptions:
    """Options of `correlated`."""

    delta: float = option(0.1, "concentration of the Dirichlet: the smaller, the longer the runs of a class; 0: sorted")
    order: str = option("rotta", "how runs are made of it: rotta, or note (chunks of about equal size)")
    mixed: bool = option(False, "whether the examples of all domains are pooled first")
    resets: bool = option(False, "whether the adapter starts afresh in each domain")

    def __post_init__(self) -> None:
        _at_least("delta", self.delta, 0)
        if self.order not in ORDERS:
            raise UnknownName("order of labels", self.order, ORDERS)


class Correlated(Stream):
    """One domain after the other, the examples of a class mostly together."""

    Options = CorrelatedOptions

    def blocks(self) -> Iterator[Block]:
        """A block per domain, or one."""
        for name in [MIXED] if self.options.mixed else self.names:
            rows = self.pooled() if self.options.mixed else self.rows(name)
            random = RandomState(seed_hash("correlated", self.seed, name))
            order = ORDERS[self.options.order](self._labels(rows), self.options.delta, random)
            yield Block(name, rows[torch.from_numpy(order)], resets=self.options.resets)

    def _labels(self, rows: Tensor) -> np.ndarray:
        labels = np.empty(len(rows), dtype=np.int64)
        for index in rows[:, 0].unique().tolist():
            targets = self.splits[self.names[index]].domain.targets.cpu()
            if targets.is_floating_point():
                raise ValueError("stream=correlated puts classes together, but these targets have none: stream=online.")
            here = rows[:, 0] == index
            labels[here.numpy()] = targets[rows[here, 1]].numpy()
        return labels


@dataclass(kw_only=True)
class CorruptionOptions:
    """Options of `corruption`."""

    families: Sequence[str] = option(STANDARD, "corruptions, in the order in which they come")
    severities: Sequence[int] = option((5,), "severities at which each comes, 1 to 5")
    rounds: int = option(1, "how often the sequence comes")
    resets: bool = option(False, "whether the adapter starts afresh with each corruption and severity")
    num_examples: int | None = option(None, "examples of a domain under each, the first; null: all")

    def __post_init__(self) -> None:
        if not self.families or not self.severities:
            raise ValueError("stream=corruption got no families or no severities, expected one or more of each.")
        _check_families(self.families)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UnknownName("severity", severity, map(str, SEVERITIES))
        _at_least("rounds", self.rounds, 1)
        _at_least("num_examples", self.num_examples, 1)


class Corruption(Stream):
    """Every domain under one corruption after the other."""

    Options = CorruptionOptions

    def blocks(self) -> Iterator[Block]:
        """A block per round, domain, family and severity."""
        for round in range(self.options.rounds):
            for name in self.names:
                rows = self.rows(name, round, self.options.num_examples)
                for family in self.options.families:
                    for severity in self.options.severities:
                        yield Block(name, rows, round, (family, severity), self.options.resets)


def _at_least(name: str, value: float | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"stream.{name}={value}, expected at least {least}.")


def _check_families(families: Sequence[str]) -> None:
    for family in families:
        if family not in FAMILIES:
            raise UnknownName("corruption", family, FAMILIES)


STREAMS: dict[str, type[Stream]] = {
    "online": Online,
    "episodic": Episodic,
    "continual": Continual,
    "gradual": Gradual,
    "mixed": Mixed,
    "correlated": Correlated,
    "corruption": Corruption,
}


def make_stream(name: str, options: Any, splits: Mapping[str, Split], seed: int, batch_size: int) -> Stream:
    """A test stream.

    Args:
        name: one of `STREAMS`.
        options: instance of the stream's `Options`, or a mapping of some of its fields, or None for the defaults.
        splits: domain name to the examples of it that are streamed, in the order in which domains come.
        seed: of all randomness.
        batch_size: examples per batch; the last of a domain may be shorter, none is left out.

    Raises:
        UnknownName: no such stream, option, corruption or severity.
        ValueError: an option has no sense, or there is nothing to stream.
    """
    if name not in STREAMS:
        raise UnknownName("stream", name, STREAMS)
    cls = STREAMS[name]
    if options is None or isinstance(options, Mapping):
        known = [f.name for f in dataclasses.fields(cls.Options)]
        for key in options or {}:
            if key not in known:
                raise UnknownName(f"option of stream {name}", key, known)
        options = cls.Options(**(options or {}))
    check_finite(options, "stream.")
    return cls(options, splits, seed, batch_size)
