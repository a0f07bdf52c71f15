"""Handwritten digits under six easy and hard changes of style."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dgbench.dataset import GeneratedOptions, TensorDomain, option

from ._digits import DigitsDataset, digits_card, gray_domain, load_images, partition

Style = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NOISE = 0.35
SQUARE = 3


def _noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (images + rng.normal(0, NOISE, images.shape)).clip(0, 1)


def _occlude(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    N, H, W = images.shape
    tops, lefts = (rng.integers(side - SQUARE + 1, size=(N, 1, 1)) for side in (H, W))
    below, beside = np.arange(H)[:, None] - tops, np.arange(W) - lefts  # (N, H, 1), (N, 1, W)
    is_covered = (below >= 0) & (below < SQUARE) & (beside >= 0) & (beside < SQUARE)  # (N, H, W)
    return np.where(is_covered, rng.random((N, 1, 1)), images)


STYLES: dict[str, Style] = {
    "clean": lambda images, _: images,
    "invert": lambda images, _: 1 - images,
    "dilate": lambda images, _: ndimage.grey_dilation(images, size=(1, 2, 2)),
    "noise": _noise,
    "blur": lambda images, _: ndimage.gaussian_filter(images, (0, 1, 1)),
    "occlude": _occlude,
}


@dataclass(kw_only=True)
class DigitsStyleOptions(GeneratedOptions):
    """Options of `DigitsStyle`."""

    exclude_invert: bool = option(False, "leave out the inverted domain, which alone decides the mean")


class DigitsStyle(DigitsDataset):
    """Digits in six styles, (1, 8, 8) images in [0, 1].

    Easy and hard shifts side by side: five styles are learnt from the others to different degrees, `invert`
    is far below chance. It alone pulls the mean down by more than ten points; `exclude_invert=true` leaves
    it out and changes no other domain.

    Domains:
        clean; invert: 1 - x; dilate: grey dilation 2x2; noise: Gaussian, deviation 0.35, clipped; blur:
        Gaussian, deviation 1 pixel; occlude: a 3x3 square of one grey level at a random place.
    Classes:
        The digits 0 to 9.
    Images per domain:
        300, 300, 300, 299, 299, 299.
    Licence:
        CC BY 4.0.
    Source:
        The digits that scikit-learn ships; nothing is downloaded.
    Splits:
        None official; partition, noise and squares are drawn from `data_seed`.
    Known defects:
        Writers are not identified, so the digits of one writer lie in several domains.
    Reference:
        Alpaydin and Kaynak, 1998, for the images.
    """

    Options = DigitsStyleOptions
    card = digits_card(
        summary="Handwritten digits in six styles; which digit is it?",
        domains=tuple(STYLES),
        sizes=(300, 300, 300, 299, 299, 299),
        classes=tuple("0123456789"),
    )
    options: DigitsStyleOptions

    def load(self) -> Iterator[TensorDomain]:
        """The domains, by style."""
        images, digits = load_images()
        rng = np.random.default_rng(self.options.data_seed)
        parts = partition(rng, len(STYLES))
        for (name, restyle), part in zip(STYLES.items(), parts, strict=True):
            # Inverting draws nothing, so leaving it out changes no other domain.
            if not (name == "invert" and self.options.exclude_invert):
                yield gray_domain(name, restyle(images[part], rng), digits[part])
