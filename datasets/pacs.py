"""Seven kinds of objects as paintings, cartoons, photographs and sketches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgbench.dataset import Card, MissingData

from ._folder import FolderDataset, list_folders
from ._images import ImageDomain

ARCHIVE = "1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd"


class PACS(FolderDataset):
    """Images of seven classes in four styles, (3, 224, 224) in [0, 1].

    Domains:
        art_painting, cartoon, photo, sketch.
    Classes:
        dog, elephant, giraffe, guitar, horse, house, person.
    Images per domain:
        2048, 2344, 1670, 3929: 9991 in all, 227 x 227 pixels.
    Licence:
        None stated; used for research. Not to be redistributed.
    Source:
        `<data_dir>/PACS/<domain>/<class>/<image>`: the archive that DomainBed downloads, with its folder
        `kfold` renamed to `PACS`.
    Splits:
        Official 90/10 lists exist but are not used, as in DomainBed.
    Known defects:
        `sketch/dog/n02103406_4068-1.png` is mislabelled; it is kept, as in DomainBed. Classes are unbalanced:
        sketch has 80 houses and 816 horses, so that macro accuracy is the fairer number there.
    Reference:
        Li et al., "Deeper, Broader and Artier Domain Generalization", ICCV 2017.
    """

    card = Card(
        summary="Seven kinds of objects as paintings, cartoons, photographs and sketches; which is it?",
        domains=("art_painting", "cartoon", "photo", "sketch"),
        sizes=(2048, 2344, 1670, 3929),
        classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
        regime="large",
        network="timm:resnet50",
        weights="tv_in1k",
        num_steps=5001,
        evaluate_every=300,
        licence="none stated, research use",
        source=f"https://drive.google.com/uc?id={ARCHIVE} (zip, folder kfold)",
        checksums={},
        citation=(
            "D. Li, Y. Yang, Y.-Z. Song and T. M. Hospedales. "
            "Deeper, Broader and Artier Domain Generalization. ICCV 2017."
        ),
        defects=(
            "sketch/dog/n02103406_4068-1.png is mislabelled",
            "classes are unbalanced, in sketch by a factor of ten",
        ),
    )

    def load(self) -> Iterator[ImageDomain]:
        """The domains, by name; nothing else may lie beside them, lest a wrong copy is taken for PACS."""
        root = self.data_dir / "PACS" if self.options.root is None else Path(self.options.root).expanduser()
        if not root.is_dir():
            raise MissingData(f"PACS was looked for in {root}, which is not a folder. {self._remedy()}")
        names, found = self.card.domains, list_folders(root)
        for name in names:
            if name not in found:
                raise MissingData(
                    f"PACS lacks the domain {name!r}: {root} holds the folders {', '.join(found) or 'none'}, "
                    f"expected {', '.join(names)}. {self._remedy()}"
                )
        for name in found:
            if name not in names:
                raise ValueError(
                    f"{root} has a stray folder {name!r}, expected only the domains {', '.join(names)}. Move it out."
                )
        return self.read_domains(root, {name: name for name in names}, self.card.classes)

    def _remedy(self) -> str:
        home = self.data_dir
        return (
            "Set dataset.root to the folder that holds the domains, or get it: "
            f"pip install gdown && gdown {ARCHIVE} -O {home}/PACS.zip && unzip {home}/PACS.zip -d {home} "
            f"&& mv {home}/kfold {home}/PACS"
        )
