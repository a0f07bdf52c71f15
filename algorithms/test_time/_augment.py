"""Random augmentations of whole batches of images in [0, 1], for adapters: jitter of colours, place and sharpness."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import v2

Interval = tuple[float, float]

# By strength: how far from 1 the factors of brightness, contrast, saturation and gamma may be and from 0 the turn of
# the hue (in turns); then degrees of rotation, how far from 1 the scale may be, and the blur's widths in pixels.
_COLOURS = {"hard": (0.4, 0.3, 0.5, 0.3, 0.06), "soft": (0.2, 0.15, 0.25, 0.15, 0.03)}
_PLACE = {"hard": (15.0, 0.1), "soft": (8.0, 0.05)}
_BLUR = {"hard": (1e-3, 0.5), "soft": (1e-3, 0.25)}


def check_copies(number: int) -> None:
    """Refuse a number of augmented copies that is none.

    Raises:
        ValueError: less than one.
    """
    if number < 1:
        raise ValueError(f"adapter.num_augmentations={number}, expected copies. Set it to 1 or more.")


def augment(x: Tensor, strength: Literal["hard", "soft"]) -> Tensor:
    """Augmented copies of all examples by one draw that they share; only the pixels' noise is each one's own.

    The augmentation of CoTTA, RoTTA and ViDA: colour jitter in random order, then an affine map of the image padded by
    its edge to twice its side n, a blur of 5 pixels, the central crop, a mirror image half the time and noise of 0.005.
    Shifts are whole pixels up to 1/16 of the padded side, so n / 8. Images without three channels keep their
    saturation and hue, and each of their channels changes contrast about its own mean.

    Args:
        x: images, (N, C, H, W), of any C, H and W; clipped to [0, 1].
        strength: `hard` or `soft`, which about halves the intervals.
    """
    height, width = x.shape[-2:]
    degrees, scale = _PLACE[strength]
    shared = v2.Compose(
        [
            v2.Pad([-(-width // 2), -(-height // 2)], padding_mode="edge"),
            v2.RandomAffine(
                degrees, translate=(1 / 16, 1 / 16), scale=_around(scale), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.GaussianBlur(5, sigma=_BLUR[strength]),
            v2.CenterCrop([height, width]),
            v2.RandomHorizontalFlip(),
        ]
    )
    x = shared(jitter_colours(x.clamp(0, 1), *_COLOURS[strength]))
    noise = torch.randn(x.shape, dtype=x.dtype).to(x.device)  # drawn on the CPU: the same on every device
    return (x + 0.005 * noise).clamp(0, 1)


def jitter_colours(
    x: Tensor, brightness: float, contrast: float, saturation: float, gamma: float, hue: float
) -> Tensor:
    """Five changes of colour in random order, the same for all images, (N, C, H, W).

    Args:
        x: images in [0, 1], (N, C, H, W).
        brightness: the factor is uniform in [1 - brightness, 1 + brightness], likewise the next three.
        contrast: as `brightness`; 0 would be the mean grey.
        saturation: as `brightness`; 0 would be grey.
        gamma: as `brightness`; the exponent.
        hue: part of a turn of the colour circle, uniform in [-hue, hue].
    """
    changes = [
        partial(F.adjust_brightness, brightness_factor=_uniform(_around(brightness))),
        partial(F.adjust_contrast, contrast_factor=_uniform(_around(contrast))),
        partial(F.adjust_saturation, saturation_factor=_uniform(_around(saturation))),
        partial(F.adjust_hue, hue_factor=_uniform((-hue, hue))),
        partial(_adjust_gamma, gamma=_uniform(_around(gamma))),
    ]
    is_colour = x.shape[1] == 3
    images = x if is_colour else x.flatten(0, 1).unsqueeze(1)  # (N, 3, H, W) or (N * C, 1, H, W)
    for index in torch.randperm(len(changes)).tolist():
        images = changes[index](images)
    return images.view_as(x)


def _adjust_gamma(x: Tensor, gamma: float) -> Tensor:
    return F.adjust_gamma(x.clamp(1e-8, 1), gamma)


def _around(width: float) -> Interval:
    return 1 - width, 1 + width


def _uniform(interval: Interval) -> float:
    low, high = interval
    return low + (high - low) * float(torch.rand(()))
