"""What the sets made of scikit-learn's digits share: the images, their partition, the facts of the source."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from dgbench.dataset import Card, GeneratedOptions, MultiDomainDataset, TensorDomain

NUM_IMAGES = 1797


class DigitsDataset(MultiDomainDataset):
    """A dataset computed from the 1797 handwritten digits that scikit-learn ships."""

    Options = GeneratedOptions
    options: GeneratedOptions

    def sources(self) -> Iterable[Path]:
        """The compressed table of pixels inside scikit-learn."""
        spec = find_spec("sklearn")
        assert spec is not None
        assert spec.origin is not None
        return (Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz",)


def digits_card(**facts: Any) -> Card:
    """A card with the facts that hold for every set made of these digits."""
    defects = (
        "writers are not identified, so the digits of one writer lie in several domains",
        *facts.pop("defects", ()),
    )
    return Card(
        **facts,
        regime="small",
        network="mlp",
        num_steps=500,
        evaluate_every=100,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        source="test set of the UCI Optical Recognition of Handwritten Digits, shipped with scikit-learn",
        checksums={"digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
        citation=(
            "E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. "
            "UCI Machine Learning Repository. https://doi.org/10.24432/C50P49"
        ),
        defects=defects,
    )


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1], (1797, 8, 8) float64, and the digits they show, (1797,) int64."""
    digits = load_digits()
    return digits.images / 16, digits.target.astype(np.int64)


def partition(rng: np.random.Generator, num_domains: int) -> list[np.ndarray]:
    """Disjoint index arrays, one per domain, that cover all images."""
    order = rng.permutation(NUM_IMAGES)
    return [order[i::num_domains] for i in range(num_domains)]


def gray_domain(name: str, images: np.ndarray, digits: np.ndarray) -> TensorDomain:
    """A domain of one-channel images, (N, H, W) in [0, 1]."""
    inputs = torch.from_numpy(images.astype(np.float32))[:, None]  # (N, 1, H, W)
    return TensorDomain(name, inputs, torch.from_numpy(digits))
