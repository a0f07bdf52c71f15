"""Batch norms of other statistics than the source's, and the parameters of normalisation layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbench.adapter import NORMS, is_norm


class MixedBatchNorm(nn.Module):
    """Batch norm by `share * source + (1 - share) * batch` of the means and of the (biased) variances.

    Keeps no statistics of its own: a share of 0 normalises by the batch alone, 1 is the trained layer in evaluation.

    Args:
        norm: the trained layer; its weight and bias are taken over, not copied.
        share: the source's share, given the number of examples in the batch.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, share: Callable[[int], float]):
        super().__init__()
        self.weight, self.bias, self.eps, self.share = norm.weight, norm.bias, norm.eps, share
        # timm's layers end in an activation of their own.
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalised activations, (N, C) or (N, C, H, W)."""
        share = self.share(len(x))
        others = [axis for axis in range(x.ndim) if axis != 1]
        if share == 0 and x.numel() > x.shape[1]:
            return self.after(F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps))
        var, mean = torch.var_mean(x, others, correction=0)  # (C,)
        mean = share * self.running_mean + (1 - share) * mean
        var = share * self.running_var + (1 - share) * var
        if not x.requires_grad:
            return self.after(F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps))
        # In one call the statistics would be constants to the gradient.
        shape = (1, -1, *[1] * (x.ndim - 2))
        normalised = (x - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return self.after(normalised)


def replace_batch_norms(module: nn.Module, share: Callable[[int], float]) -> None:
    """Put a `MixedBatchNorm` in the place of every batch norm of `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if is_norm(child, "batch"):
                setattr(parent, name, MixedBatchNorm(child, share))  # type: ignore[arg-type]


def batch_statistics(num_examples: int) -> float:
    """The share of a batch norm that forgets the source's statistics."""
    return 0.0


def affine_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of all normalisation layers, in order."""
    kinds: Any = (MixedBatchNorm, *(kind for group in NORMS.values() for kind in group))
    layers = [part for part in module.modules() if isinstance(part, kinds)]
    return [p for layer in layers for p in layer.parameters(recurse=False)]


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, (N,)."""
    return -(logits.softmax(1) * F.log_softmax(logits, 1)).sum(1)
