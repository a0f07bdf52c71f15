"""Handwritten digits seen at six angles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from dgbench.dataset import TensorDomain

from ._digits import DigitsDataset, digits_card, gray_domain, load_images, partition

ANGLES = (0, 15, 30, 45, 60, 75)
PADDING = 2


class DigitsRot(DigitsDataset):
    """Rotated digits at a size that trains in seconds: (1, 12, 12) images in [0, 1].

    Each image belongs to one domain. It is padded by 2 pixels of background, so that corners stay inside
    the frame, and rotated counter-clockwise with bilinear interpolation. Angles between others are easy,
    the two ends are not: there the model extrapolates.

    Domains:
        rot0, rot15, rot30, rot45, rot60, rot75: the angle in degrees.
    Classes:
        The digits 0 to 9.
    Images per domain:
        300, 300, 300, 299, 299, 299.
    Licence:
        CC BY 4.0.
    Source:
        The digits that scikit-learn ships; nothing is downloaded.
    Splits:
        None official; the partition into domains is drawn from `data_seed`.
    Known defects:
        Writers are not identified, so the digits of one writer lie in several domains.
    Reference:
        Alpaydin and Kaynak, 1998, for the images; Ghifary et al., "Domain Generalization for Object
        Recognition with Multi-task Autoencoders", ICCV 2015, for the rotations.
    """

    card = digits_card(
        summary="Handwritten digits rotated by 0 to 75 degrees; which digit is it?",
        domains=tuple(f"rot{angle}" for angle in ANGLES),
        sizes=(300, 300, 300, 299, 299, 299),
        classes=tuple("0123456789"),
    )

    def load(self) -> Iterator[TensorDomain]:
        """The domains, by angle."""
        images, digits = load_images()
        parts = partition(np.random.default_rng(self.options.data_seed), len(ANGLES))
        for angle, part in zip(ANGLES, parts, strict=True):
            padded = np.pad(images[part], ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))  # (N, 12, 12)
            rotated = ndimage.rotate(padded, angle, axes=(2, 1), order=1, reshape=False, cval=0.0)
            yield gray_domain(f"rot{angle}", rotated.clip(0, 1), digits[part])
