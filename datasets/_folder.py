"""Folders of images: `root/<domain>/<class>/<image>`, and what can be wrong with them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dgbench.dataset import ImageOptions, MultiDomainDataset

from ._images import ImageDomain

# As in torchvision's ImageFolder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageFile(NamedTuple):
    """An image on disk."""

    path: Path
    num_bytes: int


class FolderDataset(MultiDomainDataset):
    """A dataset of image files; a subclass's `load` finds the folders and hands them to `read_domains`.

    Hidden files, files with other suffixes and files that lie beside the folders are left alone.
    """

    Options = ImageOptions
    options: ImageOptions

    def read_domains(self, root: Path, domains: Mapping[str, str], classes: Sequence[str]) -> Iterator[ImageDomain]:
        """The domains, in order; within a domain, images are ordered by class and file name.

        Args:
            root: holds the domains' folders.
            domains: name of each domain and its folder.
            classes: names of the class folders, in index order.

        Raises:
            ValueError: names what is wrong with the folders.
        """
        self._classes = tuple(classes)
        self._files: dict[str, int] = {}  # path below root, size in bytes
        for name, folder in domains.items():
            check_classes(root / folder, self._classes)
            paths: list[Path] = []
            targets: list[int] = []
            for target, class_name in enumerate(self._classes):
                images = list_images(root / folder / class_name)
                paths += [image.path for image in images]
                targets += [target] * len(images)
                self._files |= {image.path.relative_to(root).as_posix(): image.num_bytes for image in images}
            yield ImageDomain(name, paths, torch.tensor(targets), self.options.image_size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders in index order."""
        return self._classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's input, known without decoding any."""
        return (3, self.options.image_size, self.options.image_size)

    def fingerprint(self) -> str:
        """Identifies the data by names and sizes of the files: their content would take minutes to read."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for path, num_bytes in sorted(self._files.items()):
            digest.update(f"{path} {num_bytes}\n".encode())
        return digest.hexdigest()[:16]


def list_folders(folder: Path) -> list[str]:
    """Names of the folders directly inside, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def check_classes(folder: Path, classes: Sequence[str]) -> None:
    """Refuse a domain that lacks a class or has a folder that is none.

    Raises:
        ValueError: names the folder.
    """
    found = list_folders(folder)
    for name in found:
        if name not in classes:
            raise ValueError(
                f"{folder} has a stray folder {name!r}, expected the classes {', '.join(classes)}. "
                "Rename it, or move it out."
            )
    for name in classes:
        if name not in found:
            raise ValueError(
                f"{folder} has no folder for the class {name!r}, expected the same classes in every domain: "
                f"{', '.join(classes)}. Add it, or remove that class from the other domains."
            )


def list_images(folder: Path) -> list[ImageFile]:
    """The images of one class, sorted by name.

    Raises:
        ValueError: a folder inside, an image of 0 bytes, or no image at all.
    """
    images = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                raise ValueError(f"{entry.path} is a folder inside a class folder, expected only images. Move it out.")
            if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                continue
            num_bytes = entry.stat().st_size
            if num_bytes == 0:
                raise ValueError(f"{entry.path} is empty (0 bytes), expected an image. Replace it.")
            images.append(ImageFile(Path(entry.path), num_bytes))
    if not images:
        raise ValueError(
            f"{folder} holds no image, expected at least one file ending in {', '.join(SUFFIXES)}. "
            "Add images, or remove the class from every domain."
        )
    return images
