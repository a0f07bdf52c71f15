"""What the sets made of scikit-learn's tables share: the files, the domains, the facts of the source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dgbench.dataset import Card, DatasetOptions, MultiDomainDataset, TensorDomain, option
from dgbench.task import Task


@dataclass(kw_only=True)
class RegressionOptions(DatasetOptions):
    """Options of a dataset with one regressed value, whose unit is arbitrary."""

    target_scale: str = option("standard", "inner scale of regression targets: standard, minmax or none")


class TableDataset(MultiDomainDataset):
    """A dataset of the rows of a table that scikit-learn ships; nothing about it is random."""

    files: ClassVar[tuple[str, ...]]
    """Names of the files in scikit-learn's folder of data."""

    def sources(self) -> Iterable[Path]:
        """The files inside scikit-learn."""
        spec = find_spec("sklearn")
        assert spec is not None
        assert spec.origin is not None
        return tuple(Path(spec.origin).parent / "datasets" / "data" / name for name in self.files)

    def fingerprint(self) -> str:
        """As the contract has it, over the values: releases of scikit-learn spell the same numbers differently."""
        digest = hashlib.sha256()
        for domain in self.domains:
            inputs, targets = domain.resident  # type: ignore[misc]
            digest.update(f"{domain.name} {tuple(inputs.shape)} {tuple(targets.shape)}".encode())
            digest.update(inputs.numpy().tobytes())
            digest.update(targets.numpy().tobytes())
        return digest.hexdigest()[:16]


class RegressionTable(TableDataset):
    """A table in which one column is regressed on others."""

    Options: ClassVar[type[DatasetOptions]] = RegressionOptions

    def make_task(self) -> Task:
        """A regression of one value."""
        return Task("regression", 1)


def table_card(**facts: Any) -> Card:
    """A card with the protocol that holds for every set of these tables."""
    return Card(**facts, regime="small", network="mlp", num_steps=500, evaluate_every=100)


def table_domains(
    names: Sequence[str], membership: np.ndarray, inputs: np.ndarray, targets: np.ndarray
) -> Iterator[TensorDomain]:
    """One domain after the other, each with its rows in the table's order.

    Args:
        names: of the domains.
        membership: index of each row's domain, (N,).
        inputs: (N, F).
        targets: class indices (N,), or real values (N,), which become (N, 1).
    """
    x = torch.from_numpy(inputs.astype(np.float32))
    if np.issubdtype(targets.dtype, np.integer):
        y = torch.from_numpy(targets.astype(np.int64))
    else:
        y = torch.from_numpy(targets.astype(np.float32))[:, None]
    for index, name in enumerate(names):
        rows = torch.from_numpy(membership == index)
        yield TensorDomain(name, x[rows], y[rows])
