"""An unknown domain made of a known one: which way its inputs are shifted, and how inconsistent gradients are there."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(gradient: Tensor, over: list[int]) -> Tensor:
    """The gradient divided by its norm over some dimensions; what is zero stays so.

    >>> unit(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), over=[0])
    tensor([[0.6000, 0.0000],
            [0.8000, 0.0000]])
    """
    return gradient / torch.linalg.vector_norm(gradient, dim=over, keepdim=True).clamp(min=1e-12)


def style_part(images: Tensor, gradient: Tensor) -> Tensor:
    """How images move if mean and standard deviation of their channels follow the gradient, (N, C, H, W).

    Args:
        images: (N, C, H, W).
        gradient: of the loss in the images, (N, C, H, W).
    """
    over = (-2, -1)
    std = (images.var(over, keepdim=True) + 1e-5).sqrt()  # (N, C, 1, 1)
    whitened = (images - images.mean(over, keepdim=True)) / std
    return gradient.sum(over, keepdim=True) + whitened * (gradient * whitened).sum(over, keepdim=True)


def variance_gap(source: Tensor, unknown: Tensor) -> Tensor:
    """Mean square of half the difference between the variances, both around the mean of `source`, (D,).

    Args:
        source: gradients of the examples, (D, B, P).
        unknown: those on shifted inputs, (D, B, P).
    """
    mean = source.mean(1, keepdim=True)  # (D, 1, P)
    v_s, v_u = (source - mean).square().mean(1), (unknown - mean).square().mean(1)  # (D, P)
    return ((v_s - v_u) / 2).square().mean(1)


def mean_squares(grads: Tensor, C: int) -> Tensor:
    """Mean square of the gradients in the head's weight, plus that in its bias, (D,).

    Args:
        grads: of the examples, weight and then bias, (D, B, P).
        C: size of the bias.
    """
    weight, bias = grads.split([grads.shape[-1] - C, C], -1)
    return weight.square().mean((1, 2)) + bias.square().mean((1, 2))
