"""Which examples an adaptation meets: what streams, and what it may know of the training domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dgbench.adaptation import Adaptation
from dgbench.batch import Batch
from dgbench.dataset import MultiDomainDataset
from dgbench.loader import Split, evaluation_batches
from dgbench.prediction import splits_of
from dgbench.selection import REPORTED, VALIDATION

# Examples per batch of the source data, for adapters that read them, and for what is measured on them afterwards.
SOURCE_BATCH = 128


class SourceData:
    """The training domains' in-splits, in order and un-augmented, in batches of a single row."""

    def __init__(self, said: Mapping[str, Any], data: MultiDomainDataset, names: list[str], device: torch.device):
        self.device = device
        self.parts = [part for name in names for split, part in splits_of(said, data, name) if split == "in"]

    def __iter__(self) -> Iterator[Batch]:
        for index, part in enumerate(self.parts):
            for x, y in evaluation_batches(part, SOURCE_BATCH, device=self.device):
                domain = torch.full((1, len(y)), index, device=self.device)
                yield Batch(x.unsqueeze(0), y.unsqueeze(0), domain)


def streamed(adaptation: Adaptation, data: MultiDomainDataset) -> dict[str, Split]:
    """What is streamed, by domain, each cut to `examples` of it, the same for all adapters.

    Of every test domain the split that tables report; or what of the training domains was held out.

    Raises:
        ValueError: nothing was.
    """
    said, keys = adaptation.said, adaptation.keys
    domains = said["identity"]["domains"]
    if keys.target == "validation":
        splits = {name: part for (_, name), part in held_out(said, data, domains["train"]).items()}
        if not splits:
            raise ValueError(
                "target=validation streams what was held out of the training domains, but nothing was. Train with "
                "protocol.splits=random, or leave target=test."
            )
    else:
        parts = {name: dict(splits_of(said, data, name)) for name in domains["test"]}
        splits = {name: next(own[split] for _, split in REPORTED if split in own) for name, own in parts.items()}
    return {name: _cut(part, keys.examples, adaptation.seed) for name, part in splits.items()}


def _cut(part: Split, most: int | None, seed: int) -> Split:
    """At most so many of a split's examples."""
    if most is None or most >= len(part):
        return part
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return Split(part.domain, part.indices[chosen])


def held_out(said: Mapping[str, Any], data: MultiDomainDataset, names: list[str]) -> dict[tuple[str, str], Split]:
    """What was held out of some training domains, by split and domain; arguments as of `SourceData`."""
    wanted = [split for role, split in VALIDATION if role == "train"]
    found: dict[tuple[str, str], Split] = {}
    for name in names:
        parts = {split: part for split, part in splits_of(said, data, name) if split in wanted}
        found |= {(split, name): part for split, part in list(parts.items())[:1] if split is not None}
    return found
