"""MNIST seen at six angles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.dataset import TensorDomain

from ._mnist import MnistDataset, mnist_card

ANGLES = (0, 15, 30, 45, 60, 75)


class RotatedMNIST(MnistDataset):
    """Rotated digits, (1, 28, 28) images in [0, 1], kept as uint8.

    Each image belongs to one domain and is rotated counter-clockwise with bilinear interpolation on a
    background of 0.

    Differs from DomainBed: the partition depends on `data_seed` alone. There every run draws its own from
    the training seed, so that hyper-parameters are compared on different data.

    Domains:
        rot0, rot15, rot30, rot45, rot60, rot75: the angle in degrees.
    Classes:
        The digits 0 to 9.
    Images per domain:
        11667, 11667, 11667, 11667, 11666, 11666.
    Licence:
        CC BY-SA 3.0, as usually stated for MNIST.
    Source:
        `<data_dir>/MNIST/raw` as torchvision keeps it, training and test set together.
    Splits:
        None official; the partition into domains is drawn from `data_seed`.
    Known defects:
        None known.
    Reference:
        Ghifary et al., "Domain Generalization for Object Recognition with Multi-task Autoencoders", ICCV
        2015; in this form Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021.
    """

    card = mnist_card(
        summary="MNIST digits rotated by 0 to 75 degrees; which digit is it?",
        domains=tuple(f"rot{angle}" for angle in ANGLES),
        sizes=(11667, 11667, 11667, 11667, 11666, 11666),
        classes=tuple("0123456789"),
        citation=(
            "M. Ghifary et al. Domain Generalization for Object Recognition with Multi-task Autoencoders. ICCV 2015."
        ),
    )

    def load(self) -> Iterator[TensorDomain]:
        """The domains, by angle."""
        images, digits = self.read_images()
        order = np.random.default_rng(self.options.data_seed).permutation(len(images))
        for i, angle in enumerate(ANGLES):
            part = order[i :: len(ANGLES)]
            rotated = rotate(torch.from_numpy(images[part]), angle)[:, None]  # (N, 1, H, W)
            yield TensorDomain(f"rot{angle}", rotated, torch.from_numpy(digits[part]))


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate counter-clockwise about the centre, as PIL does: bilinear, background 0, fractions cut off.

    torchvision's own rotation of tensors rounds, and fades where the frame ends, so that single pixels
    differ from PIL's, which DomainBed uses, by up to 129 of 255; these differ by at most 1.

    Args:
        images: (N, H, W) uint8.
        degrees: angle.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64)
    grid = F.affine_grid(theta, [1, 1, *images.shape[1:]], align_corners=False)  # (1, H, W, 2)
    # All images see the same grid, so they go through as the channels of one image.
    rotated = F.grid_sample(images[None].double(), grid, padding_mode="border", align_corners=False)[0]
    is_inside = (grid.abs() <= 1).all(-1)  # (1, H, W)
    # The small number keeps whole values from falling to the next lower one by a rounding error.
    return ((rotated + 1e-9) * is_inside).to(torch.uint8)
