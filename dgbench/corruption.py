"""Common corruptions of images, by family and severity.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
https://arxiv.org/abs/1903.12261

Constants are those of ImageNet-C at side 224 and of CIFAR-10-C at side 32. The rule for other sides, where the side is
the shorter one: from 64 pixels on the first, below the second; lengths in pixels are multiplied by side / 224 or
side / 32; strengths, ratios (zoom, pixelate) and the quality of JPEG stay as they are. Noise stays noise of single
pixels; what is drawn as shapes (snow, spatter) is drawn at the constants' own side and made smaller with the image.

Any number of channels: each has noise of its own, blurs, contrast and JPEG treat all alike, snow, fog and frost are
grey, brightness and saturation are HSV's, whose value is the largest channel.

Differs from the authors' code: it reproduces their statistics, not the pixels of the published files. Motion blur is a
line kernel in place of ImageMagick's. Frost is procedural, hence `frost_procedural`, in place of five photographs.
The water of `spatter` is lit by embossing alone. A level of 1/255 that only rounding errors miss counts as reached
when the result is cut to such levels, as theirs is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgbench import corruption_families as families
from dgbench.corruption_fields import Draws
from dgbench.registry import UnknownName

SEVERITIES = (1, 2, 3, 4, 5)
SMALL_BELOW = 64
"""Side from which on the constants are ImageNet-C's."""
_TOGETHER = 16
"""Images that are in work at a time: bounds memory."""


class Family(NamedTuple):
    """How a family is made, and its constants by severity."""

    function: Callable[..., Tensor]
    small: Sequence[tuple[float, ...]]
    """CIFAR-10-C's, lengths in pixels of side 32."""
    large: Sequence[tuple[float, ...]]
    """ImageNet-C's, lengths in pixels of side 224."""


def _each(*values: float) -> list[tuple[float, ...]]:
    return [(value,) for value in values]


FAMILIES: dict[str, Family] = {
    "gaussian_noise": Family(
        families.gaussian_noise, _each(0.04, 0.06, 0.08, 0.09, 0.10), _each(0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Family(families.shot_noise, _each(500, 250, 100, 75, 50), _each(60, 25, 12, 5, 3)),
    "impulse_noise": Family(
        families.impulse_noise, _each(0.01, 0.02, 0.03, 0.05, 0.07), _each(0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "defocus_blur": Family(  # radius, smoothing of the rim
        families.defocus_blur,
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    ),
    "glass_blur": Family(  # deviation, farthest neighbour, times
        families.glass_blur,
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    ),
    "motion_blur": Family(  # radius, deviation
        families.motion_blur,
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    ),
    "zoom_blur": Family(  # step, number of enlargements
        families.zoom_blur,
        [(0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)],
        [(0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)],
    ),
    "snow": Family(  # mean, deviation, enlargement, threshold, radius, deviation of the smear, share of the scene
        families.snow,
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    "frost_procedural": Family(  # share of the scene, share of the ice
        families.frost_procedural,
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    ),
    "fog": Family(  # strength, decay of the clouds
        families.fog,
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    ),
    "brightness": Family(families.brightness, _each(0.05, 0.10, 0.15, 0.20, 0.30), _each(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Family(families.contrast, _each(0.75, 0.5, 0.4, 0.3, 0.15), _each(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Family(  # displacement, deviation of its smoothing, jitter of the affine map
        families.elastic_transform,
        [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
        # The authors multiply by 244, not 224.
        [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)],
    ),
    "pixelate": Family(families.pixelate, _each(0.95, 0.9, 0.85, 0.75, 0.65), _each(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Family(families.jpeg_compression, _each(80, 65, 58, 50, 40), _each(25, 18, 15, 10, 7)),
    "speckle_noise": Family(
        families.speckle_noise, _each(0.06, 0.10, 0.12, 0.16, 0.20), _each(0.15, 0.20, 0.35, 0.45, 0.60)
    ),
    "gaussian_blur": Family(families.blur, _each(0.4, 0.6, 0.7, 0.8, 1), _each(1, 2, 3, 4, 6)),
    "spatter": Family(  # mean, deviation, deviation of the blur, threshold, strength or blur of the drops, mud
        families.spatter,
        [
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ],
        [
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ],
    ),
    "saturate": Family(
        families.saturate,
        [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
        [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    ),
}
STANDARD = tuple(FAMILIES)[:15]
"""The families on which methods are compared, in the benchmark's order."""
DEVELOPMENT = tuple(FAMILIES)[15:]
"""The families for choosing hyper-parameters."""


def corrupt(x: Tensor, family: str, severity: int, seeds: Sequence[int]) -> Tensor:
    """Corrupted images, (N, C, H, W) float in [0, 1], multiples of 1/255.

    What becomes of an image depends on it and on its seed alone, whatever else is in the batch. One with pixels that
    are NaN or infinite becomes NaN throughout.

    Args:
        x: images in [0, 1], (N, C, H, W).
        family: one of `FAMILIES`.
        severity: 1 to 5.
        seeds: of the images.

    Raises:
        UnknownName: no such family or severity.
        ValueError: these are not images, or not one seed for each.
    """
    if family not in FAMILIES:
        raise UnknownName("corruption", family, FAMILIES)
    if severity not in SEVERITIES:
        raise UnknownName("severity", severity, map(str, SEVERITIES))
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"Corruptions are for images (N, C, H, W) in [0, 1], got {x.dtype} of shape {tuple(x.shape)}.")
    if len(seeds) != len(x):
        raise ValueError(f"Got {len(seeds)} seeds for {len(x)} images, expected one for each.")
    side = min(x.shape[-2:])
    function, small, large = FAMILIES[family]
    constants, scale = (small, side / 32) if side < SMALL_BELOW else (large, side / 224)
    is_finite = x.flatten(1).isfinite().all(1).view(-1, 1, 1, 1)  # (N, 1, 1, 1)
    x = x.where(is_finite, 0)
    parts = []
    for start in range(0, len(x), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        draws = Draws(seeds[part], x.device)
        parts.append(families.quantised(function(x[part].double(), draws, scale, *constants[severity - 1])))
    return torch.cat(parts).float().where(is_finite, torch.nan) if parts else x
