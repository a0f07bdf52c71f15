"""The parts of an adversary: the discriminator, and the gradient reversal that turns features against it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def discriminator_loss(
    discriminator: nn.Module,
    features: Tensor,
    domain: Tensor,
    grad_penalty: float = 0.0,
    divisor: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy between domains, and the mean squared norm of its gradients in the features, ().

    Args:
        discriminator: from features (N, F) to logits.
        features: what it sees, (N, F).
        domain: index of each example's domain, (N,).
        grad_penalty: weight of the gradients' norm.
        divisor: of each example's cross-entropy in their sum, (N,); None: N, the mean.
    """
    if grad_penalty > 0 and not features.requires_grad:
        features = features.detach().requires_grad_()
    losses = F.cross_entropy(discriminator(features), domain, reduction="none")  # (N,)
    loss = losses.mean() if divisor is None else (losses / divisor).sum()  # ()
    if grad_penalty == 0:
        return loss
    (slope,) = torch.autograd.grad(losses.sum(), features, create_graph=True)  # (N, F)
    return loss + grad_penalty * slope.square().sum(1).mean()


def reversal_schedule(progress: float) -> float:
    """lambda_p at `progress` p in [0, 1].

    >>> reversal_schedule(0.0), round(reversal_schedule(1.0), 5)
    (0.0, 0.99991)
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """`x` itself, whose gradient is multiplied by `-weight` on its way back."""
    return _ReverseGradient.apply(x, weight)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None


def mlp(num_inputs: int, num_outputs: int, *, width: int, depth: int, dropout: float) -> nn.Sequential:
    """`depth` linear layers with dropout and ReLU between them."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(num_inputs, width), nn.Dropout(dropout), nn.ReLU()]
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))
