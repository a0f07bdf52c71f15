"""Rotated garments (or digits) whose colour gives the angle away, until it misleads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dgbench.dataset import MissingData, TensorDomain, option
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._mnist import IMAGE_FILES, IMAGES_MAGIC, MnistDataset, MnistOptions, mnist_card, read_idx

FOLDERS = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}
BACKGROUND = 5
"""Grey levels up to this one are not coloured."""
USUAL = 0.8
"""Part of the training images whose colour agrees with the angle, and of the test images whose colour opposes it."""


@dataclass(kw_only=True)
class RCFMNISTOptions(MnistOptions):
    """Options of `RCFMNIST`."""

    images: str = option("auto", "fashion_mnist, mnist, or auto: the first of these that is there")

    def __post_init__(self) -> None:
        if self.images not in ("auto", *FOLDERS):
            raise UnknownName("images (dataset.images)", self.images, ("auto", *FOLDERS))


class RCFMNIST(MnistDataset):
    """The angle of a rotated and coloured image, in turns, from (3, 28, 28) pixels in [0, 1], kept as uint8.

    Each training image of Fashion-MNIST is rotated counter-clockwise by y of a full turn, y ~ U[0, 1), without
    interpolation on a background of 0. Then its pixels above grey level 5 become red times r, no green, and blue times
    1 - r. In training r is mostly y, in the test mostly 1 - y: a model that reads the colour errs there.

    Balanced batches, the protocol's default, show both rules equally often, so that colour says nothing of the angle;
    `protocol.sampling=merged` keeps the share of 80 %, and the colour misleads as the authors mean it to. The authors'
    network is `network=timm:resnet18 network.weights=tv_in1k optim.lr=7e-5 optim.batch_size=64
    protocol.num_steps=18750`; their figure is over all test images together.

    Without Fashion-MNIST the images are MNIST's, which is another dataset; the fingerprint tells them apart.

    Differs from the authors: numpy draws from `data_seed`, and colours are rounded to whole grey levels.

    Domains:
        agree (r is y), oppose (r is 1 - y), random (r ~ U[0, 1)).
    Classes:
        None, a regression of one value.
    Images per domain:
        34000, 16000, 10000.
    Licence:
        MIT for Fashion-MNIST; CC BY-SA 3.0, as usually stated, for MNIST.
    Source:
        `<data_dir>/FashionMNIST/raw`, or else `<data_dir>/MNIST/raw`, as torchvision keeps them, the images of the
        training set alone. No checksum is pinned, as there are two sources.
    Splits:
        Official: `in` is 32,000 images of agree, 8000 of oppose, and all 10,000 of random, which are there to
        validate; `test` is 2000 of agree and 8000 of oppose. Which images is drawn from `data_seed`, like the angles.
    Known defects:
        The target is circular, 0 and 1 are the same angle, but rmse takes them for the farthest apart. Garments and
        digits that look alike upside down have no one angle.
    Reference:
        Yao et al., "C-Mixup: Improving Generalization in Regression", NeurIPS 2022; the images Xiao, Rasul and
        Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
    """

    Options = RCFMNISTOptions
    options: RCFMNISTOptions
    card = replace(
        mnist_card(
            summary="Fashion-MNIST rotated and coloured by the angle, rightly or misleadingly; by what part of a turn?",
            domains=("agree", "oppose", "random"),
            sizes=(34_000, 16_000, 10_000),
            classes=(),
            splits="official",
            train_domains=("agree", "oppose"),
            test_domains=("agree", "oppose"),
            val_domains=("random",),
            citation=(
                "H. Yao, Y. Wang, L. Zhang, J. Zou and C. Finn. C-Mixup: Improving Generalization in Regression. "
                "NeurIPS 2022. arXiv:2210.05775."
            ),
            defects=(
                "the target is circular, 0 and 1 are the same angle, but rmse takes them for the farthest apart",
                "images that look alike upside down have no one angle",
            ),
        ),
        licence="MIT (Fashion-MNIST); CC BY-SA 3.0, as usually stated (MNIST)",
        source="Fashion-MNIST, training images: torchvision.datasets.FashionMNIST(data_dir, download=True)",
        checksums={},
    )

    def make_task(self) -> Task:
        """A regression of one value."""
        return Task("regression", 1)

    def sources(self) -> Iterable[Path]:
        """The images of the training set, plain or gzipped."""
        root, wanted = self.options.root, self.options.images
        home = self.data_dir if root is None else Path(root).expanduser()
        names = list(FOLDERS) if wanted == "auto" else [wanted]
        folders = [home / FOLDERS[name] / "raw" for name in names] + ([] if root is None else [home])
        for folder in folders:
            for file in (IMAGE_FILES[0], f"{IMAGE_FILES[0]}.gz"):
                if (folder / file).is_file():
                    return (folder / file,)
        kind = FOLDERS[names[0]]
        raise MissingData(
            f"RCFMNIST looked for {IMAGE_FILES[0]}, plain or with .gz, in {' and '.join(map(str, folders))}. Get it: "
            f'python -c "from torchvision.datasets import {kind}; {kind}({str(home)!r}, download=True)"'
        )

    def load(self) -> Sequence[TensorDomain]:
        """The domains, and the official splits."""
        (path,) = self.sources()
        images = read_idx(path, IMAGES_MAGIC)
        rng = np.random.default_rng(self.options.data_seed)
        order, turns = rng.permutation(len(images)), rng.random(len(images), dtype=np.float32)
        # Two thirds train, a sixth validates, a sixth tests.
        num_val = num_test = len(images) // 6
        num_train = len(images) - num_val - num_test
        lengths = (int(USUAL * num_train), num_train - int(USUAL * num_train), num_val, int(USUAL * num_test))
        agree, oppose, random, test_oppose, test_agree = np.split(order, np.cumsum(lengths))
        parts = {
            "agree": (np.concatenate([agree, test_agree]), turns, len(agree)),
            "oppose": (np.concatenate([oppose, test_oppose]), 1 - turns, len(oppose)),
            "random": (random, rng.random(len(images), dtype=np.float32), len(random)),
        }
        domains, inside, test = [], {}, {}
        for name, (part, reds, num_inside) in parts.items():
            pixels = paint(rotate(images[part], 360 * turns[part]), reds[part])
            domains.append(TensorDomain(name, torch.from_numpy(pixels), torch.from_numpy(turns[part])[:, None]))
            inside[name], test[name] = torch.arange(len(part)).tensor_split([num_inside])
        self.splits = {"in": inside, "test": {name: test[name] for name in self.card.test_domains}}
        return domains


def rotate(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Rotate each image counter-clockwise by an angle of its own, to the nearest pixel, background 0.

    Args:
        images: (N, H, W) uint8.
        degrees: (N,).
    """
    turned = [np.asarray(Image.fromarray(image).rotate(angle)) for image, angle in zip(images, degrees, strict=True)]
    return np.stack(turned)


def paint(images: np.ndarray, reds: np.ndarray) -> np.ndarray:
    """Colour grey images between blue and red, (N, 3, H, W) uint8; the background stays grey.

    Args:
        images: (N, H, W) uint8.
        reds: share of red, (N,).
    """
    is_painted = images > BACKGROUND
    painted = np.repeat(images[:, None], 3, axis=1)  # (N, 3, H, W)
    for channel, shares in enumerate((reds, np.zeros_like(reds), 1 - reds)):
        painted[:, channel] = np.where(is_painted, np.rint(images * shares[:, None, None]), images)
    return painted
