"""AugMix of one image, at severity 1 as MEMO has it, on float tensors.

Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan. AugMix: A Simple Data Processing Method to Improve Robustness and
Uncertainty. ICLR 2020. https://arxiv.org/abs/1912.02781
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as vision
from torch import Tensor

NUM_CHAINS, MAX_DEPTH = 3, 3


def augmix(image: Tensor, num: int) -> Tensor:
    """Augmented copies of one image by draws of their own, (num, C, H, W).

    Each is `m * x + (1 - m) * sum_i w_i chain_i(x)`, where x is the image shifted by up to an eighth of its side and
    mirrored half the time, a chain is one to three random operations, w is Dirichlet(1, 1, 1) and m is Beta(1, 1).

    Args:
        image: (C, H, W), of any C, H and W; clipped to [0, 1].
        num: how many copies.
    """
    x = shifted_and_mirrored(image.clamp(0, 1), num)  # (N, C, H, W)
    chains = x.repeat(NUM_CHAINS, 1, 1, 1)  # (3 N, C, H, W)
    depth = torch.randint(1, MAX_DEPTH + 1, (len(chains),))
    for position in range(MAX_DEPTH):
        choice = torch.randint(len(OPERATIONS), depth.shape).where(position < depth, -1)
        sign = 1 - 2 * torch.randint(2, depth.shape)
        strength = (sign * (0.1 + 0.9 * torch.rand(depth.shape)) / 10).to(x)  # of the whole range
        for index, operation in enumerate(OPERATIONS):
            rows = (choice == index).nonzero().squeeze(1).to(x.device)
            if len(rows):
                chains[rows] = operation(chains[rows], strength[rows].view(-1, 1, 1, 1))
    w = torch.distributions.Dirichlet(torch.ones(NUM_CHAINS)).sample((num,)).to(x)  # (N, 3)
    m = torch.rand(num, 1, 1, 1).to(x)  # Beta(1, 1)
    return m * x + (1 - m) * torch.einsum("ni,inchw->nchw", w, chains.view(NUM_CHAINS, *x.shape))


def shifted_and_mirrored(image: Tensor, num: int) -> Tensor:
    """Copies of an image (C, H, W), shifted by up to an eighth of its side, 0 beyond its edge; (num, C, H, W)."""
    height, width = image.shape[-2:]
    down, right = height // 8, width // 8
    padded = F.pad(image, (right, right, down, down))
    crops = padded.unfold(1, height, 1).unfold(2, width, 1)  # (C, 2 down + 1, 2 right + 1, H, W), a view
    x = crops[:, torch.randint(2 * down + 1, (num,)), torch.randint(2 * right + 1, (num,))].transpose(0, 1)
    is_mirrored = torch.rand(num, 1, 1, 1).to(x.device) < 0.5
    return torch.where(is_mirrored, x.flip(-1), x)


# An operation takes images (N, C, H, W) and strengths in [-0.1, 0.1], (N, 1, 1, 1).


def autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]."""
    return vision.autocontrast(x.flatten(0, 1).unsqueeze(1)).view_as(x)


def equalize(x: Tensor, strength: Tensor) -> Tensor:
    """Each channel's histogram, of 256 levels, made flat."""
    return vision.equalize(x)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """16 levels, at any strength this small."""
    return vision.posterize(x, 4)


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    """Inverted where brighter than `1 - |strength|`."""
    return torch.where(x >= 1 - strength.abs(), 1 - x, x)


def rotate(x: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 degrees at full strength, 1."""
    angle = strength * math.radians(30)
    return _mapped(x, xx=angle.cos(), xy=-angle.sin(), yx=angle.sin(), yy=angle.cos())


def shear_x(x: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3."""
    return _mapped(x, xy=0.3 * strength)


def shear_y(x: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3."""
    return _mapped(x, yx=0.3 * strength)


def translate_x(x: Tensor, strength: Tensor) -> Tensor:
    """By up to a third of the width."""
    return _mapped(x, right=strength / 3)


def translate_y(x: Tensor, strength: Tensor) -> Tensor:
    """By up to a third of the height."""
    return _mapped(x, down=strength / 3)


OPERATIONS = (autocontrast, equalize, posterize, solarize, rotate, shear_x, shear_y, translate_x, translate_y)


def _mapped(
    x: Tensor,
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    right: Tensor | float = 0.0,
    down: Tensor | float = 0.0,
) -> Tensor:
    """Images that show at (h, w) from their centre what was at (yx w + yy h, xx w + xy h), grey beyond the edge.

    `right` and `down` are further shifts, as parts of the width and the height.
    """
    height, width = x.shape[-2:]
    entries = (xx, xy * height / width, 2 * right, yx * width / height, yy, 2 * down)  # of the half sides
    matrix = torch.cat([torch.zeros_like(x[:, :1, :1, :1]) + entry for entry in entries], -1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x - 0.5, grid, align_corners=False) + 0.5
