"""Photographs that scikit-image and scikit-learn ship, and how they are cut."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dgbench.dataset import GeneratedOptions, MultiDomainDataset

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
"""Package and file of each photograph: only such as lie in the package, the others are downloaded."""

BLOCK = 96
TILE = 32
STRIDE = 16


class PhotographDataset(MultiDomainDataset):
    """A dataset cut out of one photograph per class."""

    Options = GeneratedOptions
    options: GeneratedOptions

    def sources(self) -> Iterable[Path]:
        """The photographs inside the packages."""
        return [photograph_path(name) for name in self.card.classes]


def photograph_path(name: str) -> Path:
    """Where the installed package keeps a photograph."""
    package, file = PHOTOGRAPHS[name]
    # Found without importing the package, whose own reader may go to the network.
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / file


def read_photograph(name: str) -> np.ndarray:
    """Pixels in [0, 1]: (H, W) for grey photographs, (H, W, 3) for colour."""
    with Image.open(photograph_path(name)) as image:
        return np.asarray(image) / 255


def cut_blocks(photograph: np.ndarray) -> list[np.ndarray]:
    """Blocks of 96 x 96 pixels that do not overlap, row by row."""
    H, W = photograph.shape[:2]
    tops, lefts = range(0, H - BLOCK + 1, BLOCK), range(0, W - BLOCK + 1, BLOCK)
    return [photograph[top : top + BLOCK, left : left + BLOCK] for top in tops for left in lefts]


def cut_tiles(block: np.ndarray) -> np.ndarray:
    """Overlapping tiles of 32 x 32 pixels, 16 apart, (N, 32, 32) or (N, 32, 32, 3)."""
    H, W = block.shape[:2]
    tops, lefts = range(0, H - TILE + 1, STRIDE), range(0, W - TILE + 1, STRIDE)
    return np.stack([block[top : top + TILE, left : left + TILE] for top in tops for left in lefts])
