"""What a test stream is: batches of the test domains' examples, and when an adapter starts afresh.

A stream is a pure function of (data, seed), the same for all adapters. The seed orders a domain's examples anew in
every round, but the same way in every stream and under every corruption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.random import RandomState
from torch import Tensor

from dgbench.corruption import corrupt
from dgbench.dataset import Items
from dgbench.hparams import seed_hash
from dgbench.loader import Split

MIXED = "mixed"
"""What the domain of a batch is called that holds examples of all domains."""


class Block(NamedTuple):
    """Examples that come one after the other under the same conditions."""

    domain: str
    """Name, or `mixed`."""
    rows: Tensor
    """(N, 2) index among the stream's domains, and of the example in its domain."""
    round: int = 0
    """How often the stream has been at these conditions before."""
    corruption: tuple[str, int] | None = None
    """Family and severity."""
    resets: bool = False
    """Whether the adapter is to be reset before the first of them."""


@dataclass(frozen=True, eq=False)
class Visit:
    """What a stream says of a batch."""

    domain: str
    """Name, or `mixed`."""
    round: int
    """How often the stream has been at these conditions before."""
    position: int
    """Running number of the batch."""
    resets: bool
    """Whether the adapter is to be reset before this batch."""
    rows: Tensor
    """(N, 2) index among the stream's domains, and of the example in its domain."""
    corruption: tuple[str, int] | None = None
    """Family and severity."""


class Arrival(NamedTuple):
    """A batch of a stream; its labels and domains are for the score, not for the adapter."""

    visit: Visit
    x: Tensor
    """(N, *input_shape) float."""
    y: Tensor
    """(N,) int64 or (N, C) float."""
    domain: Tensor
    """(N,) int64, index among the stream's domains."""


@dataclass(kw_only=True)
class Options:
    """Of a stream without any."""


class Stream:
    """Batches of the test domains, as often as one asks for them. Made by `make_stream`.

    A subclass says in `blocks` what comes after what.

    Args:
        options: the stream's options.
        splits: domain name to the examples of it that are streamed, in the order in which domains come.
        seed: of all randomness.
        batch_size: examples per batch; the last of a block may be shorter.

    Raises:
        ValueError: no domains, an empty one, or a batch size below 1.
    """

    Options: ClassVar[type] = Options
    episodic: ClassVar[bool] = False
    """Whether the adapter is to be reset before every batch."""

    def __init__(self, options: Any, splits: Mapping[str, Split], seed: int, batch_size: int):
        empty = [name for name, split in splits.items() if len(split) == 0]
        if not splits or empty:
            raise ValueError(
                f"A stream needs examples, got {'none of ' + ', '.join(empty) if empty else 'no domains'}. "
                "Name test domains that have some."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, expected at least 1.")
        self.options, self.splits, self.seed, self.batch_size = options, dict(splits), seed, batch_size
        self.names = list(self.splits)

    def blocks(self) -> Iterator[Block]:
        """What comes after what."""
        raise TypeError(f"{type(self).__name__} does not say what comes after what: define blocks().")

    def visits(self) -> Iterator[Visit]:
        """The batches, without their examples."""
        position = 0
        for block in self.blocks():
            for start, rows in enumerate(block.rows.split(self.batch_size)):
                resets = self.episodic or (block.resets and start == 0)
                yield Visit(block.domain, block.round, position, resets, rows, block.corruption)
                position += 1

    def __len__(self) -> int:
        return sum(-(-len(block.rows) // self.batch_size) for block in self.blocks())

    def __iter__(self) -> Iterator[Arrival]:
        for visit in self.visits():
            x, y = self._read(visit.rows)
            if visit.corruption is not None:
                x = corrupt(x, *visit.corruption, self._image_seeds(visit))
            yield Arrival(visit, x, y, visit.rows[:, 0])

    def rows(self, name: str, round: int = 0, num_examples: int | None = None) -> Tensor:
        """The examples of a domain in the order of a round, (N, 2); of a few, every round has the same."""
        order = self._permutation(len(self.splits[name]), name)[:num_examples]
        if round > 0:
            order = order[self._permutation(len(order), name, round)]
        indices = self.splits[name].indices.cpu()[order]
        return torch.stack([torch.full_like(indices, self.names.index(name)), indices], 1)

    def pooled(self) -> Tensor:
        """The examples of all domains, shuffled, (N, 2)."""
        rows = torch.cat([self.rows(name) for name in self.names])
        return rows[self._permutation(len(rows), MIXED)]

    def _permutation(self, n: int, *purpose: object) -> Tensor:
        return torch.from_numpy(RandomState(seed_hash("stream", self.seed, *purpose)).permutation(n))

    def _read(self, rows: Tensor) -> Items:
        """The examples of some rows as they are evaluated."""
        order, parts = [], []
        for index in rows[:, 0].unique().tolist():
            places = (rows[:, 0] == index).nonzero().flatten()
            order.append(places)
            parts.append(self.splits[self.names[index]].domain.__getitems__(rows[places, 1]))
        back = torch.cat(order).argsort()
        x, y = (torch.cat(tensors)[back.to(tensors[0].device)] for tensors in zip(*parts, strict=True))
        return Items(x, y)

    def _image_seeds(self, visit: Visit) -> list[int]:
        return [
            seed_hash("corrupt", self.seed, self.names[domain], example, *(visit.corruption or ()))
            for domain, example in visit.rows.tolist()
        ]
