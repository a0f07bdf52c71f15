"""MNIST with a misleading colour, as first proposed: two domains to train on, a third to test on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dgbench.dataset import TensorDomain, option
from dgbench.task import Task

from ._colored import COLOR_FLIPS, LABEL_NOISE
from ._mnist import IMAGES_MAGIC, LABELS_MAGIC, MnistDataset, MnistOptions, find_files, mnist_card, read_idx

_CARD = mnist_card(
    summary="MNIST digits whose colour agrees with the noisy label, in the test domain seldom; below five?",
    domains=("plus80", "plus90", "minus90"),
    sizes=(25_000, 25_000, 10_000),
    classes=("five_to_nine", "zero_to_four"),
    splits="official",
    train_domains=("plus80", "plus90"),
    test_domains=("minus90",),
    citation="M. Arjovsky et al. Invariant Risk Minimization. arXiv:1907.02893, 2019.",
    defects=("a quarter of the labels is wrong by design",),
)
TRAINING_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


@dataclass(kw_only=True)
class ColoredMNISTIRMOptions(MnistOptions):
    """Options of `ColoredMNISTIRM`."""

    grayscale: bool = option(False, "the oracle's data: one channel, the sum of both, in which no colour is left")


class ColoredMNISTIRM(MnistDataset):
    """Coloured digits with designated domains, (2, 14, 14) images in [0, 1], kept as uint8.

    Every second pixel of MNIST's training images. The label is whether the digit is below 5, flipped with probability
    0.25. The colour is the label, flipped with a probability that only the domain decides, and says in which of the
    two channels the digit is drawn. Shape alone reaches 75 % at best everywhere; colour alone reaches 80, 90 and
    10 %. With `dataset.grayscale=true` the images are (1, 14, 14).

    `colored_mnist` is DomainBed's variant: whole images of both of MNIST's sets, in three parts of one size.

    Differs from the authors: the draw depends on `data_seed` alone; there every restart draws anew. Their network and
    their 501 steps of all examples at once are `dgbench experiment colored_mnist_irm`.

    Domains:
        plus80, plus90, minus90: colour equals label with probability 0.8, 0.9, 0.1. The first two are every second
        one of the first 50,000 images, shuffled; the third is the last 10,000.
    Classes:
        five_to_nine, zero_to_four.
    Images per domain:
        25000, 25000, 10000.
    Licence:
        CC BY-SA 3.0, as usually stated for MNIST.
    Source:
        `<data_dir>/MNIST/raw` as torchvision keeps it, the training set alone.
    Splits:
        Official: `in` is all of plus80 and plus90, `test` all of minus90; there is no `val`. Order, label noise and
        colours are drawn from `data_seed`.
    Known defects:
        A quarter of the labels is wrong by design.
    Reference:
        Arjovsky et al., "Invariant Risk Minimization", 2019.
    """

    Options = ColoredMNISTIRMOptions
    options: ColoredMNISTIRMOptions
    card = replace(
        _CARD,
        network="mlp",
        source="MNIST, training set: torchvision.datasets.MNIST(data_dir, download=True)",
        checksums={name: _CARD.checksums[name] for name in TRAINING_FILES},
    )

    def sources(self) -> Iterable[Path]:
        """The two files of the training set, plain or gzipped."""
        images, _, labels, _ = find_files(self.data_dir, self.options.root)
        return images, labels

    def load(self) -> Sequence[TensorDomain]:
        """The domains, in the authors' order, and the official splits."""
        images, labels = self.sources()
        pixels, digits = read_idx(images, IMAGES_MAGIC)[:, ::2, ::2], read_idx(labels, LABELS_MAGIC)
        rng = np.random.default_rng(self.options.data_seed)
        # 50,000 of the 60,000 train.
        num_train = len(pixels) * 5 // 6
        order = rng.permutation(num_train)
        parts = (order[::2], order[1::2], np.arange(num_train, len(pixels)))
        domains = [
            self._domain(name, pixels[part], digits[part], rng)
            for name, part in zip(self.card.domains, parts, strict=True)
        ]
        everything = {domain.name: torch.arange(len(domain)) for domain in domains}
        train, test = self.designated
        self.splits = {
            "in": {name: everything[name] for name in train},
            "test": {name: everything[name] for name in test},
        }
        return domains

    def _domain(self, name: str, images: np.ndarray, digits: np.ndarray, rng: np.random.Generator) -> TensorDomain:
        label = (digits < 5) ^ (rng.random(len(digits)) < LABEL_NOISE)
        color = label ^ (rng.random(len(digits)) < COLOR_FLIPS[name])
        inputs = np.stack([images, images], axis=1)  # (N, 2, 14, 14)
        inputs[np.arange(len(images)), 1 - color] = 0
        if self.options.grayscale:
            inputs = inputs.sum(1, keepdims=True, dtype=inputs.dtype)
        return TensorDomain(name, torch.from_numpy(inputs), torch.from_numpy(label.astype(np.int64)))

    def make_task(self) -> Task:
        """A classification by the sign of one output."""
        return Task("classification", 2, single_logit=True)
