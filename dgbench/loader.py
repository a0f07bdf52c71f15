"""Batches by step: the examples of step `s` are a pure function of (data, seed, s).

So a run continues exactly where it stopped without any sampler state, and neither worker count nor evaluations
change what is trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgbench.batch import Batch
from dgbench.dataset import Domain, Items, as_float
from dgbench.hparams import seed_hash

if TYPE_CHECKING:
    from dgbench.algorithm import Algorithm, Draw


@dataclass(frozen=True)
class Split:
    """Some examples of one domain."""

    domain: Domain
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Balanced:
    """`B` examples of every training domain, drawn uniformly with replacement.

    Args:
        sizes: examples per training domain.
        batch_size: B.
    """

    sizes: tuple[int, ...]
    batch_size: int

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Indices into the concatenated training in-splits, (D, B)."""
        rows = [torch.randint(n, (self.batch_size,), generator=generator) for n in self.sizes]
        return torch.stack(rows) + self._starts

    @functools.cached_property
    def _starts(self) -> Tensor:
        return torch.tensor([0, *self.sizes[:-1]]).cumsum(0)[:, None]


class _Pool(Protocol):
    """The concatenated training in-splits."""

    def __getitem__(self, rows: Tensor) -> Items: ...


class _ResidentPool:
    """Examples in memory, on the device where they are trained on."""

    def __init__(self, splits: Sequence[Split], device: torch.device):
        parts = [(split.domain.resident, split.indices) for split in splits]
        self.x = torch.cat([tensors[0][index] for tensors, index in parts if tensors]).to(device)
        self.y = torch.cat([tensors[1][index] for tensors, index in parts if tensors]).to(device)

    def __getitem__(self, rows: Tensor) -> Items:
        rows = rows.to(self.x.device, non_blocking=True)
        # Faster than indexing with the matrix of rows.
        x, y = (all_.index_select(0, rows.flatten()).unflatten(0, rows.shape) for all_ in (self.x, self.y))
        return Items(as_float(x), y)


class _LazyPool:
    """Examples that are read, decoded and augmented when a batch asks for them."""

    def __init__(self, splits: Sequence[Split], augment: bool):
        self.splits, self.augment = splits, augment
        self.starts = torch.tensor([0] + [len(split) for split in splits]).cumsum(0)

    def __getitem__(self, rows: Tensor) -> Items:
        flat = rows.flatten()
        owner = torch.bucketize(flat, self.starts, right=True) - 1
        order, parts = [], []
        for index, split in enumerate(self.splits):
            places = (owner == index).nonzero().flatten()
            if len(places) > 0:
                wanted = split.indices[flat[places] - self.starts[index]]
                read = split.domain.training_items if self.augment else split.domain.__getitems__
                order.append(places)
                parts.append(read(wanted))
        back = torch.cat(order).argsort()
        x, y = (torch.cat(tensors)[back] for tensors in zip(*parts, strict=True))
        return Items(x.unflatten(0, rows.shape), y.unflatten(0, rows.shape))


class Batches(Dataset):
    """Step to batch.

    Args:
        splits: the training domains' in-splits.
        batch_size: examples per domain.
        seed: of the run.
        draw: a sampler that replaces the balanced one.
        unlabeled: the target domains' uda-splits, for the domain-adaptation task.
        augment: whether training examples are augmented.
        device: where examples in memory are kept.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        batch_size: int,
        seed: int,
        *,
        draw: Draw | None = None,
        unlabeled: Sequence[Split] = (),
        augment: bool = True,
        device: torch.device | str = "cpu",
    ):
        self.seed = seed
        self.draw = draw or Balanced(tuple(map(len, splits)), batch_size)
        self.draw_unlabeled = Balanced(tuple(map(len, unlabeled)), batch_size) if unlabeled else None
        self.is_resident = all(split.domain.resident is not None for split in [*splits, *unlabeled])
        device = torch.device(device)
        self.pool = self._pool(splits, augment, device)
        self.unlabeled = self._pool(unlabeled, augment, device) if unlabeled else None
        sizes = torch.tensor([len(split) for split in splits])
        self.domain = torch.repeat_interleave(torch.arange(len(splits)), sizes).to(
            device if self.is_resident else "cpu"
        )
        self.generator = torch.Generator()

    def _pool(self, splits: Sequence[Split], augment: bool, device: torch.device) -> _Pool:
        return _ResidentPool(splits, device) if self.is_resident else _LazyPool(splits, augment)

    def __getitem__(self, step: int) -> Batch:
        """The batch of step `step`."""
        self.generator.manual_seed(seed_hash("batch", self.seed, step))
        rows = self.draw(self.generator)  # (D, B)
        unlabeled_rows = self.draw_unlabeled(self.generator) if self.draw_unlabeled else None
        if self.is_resident:
            return self._gather(rows, unlabeled_rows)
        # Augmentation draws from the global generator, which the training step also uses: fork it.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_hash("augment", self.seed, step))
            return self._gather(rows, unlabeled_rows)

    def _gather(self, rows: Tensor, unlabeled_rows: Tensor | None) -> Batch:
        items = self.pool[rows]
        unlabeled = None
        if self.unlabeled is not None and unlabeled_rows is not None:
            unlabeled = self.unlabeled[unlabeled_rows].x
        return Batch(items.x, items.y, self.domain[rows.to(self.domain.device)], unlabeled)


class TrainingLoader:
    """The batches from the algorithm's current step to the last; has no length, so that Lightning asks for none.

    Args:
        batches: step to batch.
        algorithm: its `step` says where to start.
        num_steps: where to stop.
        workers: processes that prepare batches; 0 for examples in memory.
    """

    def __init__(self, batches: Batches, algorithm: Algorithm, num_steps: int, workers: int = 0):
        self.batches, self.algorithm, self.num_steps = batches, algorithm, num_steps
        self.workers = 0 if batches.is_resident else workers

    def __iter__(self) -> Iterator[Batch]:
        steps = range(self.algorithm.step, self.num_steps)
        if self.workers == 0:
            return (self.batches[step] for step in steps)
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: taking a base seed from the global one would shift everything else.
            generator=torch.Generator().manual_seed(0),
        )
        return iter(loader)


def evaluation_batches(
    split: Split, batch_size: int, workers: int = 0, device: torch.device | str = "cpu"
) -> Iterator[Items]:
    """The examples of a split in fixed order, un-augmented.

    Args:
        split: which examples.
        batch_size: examples per batch; the last may be shorter.
        workers: processes that read examples which are not in memory.
        device: where the batches are wanted.
    """
    chunks = list(split.indices.split(batch_size))
    resident = split.domain.resident
    if resident is not None:
        x, y = resident
        for chunk in chunks:
            chunk = chunk.to(x.device)
            yield Items(as_float(x[chunk].to(device)), y[chunk].to(device))
        return
    loader: Any = DataLoader(
        _Chunks(split.domain, chunks),
        batch_size=None,
        num_workers=min(workers, len(chunks)),
        generator=torch.Generator().manual_seed(0),
    )
    for items in loader:
        yield Items(items.x.to(device, non_blocking=True), items.y.to(device, non_blocking=True))


class _Chunks(Dataset):
    def __init__(self, domain: Domain, chunks: Sequence[Tensor]):
        self.domain, self.chunks = domain, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Items:
        return self.domain.__getitems__(self.chunks[index])


Splits = Mapping[tuple[str, str], Split]
"""(split, domain name) to examples."""
