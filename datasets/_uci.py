"""What the sets made of tables of the UCI repository share: the files, gaps and scales of inputs, the facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dgbench.dataset import Card, FileOptions, MissingData, MultiDomainDataset, TensorDomain, option
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._tables import RegressionOptions

SCALINGS = ("train", "all")


@dataclass(kw_only=True)
class UciOptions(RegressionOptions, FileOptions):
    """Options of a table of the UCI repository."""

    scaling: str = option(
        "train",
        "rows whose range scales the inputs to [0, 1] and whose means fill gaps: train (the official training rows) "
        "or, as the authors have it, all (which lets test inputs in)",
    )

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise UnknownName("scaling (dataset.scaling)", self.scaling, SCALINGS)


class UciDataset(MultiDomainDataset):
    """A regression on the rows of one file in `<data_dir>/uci`."""

    Options = UciOptions
    options: UciOptions
    file: ClassVar[str]
    """Name of the file."""
    url: ClassVar[str]
    """Where it can be had."""
    num_columns: ClassVar[int]
    """In the file."""

    def make_task(self) -> Task:
        """A regression of one value."""
        return Task("regression", 1)

    def sources(self) -> Iterable[Path]:
        """The file."""
        return (self._path(),)

    def read_source(self, path: Path) -> bytes:
        """Without quotes and carriage returns, which some copies of these files have."""
        return path.read_bytes().replace(b'"', b"").replace(b"\r\n", b"\n")

    def _path(self) -> Path:
        root = self.options.root
        path = (self.data_dir / "uci" if root is None else Path(root).expanduser()) / self.file
        if not path.is_file():
            raise MissingData(
                f"{type(self).__name__} looked for {path}, which is not a file. Set dataset.root to the folder that "
                f"holds it, or get it: curl --create-dirs -L -o {path} {self.url}"
            )
        return path

    def read_table(self, *, separator: str | None = None, skipped: int = 0, texts: Iterable[int] = ()) -> np.ndarray:
        """The numbers in the file, (N, num_columns); what is unknown (`?`) is NaN.

        Args:
            separator: between the values of a line; None: blanks.
            skipped: lines before the first row.
            texts: indices of columns that hold no numbers; they become NaN.
        """
        path, ignored = self._path(), set(texts)
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[skipped:], start=skipped + 1):
            values = line.split(separator)
            try:
                if len(values) != self.num_columns:
                    raise ValueError(f"{len(values)} values")
                rows.append([math.nan if i in ignored else _number(value) for i, value in enumerate(values)])
            except ValueError as error:
                raise ValueError(
                    f"Line {number} of {path} cannot be read ({error}), expected {self.num_columns} numbers or '?'. "
                    f"Get the file anew, from {self.url}"
                ) from error
        return np.array(rows).reshape(-1, self.num_columns)

    def refuse(self, got: str, expected: str) -> ValueError:
        """The error for a file that is not the one the card describes."""
        return ValueError(f"{self._path()} has {got}, expected {expected}. Get the file anew, from {self.url}")

    def scaled(self, inputs: np.ndarray, is_train: np.ndarray) -> np.ndarray:
        """Inputs without gaps; the rows that `dataset.scaling` names reach from 0 to 1.

        Args:
            inputs: (N, F), NaN where there is a gap.
            is_train: whether a row is one of the official training rows, (N,).
        """
        rows = inputs[is_train] if self.options.scaling == "train" else inputs
        low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)  # (F,)
        filled = np.where(np.isnan(inputs), np.nanmean(rows, axis=0), inputs)
        return (filled - low) / np.where(high > low, high - low, 1.0)

    def group_domains(
        self, groups: Mapping[str, int], membership: np.ndarray, inputs: np.ndarray, targets: np.ndarray
    ) -> list[TensorDomain]:
        """Domains of whole groups of rows; sets the official splits, which part the groups.

        Args:
            groups: number of each domain's group, in the order of the domains.
            membership: number of each row's group, (N,).
            inputs: (N, F), NaN where there is a gap.
            targets: (N,).
        """
        found = np.unique(membership).tolist()
        if found != list(groups.values()):
            shown = ", ".join(f"{number:g}" for number in found)
            raise self.refuse(f"rows of the groups {shown or 'none'}", ", ".join(map(str, groups.values())))
        train, test = self.designated
        x = self.scaled(inputs, np.isin(membership, [groups[name] for name in train]))
        rows = {name: membership == number for name, number in groups.items()}
        domains = [make_domain(name, x[mine], targets[mine]) for name, mine in rows.items()]
        everything = {domain.name: torch.arange(len(domain)) for domain in domains}
        # The domains that neither train nor test validate: their `in` is what is read.
        self.splits = {
            "in": {name: part for name, part in everything.items() if name not in test},
            "test": {name: everything[name] for name in test},
        }
        return domains


def _number(value: str) -> float:
    value = value.strip().strip('"')
    return math.nan if value == "?" else float(value)


def make_domain(name: str, inputs: np.ndarray, targets: np.ndarray) -> TensorDomain:
    """A domain of inputs (N, F) and targets (N,)."""
    x, y = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))
    return TensorDomain(name, x, y[:, None])


def uci_card(**facts: Any) -> Card:
    """A card with the facts that hold for every set of these tables."""
    return Card(
        **facts,
        classes=(),
        regime="small",
        network="mlp",
        splits="official",
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
    )
