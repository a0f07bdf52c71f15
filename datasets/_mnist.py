"""What the sets made of MNIST share: where its files lie, how they are read, the facts of the source."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgbench.dataset import Card, FileOptions, GeneratedOptions, MissingData, MultiDomainDataset

IMAGE_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABEL_FILES = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049


@dataclass(kw_only=True)
class MnistOptions(FileOptions, GeneratedOptions):
    """Options of a dataset computed from MNIST."""


class MnistDataset(MultiDomainDataset):
    """A dataset computed from the 70,000 images of MNIST, training and test set together."""

    Options = MnistOptions
    options: MnistOptions

    def sources(self) -> Iterable[Path]:
        """The four files, plain or gzipped."""
        return find_files(self.data_dir, self.options.root)

    def read_source(self, path: Path) -> bytes:
        """Unpacked: plain and gzipped files are the same data."""
        return unpack(path)

    def read_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Images, (70000, 28, 28) uint8, and the digits they show, (70000,) int64: training set first."""
        *images, train_labels, test_labels = find_files(self.data_dir, self.options.root)
        digits = np.concatenate([read_idx(path, LABELS_MAGIC) for path in (train_labels, test_labels)])
        pixels = np.concatenate([read_idx(path, IMAGES_MAGIC) for path in images])
        if len(pixels) != len(digits):
            raise ValueError(
                f"MNIST has {len(pixels)} images but {len(digits)} labels in {train_labels.parent}, "
                "expected as many labels as images. Delete the folder and download it again."
            )
        return pixels, digits.astype(np.int64)


def mnist_card(**facts: Any) -> Card:
    """A card with the facts that hold for every set made of MNIST."""
    return Card(
        **facts,
        regime="small",
        network="mnist_cnn",
        num_steps=5001,
        evaluate_every=100,
        licence="CC BY-SA 3.0, as usually stated",
        source="MNIST, training and test set: torchvision.datasets.MNIST(data_dir, download=True)",
        checksums={  # MD5 of the unpacked files
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    )


def find_files(data_dir: Path, root: str | None) -> list[Path]:
    """The image files, then the label files, training set first.

    Raises:
        MissingData: no folder has all four.
    """
    home = data_dir if root is None else Path(root).expanduser()
    folders = [home / "MNIST" / "raw"] if root is None else [home / "MNIST" / "raw", home]
    for folder in folders:
        found = [_plain_or_packed(folder / name) for name in IMAGE_FILES + LABEL_FILES]
        if all(path.is_file() for path in found):
            return found
    raise MissingData(
        f"MNIST is not complete in {' or '.join(map(str, folders))}, expected the files "
        f"{', '.join(IMAGE_FILES + LABEL_FILES)}, plain or with .gz. Get them: "
        f'python -c "from torchvision.datasets import MNIST; MNIST({str(home)!r}, download=True)"'
    )


def _plain_or_packed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def unpack(path: Path) -> bytes:
    """The content of a file, decompressed if it ends in .gz."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}). Delete it and download it again.") from error


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes; the magic number's last byte is its number of axes."""
    content, num_axes = unpack(path), magic % 256
    header = 4 + 4 * num_axes
    got = struct.unpack(">i", content[:4])[0] if len(content) >= header else None
    if got != magic:
        raise ValueError(
            f"{path} starts with {got if got is not None else 'too few bytes'}, "
            f"expected the magic number {magic} of an IDX file. Delete it and download it again."
        )
    shape = struct.unpack(f">{num_axes}i", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path} holds {len(content)} bytes, expected {expected} for an array of shape {shape}. "
            "Delete it and download it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
