"""Any folder of images as a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dgbench.dataset import DOMAIN_NAME, Card, MissingData

from ._folder import FolderDataset, list_folders
from ._images import ImageDomain


class ImageFolder(FolderDataset):
    """The reader's own images, (3, 224, 224) in [0, 1]: `dataset=image_folder dataset.root=~/photos`.

    Domains:
        The folders directly inside `dataset.root`, sorted; `Real World` is called `real_world`.
    Classes:
        The folders inside each domain, sorted; the same in every domain.
    Images per domain:
        Files that end in .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff or .webp; other and hidden files
        are ignored.
    Licence:
        The reader's.
    Source:
        `root/<domain>/<class>/<image>`.
    Splits:
        None official.
    Known defects:
        None known; wrong folders and empty files are named at the start, damaged images when they are read.
    Reference:
        None.
    """

    card = Card(
        summary="Images in the reader's folders root/<domain>/<class>/<image>; which class is it?",
        domains=(),
        sizes=(),
        classes=(),
        regime="large",
        network="timm:resnet50",
        weights="tv_in1k",
        num_steps=5001,
        evaluate_every=300,
        licence="the reader's",
        source="dataset.root",
        checksums={},
        citation="none",
    )

    def load(self) -> Iterator[ImageDomain]:
        """The domains, by folder."""
        if self.options.root is None:
            raise MissingData(
                "image_folder reads a folder of yours, but none is given. "
                "Set dataset.root to a folder that holds <domain>/<class>/<image>."
            )
        root = Path(self.options.root).expanduser()
        if not root.is_dir():
            raise MissingData(
                f"image_folder looked for images in {root}, which is not a folder. "
                "Set dataset.root to a folder that holds <domain>/<class>/<image>."
            )
        domains = find_domains(root)
        return self.read_domains(root, domains, find_classes(root, domains.values()))


def find_domains(root: Path) -> dict[str, str]:
    """Name and folder of every domain, sorted by folder.

    Raises:
        ValueError: no folder, or one that cannot be a domain.
    """
    domains: dict[str, str] = {}
    for folder in list_folders(root):
        _refuse_hidden(root, folder)
        name = domain_name(folder)
        if not DOMAIN_NAME.fullmatch(name):
            raise ValueError(
                f"The folder {root / folder} makes no domain name, "
                "expected one that starts with a letter from a to z. Rename it."
            )
        if name in domains:
            raise ValueError(
                f"The folders {domains[name]!r} and {folder!r} in {root} both make the domain {name!r}, "
                "expected different names. Rename one."
            )
        domains[name] = folder
    if not domains:
        raise ValueError(f"{root} holds no folders, expected one per domain: <domain>/<class>/<image>. Add them.")
    return domains


def find_classes(root: Path, folders: Iterable[str]) -> tuple[str, ...]:
    """The classes of all domains together, sorted.

    Raises:
        ValueError: a domain without class folders, or a folder that cannot be a class.
    """
    classes: set[str] = set()
    for folder in folders:
        found = list_folders(root / folder)
        if not found:
            raise ValueError(
                f"{root / folder} has no class folders inside, expected <domain>/<class>/<image>. "
                "Move it out if it is not a domain, or set dataset.root one folder higher."
            )
        for name in found:
            _refuse_hidden(root / folder, name)
        classes.update(found)
    return tuple(sorted(classes))


def domain_name(folder: str) -> str:
    """The domain's name for a folder: lower case, underscores for all else; a name that is fine is kept.

    >>> domain_name("Real World")
    'real_world'
    """
    if DOMAIN_NAME.fullmatch(folder):
        return folder
    return re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")


def _refuse_hidden(parent: Path, folder: str) -> None:
    # Left behind by notebooks and archivers; their names would make domains or classes that nobody meant.
    if folder.startswith((".", "__")):
        raise ValueError(f"{parent} has a stray folder {folder!r}, expected only images in folders. Move it out.")
