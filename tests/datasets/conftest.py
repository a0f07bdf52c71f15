"""Small copies of datasets that are read from files."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench.dataset import MultiDomainDataset
from dgbench.registry import datasets


@pytest.fixture(scope="session")
def load_once() -> Callable[..., MultiDomainDataset]:
    """A dataset by name and data_seed, computed once for all tests that only look at it."""
    return functools.cache(lambda name, seed: datasets[name](data_seed=seed))


@pytest.fixture(scope="session")
def write_image() -> Callable[..., None]:
    def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 30)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def pacs(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """A data_dir with two images per class of PACS."""
    for i, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        for j, name in enumerate(("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")):
            for k, file in enumerate(("b.png", "a.jpg")):
                write_image(tmp_path / "PACS" / domain / name / file, seed=100 * i + 10 * j + k)
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """A reader's folder: two domains, two classes."""
    for domain in ("Real World", "art"):
        for name in ("cup", "Bed"):
            write_image(tmp_path / "photos" / domain / name / "1.png")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def load_photos() -> Callable[[Path], MultiDomainDataset]:
    return lambda root: datasets["image_folder"](root=str(root), image_size=16)


@pytest.fixture(scope="session")
def to_idx() -> Callable[[np.ndarray], bytes]:
    """An array of bytes as an IDX file holds it."""
    return lambda array: struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path: Path, to_idx: Callable[[np.ndarray], bytes]) -> Path:
    """A folder laid out by torchvision, with 60 + 40 images of noise."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 40)):
        images, digits = rng.integers(256, size=(n, 28, 28), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(to_idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(to_idx(digits))
    return tmp_path
