"""Handwritten digits whose colour is a better clue than their shape, until it misleads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgbench.dataset import TensorDomain

from ._colored import COLOR_FLIPS, colored_domains
from ._digits import DigitsDataset, digits_card, load_images


class DigitsColor(DigitsDataset):
    """Coloured digits at a size that trains in seconds: (2, 8, 8) images in [0, 1].

    The label is whether the digit is below 5, flipped with probability 0.25. The colour is the label,
    flipped with a probability that only the domain decides, and says in which of the two channels the digit
    is drawn. Shape alone reaches 75 % at best everywhere; colour alone reaches 90, 80 and 10 %.

    Domains:
        plus90, plus80, minus90: colour equals label with probability 0.9, 0.8, 0.1.
    Classes:
        five_to_nine, zero_to_four.
    Images per domain:
        599, 599, 599.
    Licence:
        CC BY 4.0.
    Source:
        The digits that scikit-learn ships; nothing is downloaded.
    Splits:
        None official; partition, label noise and colours are drawn from `data_seed`.
    Known defects:
        A quarter of the labels is wrong by design. Writers are not identified, so the digits of one writer
        lie in several domains.
    Reference:
        Alpaydin and Kaynak, 1998, for the images; Arjovsky et al., "Invariant Risk Minimization", 2019, for
        the colours.
    """

    card = digits_card(
        summary="Handwritten digits whose colour agrees with the noisy label or contradicts it; below five?",
        domains=tuple(COLOR_FLIPS),
        sizes=(599, 599, 599),
        classes=("five_to_nine", "zero_to_four"),
        defects=("a quarter of the labels is wrong by design",),
    )

    def load(self) -> Sequence[TensorDomain]:
        """The domains, by strength of the colour."""
        images, digits = load_images()
        rng = np.random.default_rng(self.options.data_seed)
        return colored_domains(images.astype(np.float32), digits, rng)
