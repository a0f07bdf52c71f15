"""Quantiles of a kernel density estimate with Gaussian kernels, of few values such as the domains' risks."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

ROUNDS, PARTS = 4, 256
# Equal values have no spread, and the slope of its root is not finite there.
LEAST_VARIANCE = 1e-12


def bandwidth(values: Tensor) -> Tensor:
    """Width of the kernels that is optimal for a Gaussian density, `1.06 * std * D**(-1/5)`, (), above 0.

    Scott. Multivariate Density Estimation. Wiley 1992.

    Args:
        values: at least two, (D,).

    Raises:
        ValueError: fewer than two values.
    """
    D = len(values)
    if D < 2:
        raise ValueError(f"A bandwidth needs at least 2 domains in a batch, got {D}; use protocol.sampling=balanced.")
    return 1.06 * values.var().clamp(min=LEAST_VARIANCE).sqrt() * D**-0.2


def cdf(points: Tensor, values: Tensor, width: Tensor) -> Tensor:
    """Share of the density that lies below each point, (P,).

    Args:
        points: where it is asked for, (P,).
        values: centres of the kernels, (D,).
        width: standard deviation of the kernels, ().
    """
    return torch.special.ndtr((points.unsqueeze(1) - values) / width).mean(1)


def quantile(values: Tensor, level: float) -> Tensor:
    """The point below which lies a share `level` of the density, ().

    It lies between the quantiles of the outermost kernels, at a share of the way that a bisection finds. The share
    counts as constant: gradients flow through these two alone, that is through the least and the largest of the
    values and the bandwidth.

    Args:
        values: at least two, (D,).
        level: in (0, 1).

    Raises:
        ValueError: fewer than two values.
    """
    width = bandwidth(values)
    offset = NormalDist().inv_cdf(level) * width
    low, high = values.min() + offset, values.max() + offset  # (), ()
    return low + _share(values, width, level, low, high) * (high - low)


@torch.no_grad()
def _share(values: Tensor, width: Tensor, level: float, low: Tensor, high: Tensor) -> Tensor:
    # As 32 halvings, but a round takes eight of them at once, and none waits for the device.
    share, length = torch.zeros_like(low), 1.0
    parts = torch.arange(PARTS, dtype=low.dtype, device=low.device) / PARTS  # (P,)
    for _ in range(ROUNDS):
        shares = share + length * parts  # (P,)
        num_below = (cdf(low + shares * (high - low), values, width) < level).sum()  # ()
        share, length = shares.gather(0, (num_below - 1).clamp(min=0).view(1)).squeeze(0), length / PARTS
    return share + length / 2


def far_quantile(values: Tensor, log_tail: float) -> Tensor:
    """Where the density above has a share `exp(log_tail)`, too small for `quantile`, approximately, ().

    `1 - Phi(z)` falls like `exp(-z**2 / 2)`, hence `z = sqrt(-2 * log_tail)` widths above the mean of the values.

    Args:
        values: at least two, (D,).
        log_tail: negative.

    Raises:
        ValueError: fewer than two values.
    """
    return values.mean() + bandwidth(values) * math.sqrt(-2 * log_tail)
