"""Files that a reader of the handbook could write: a method with a helper, and a dataset."""

from __future__ import annotations

from pathlib import Path

HELPER = '''"""A formula that several methods share."""


def doubled(value):
    """Twice the value."""
    return 2 * value
'''
LOSS = "self.domain_risks(batch).mean()"
ALGORITHM = '''"""A toy method."""

from dataclasses import dataclass

from dgbench.algorithm import Algorithm
{imports}

@dataclass(kw_only=True)
class HParams:
    """None."""


class {name}(Algorithm):
    """Minimise a multiple of the mean risk."""

    HParams = HParams

    def loss(self, batch):
        return {{"loss": {loss}}}
'''
DATASET = '''"""A toy dataset."""

import torch

from dgbench.dataset import Card, MultiDomainDataset, TensorDomain


class {name}(MultiDomainDataset):
    """Two clouds, seen in three shades.

    Domains:
        dark, grey, light: the brightness that is added.
    Classes:
        left, right.
    Images per domain:
        40 points each.
    Licence:
        None.
    Source:
        Made up.
    Splits:
        None.
    Known defects:
        None.
    Reference:
        None.
    """

    card = Card(
        summary="Points of two clouds; which cloud is it?",
        domains=("dark", "grey", "light"),
        sizes=(40, 40, 40),
        classes=("left", "right"),
        regime="small",
        network="mlp",
        num_steps=10,
        evaluate_every=5,
        licence="none",
        source="made up",
        checksums={{}},
        citation="none",
    )

    def load(self):
        """Each domain."""
        noise = torch.Generator().manual_seed(0)
        for shade, name in enumerate(self.card.domains):
            y = torch.arange(40) % 2
            x = 0.2 * torch.rand(40, 3, generator=noise) + 0.3 * y[:, None] + 0.2 * shade
            yield TensorDomain(name, x, y)
'''


def method(name: str = "Mine", *, helper: str | None = None) -> str:
    """The text of a method; `helper` is the module that it takes its factor from, e.g. `._helper`."""
    if helper is None:
        return ALGORITHM.format(name=name, imports="", loss=LOSS)
    return ALGORITHM.format(name=name, imports=f"\nfrom {helper} import doubled\n", loss=f"doubled({LOSS})")


def dataset(name: str = "MyData") -> str:
    """The text of a dataset."""
    return DATASET.format(name=name)


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files by their paths below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
