"""Which examples a step sees, as a pure function of (sizes, seed, step).

No step has to be replayed to know another. `protocol.sampling` says which rows a batch has, `protocol.replacement` and
`optim.batch_size` how a row is filled.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from dgbench.hparams import seed_hash
from dgbench.protocol import SAMPLINGS
from dgbench.registry import UnknownName

if TYPE_CHECKING:
    from dgbench.algorithm import Draw
    from dgbench.loader import Split

BatchSize = int | Literal["all"]


class Sampler(Protocol):
    """From a step, and a generator seeded for it, to indices into the concatenated splits, (D, B)."""

    @property
    def is_constant(self) -> bool:
        """Whether every step gets the same indices."""

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        """The indices of a step."""


class _Row(Protocol):
    """Indices into one domain, (B,)."""

    def __call__(self, domain: int, step: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class WithReplacement:
    """Examples drawn uniformly from a domain, each draw apart from all others.

    Args:
        sizes: examples per domain.
        batch_size: B.
    """

    sizes: tuple[int, ...]
    batch_size: int

    def __call__(self, domain: int, step: int, generator: torch.Generator) -> Tensor:
        """Indices into the domain, (B,)."""
        return torch.randint(self.sizes[domain], (self.batch_size,), generator=generator)


@dataclass(frozen=True)
class WithoutReplacement:
    """Every example of a domain at most once per epoch, in an order that is a function of (key, domain, epoch).

    An epoch of a domain has as many whole batches as it has; the examples that are left over wait for the next.

    Args:
        sizes: examples per domain, each at least B.
        batch_size: B.
        key: what the orders are seeded by.
    """

    sizes: tuple[int, ...]
    batch_size: int
    key: tuple[str, int]
    _current: dict[int, tuple[int, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    """Domain to (epoch, order) last asked for: a cache that spares a permutation per step, and no state."""

    def __call__(self, domain: int, step: int, generator: torch.Generator) -> Tensor:
        """Indices into the domain, (B,)."""
        epoch, place = divmod(step, self.sizes[domain] // self.batch_size)
        return self._order(domain, epoch)[place * self.batch_size :][: self.batch_size]

    def _order(self, domain: int, epoch: int) -> Tensor:
        kept = self._current.get(domain)
        if kept is None or kept[0] != epoch:
            generator = torch.Generator().manual_seed(seed_hash(*self.key, domain, epoch))
            kept = epoch, torch.randperm(self.sizes[domain], generator=generator)
            self._current[domain] = kept
        return kept[1]


@dataclass(frozen=True)
class InOrder:
    """All examples of a domain, first to last.

    Args:
        sizes: examples per domain, all equal.
    """

    sizes: tuple[int, ...]

    def __call__(self, domain: int, step: int, generator: torch.Generator) -> Tensor:
        """Indices into the domain, (n,)."""
        return torch.arange(self.sizes[domain])


@dataclass(frozen=True)
class Rows:
    """One row per domain, or per chosen domain.

    Args:
        sizes: examples per domain.
        row: how a row is filled.
        num_chosen: domains per step, chosen uniformly without replacement; None: all.
    """

    sizes: tuple[int, ...]
    row: _Row
    num_chosen: int | None = None

    @property
    def is_constant(self) -> bool:
        """Whether every step gets the same indices."""
        return isinstance(self.row, InOrder) and self.num_chosen is None

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        """Indices into the concatenated splits, (D, B), in the order of the domains."""
        return torch.stack([self._starts[d] + self.row(d, step, generator) for d in self._domains(generator)])

    def _domains(self, generator: torch.Generator) -> Sequence[int]:
        if self.num_chosen is None:
            return range(len(self.sizes))
        return sorted(torch.randperm(len(self.sizes), generator=generator)[: self.num_chosen].tolist())

    @functools.cached_property
    def _starts(self) -> Tensor:
        return torch.tensor([0, *self.sizes[:-1]]).cumsum(0)


@dataclass(frozen=True)
class Own:
    """What a method makes of the protocol's indices.

    Args:
        protocols: the protocol's sampler.
        draw: what the method's `make_sampler` returned.
    """

    protocols: Sampler
    draw: Draw
    is_constant: bool = False

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        """Indices into the concatenated training in-splits, (D, R)."""
        return self.draw(self.protocols(step, generator), generator)


def build_sampler(
    splits: Sequence[Split],
    batch_size: BatchSize,
    seed: int,
    *,
    sampling: str = "balanced",
    replacement: bool = True,
    purpose: str = "epoch",
) -> Sampler:
    """The protocol's sampler over some splits.

    Args:
        splits: one per domain.
        batch_size: examples per domain, or `all`.
        seed: of the run.
        sampling: `balanced`: a row per domain; `pooled`: one row of all domains' examples, as long as the balanced rows
            together; `merged`: one such row of `batch_size`, as if there were one domain; `domains:k`: rows of k of the
            domains.
        replacement: whether examples are drawn with replacement; of no account for `all`.
        purpose: tells orders without replacement apart that share a seed.

    Raises:
        UnknownName: no such sampling.
        ValueError: the domains are too few, too small or, for `all`, of unequal size.
    """
    sizes, num_domains = tuple(map(len, splits)), len(splits)
    names = [split.domain.name for split in splits]
    per_row, num_chosen = 1, None
    if sampling in ("pooled", "merged"):
        per_row = num_domains if sampling == "pooled" else 1
        sizes, names = (sum(sizes),), [", ".join(names)]
    elif sampling != "balanced":
        num_chosen = _chosen(sampling, num_domains)
    if batch_size == "all":
        _refuse_unequal(dict(zip(names, sizes, strict=True)))
        return Rows(sizes, InOrder(sizes), num_chosen)
    if replacement:
        return Rows(sizes, WithReplacement(sizes, batch_size * per_row), num_chosen)
    if num_chosen is not None:
        raise ValueError(
            f"protocol.replacement=false walks through every domain, but protocol.sampling={sampling} visits "
            f"{num_chosen} of {num_domains} per step. Set protocol.sampling=balanced, or protocol.replacement=true."
        )
    least = min(sizes)
    if least < batch_size * per_row:
        raise ValueError(
            f"protocol.replacement=false draws no example twice, but a row takes {batch_size * per_row} and there are "
            f"{least} examples of {names[sizes.index(least)]}. Set optim.batch_size to at most {least // per_row}, "
            "or protocol.replacement=true."
        )
    return Rows(sizes, WithoutReplacement(sizes, batch_size * per_row, (purpose, seed)))


def _chosen(sampling: str, num_domains: int) -> int:
    """The k of `domains:k`."""
    matched = re.fullmatch(r"domains:(-?\d+)", sampling)
    if matched is None:
        raise UnknownName("sampling (protocol.sampling)", sampling, SAMPLINGS)
    if not 1 <= int(matched[1]) <= num_domains:
        raise ValueError(
            f"protocol.sampling={sampling} asks for {matched[1]} training domains per step, but there are "
            f"{num_domains}. Ask for 1 to {num_domains}."
        )
    return int(matched[1])


def _refuse_unequal(sizes: dict[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"optim.batch_size=all makes a row of each domain, which needs domains of equal size, got {listed}. "
            "Set protocol.sampling=pooled for one row of all examples, or give optim.batch_size a number."
        )
