"""Batches by step: the examples of step `s` are a pure function of (data, seed, s).

So a run continues exactly where it stopped without any sampler state, and neither worker count nor evaluations
change what is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgbench.batch import Batch
from dgbench.dataset import Domain, Items, as_float
from dgbench.hparams import seed_hash
from dgbench.sampling import BatchSize, Own, Sampler, build_sampler

if TYPE_CHECKING:
    from dgbench.algorithm import Algorithm, Draw


@dataclass(frozen=True)
class Split:
    """Some examples of one domain."""

    domain: Domain
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)


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
        batch_size: examples per domain (B), or `all`: every split whole and in order.
        seed: of the run.
        sampling: `balanced`: (D, B, ...), B examples of every training domain. `pooled`: (1, D*B, ...), as many drawn
            from all of them together; `domain` tells whose each is. `merged`: (1, B, ...), the same as if all were one
            domain. `domains:k`: (k, B, ...), the rows of k training domains that are chosen anew at every step, in
            their order.
        replacement: whether examples are drawn with replacement; if not, every example comes at most once per epoch,
            and an epoch ends with the last whole batch. Of no account for `all`.
        draw: what the method makes of the rows so drawn.
        unlabeled: the target domains' uda-splits, for the domain-adaptation task, sampled by the same rules;
            `domains:k` chooses among the training domains only.
        augment: whether training examples are augmented.
        device: where examples in memory are kept.

    Raises:
        UnknownName: no such sampling.
        ValueError: the domains are too few, too small or, for `all`, of unequal size.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        batch_size: BatchSize,
        seed: int,
        *,
        sampling: str = "balanced",
        replacement: bool = True,
        draw: Draw | None = None,
        unlabeled: Sequence[Split] = (),
        augment: bool = True,
        device: torch.device | str = "cpu",
    ):
        self.seed = seed
        protocols = build_sampler(splits, batch_size, seed, sampling=sampling, replacement=replacement)
        self.sampler: Sampler = protocols if draw is None else Own(protocols, draw)
        self.unlabeled_sampler = None
        if unlabeled:
            rule = sampling if sampling in ("pooled", "merged") else "balanced"
            self.unlabeled_sampler = build_sampler(
                unlabeled, batch_size, seed, sampling=rule, replacement=replacement, purpose="unlabeled epoch"
            )
        self.is_resident = all(split.domain.resident is not None for split in [*splits, *unlabeled])
        device = torch.device(device)
        self.pool = self._pool(splits, augment, device)
        self.unlabeled = self._pool(unlabeled, augment, device) if unlabeled else None
        sizes = torch.tensor([len(split) for split in splits])
        self.domain = torch.repeat_interleave(torch.arange(len(splits)), sizes).to(
            device if self.is_resident else "cpu"
        )
        self.generator = torch.Generator()
        self._held: tuple[Batch, list[int]] | None = None

    def _pool(self, splits: Sequence[Split], augment: bool, device: torch.device) -> _Pool:
        return _ResidentPool(splits, device) if self.is_resident else _LazyPool(splits, augment)

    def __getitem__(self, step: int) -> Batch:
        """The batch of step `step`."""
        if self.is_resident and self.sampler.is_constant:
            return self._constant(step)
        return self._made(step)

    def _constant(self, step: int) -> Batch:
        """The batch of every step, gathered once; and again if a method has changed it in place."""
        if self._held is None or _versions(self._held[0]) != self._held[1]:
            batch = self._made(step)
            self._held = batch, _versions(batch)
        # Detached: gradients that a method asks of its inputs end with the step.
        return Batch._make(None if part is None else part.detach() for part in self._held[0])

    def _made(self, step: int) -> Batch:
        self.generator.manual_seed(seed_hash("batch", self.seed, step))
        rows = self.sampler(step, self.generator)  # (D, B)
        unlabeled_rows = self.unlabeled_sampler(step, self.generator) if self.unlabeled_sampler else None
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


def _versions(batch: Batch) -> list[int]:
    """How often each tensor was changed in place; PyTorch does not count it in inference mode."""
    return [part._version for part in batch if part is not None and not part.is_inference()]


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
