"""MNIST with a colour that is a better clue than the shape, until it misleads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgbench.dataset import TensorDomain

from ._colored import COLOR_FLIPS, colored_domains
from ._mnist import MnistDataset, mnist_card


class ColoredMNIST(MnistDataset):
    """Coloured digits, (2, 28, 28) images in [0, 1], kept as uint8.

    The label is whether the digit is below 5, flipped with probability 0.25. The colour is the label,
    flipped with a probability that only the domain decides, and says in which of the two channels the digit
    is drawn. Shape alone reaches 75 % at best everywhere; colour alone reaches 90, 80 and 10 %.

    Differs from DomainBed: the draw depends on `data_seed` alone. There every run draws its own partition,
    noise and colours from the training seed, so that hyper-parameters are compared on different data.

    Domains:
        plus90, plus80, minus90: colour equals label with probability 0.9, 0.8, 0.1.
    Classes:
        five_to_nine, zero_to_four.
    Images per domain:
        23334, 23333, 23333.
    Licence:
        CC BY-SA 3.0, as usually stated for MNIST.
    Source:
        `<data_dir>/MNIST/raw` as torchvision keeps it, training and test set together.
    Splits:
        None official; partition, label noise and colours are drawn from `data_seed`.
    Known defects:
        A quarter of the labels is wrong by design.
    Reference:
        Arjovsky et al., "Invariant Risk Minimization", 2019; in this form Gulrajani and Lopez-Paz, "In
        Search of Lost Domain Generalization", ICLR 2021.
    """

    card = mnist_card(
        summary="MNIST digits whose colour agrees with the noisy label or contradicts it; below five?",
        domains=tuple(COLOR_FLIPS),
        sizes=(23334, 23333, 23333),
        classes=("five_to_nine", "zero_to_four"),
        citation="M. Arjovsky et al. Invariant Risk Minimization. arXiv:1907.02893, 2019.",
        defects=("a quarter of the labels is wrong by design",),
    )

    def load(self) -> Sequence[TensorDomain]:
        """The domains, by strength of the colour."""
        return colored_domains(*self.read_images(), np.random.default_rng(self.options.data_seed))
