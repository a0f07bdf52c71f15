"""Batch norms of other statistics than the source's, and the parameters of normalisation layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbench.adapter import NORMS, is_norm
from dgbench.algorithm import Algorithm

from ._parts import parameters_of


class OtherBatchNorm(nn.Module):
    """The weight, bias and statistics of a batch norm, for layers that normalise by other statistics than it does.

    Args:
        norm: the trained layer; its weight and bias are taken over, not copied.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        # timm's layers end in an activation of their own.
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def by_constants(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Activations (N, C) or (N, C, H, W), normalised by statistics (C,) to which no gradient goes."""
        return self.after(F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps))

    def by(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Activations (N, C) or (N, C, H, W), normalised by statistics (C,) that are functions of them."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        normalised = (x - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return self.after(normalised)

    def mixed(self, x: Tensor, source: float, batch: float) -> tuple[Tensor, Tensor]:
        """The layer's and the batch's means, and (biased) variances, summed with these weights, (C,) and (C,)."""
        var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)  # (C,)
        return source * self.running_mean + batch * mean, source * self.running_var + batch * var


class MixedBatchNorm(OtherBatchNorm):
    """Batch norm by `share * source + (1 - share) * batch` of the means and of the (biased) variances.

    Keeps no statistics of its own: a share of 0 normalises by the batch alone, 1 is the trained layer in evaluation.

    Args:
        norm: the trained layer; its weight and bias are taken over, not copied.
        share: the source's share, given the number of examples in the batch.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, share: Callable[[int], float]):
        super().__init__(norm)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Normalised activations, (N, C) or (N, C, H, W)."""
        share = self.share(len(x))
        if share == 0 and x.numel() > x.shape[1]:
            return self.after(F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps))
        mean, var = self.mixed(x, share, 1 - share)
        return self.by(x, mean, var) if x.requires_grad else self.by_constants(x, mean, var)


def replace_batch_norms(module: nn.Module, share: Callable[[int], float]) -> None:
    """Put a `MixedBatchNorm` in the place of every batch norm of `module`."""
    replace(module, lambda norm: MixedBatchNorm(norm, share))


def replace(module: nn.Module, other: Callable[[Any], OtherBatchNorm]) -> None:
    """Put another layer, made of the trained one, in the place of every batch norm of `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if is_norm(child, "batch"):
                setattr(parent, name, other(child))


def batch_statistics(num_examples: int) -> float:
    """The share of a batch norm that forgets the source's statistics."""
    return 0.0


def affine_parameters(algorithm: Algorithm, layers: Iterable[nn.Module] | None = None) -> list[nn.Parameter]:
    """Weights and biases of normalisation layers, in order, those that predictions read.

    A model may hold networks that no prediction reads, as ERM++ holds the one that it trained.

    Args:
        algorithm: a model whose parameters require no gradients.
        layers: of these alone; None: of all.

    Raises:
        ValueError: there are none.
    """
    kinds: Any = (OtherBatchNorm, *(kind for group in NORMS.values() for kind in group))
    if layers is None:
        layers = [part for part in algorithm.modules() if isinstance(part, kinds)]
    is_read = {id(p) for p in parameters_of(algorithm, "all")}
    weights = [p for layer in layers for p in layer.parameters(recurse=False) if id(p) in is_read]
    if not weights:
        raise ValueError(
            f"The predictions of {type(algorithm).__name__} on network={algorithm.network.recipe['name']} read no "
            "weights of normalisation layers, expected some to adapt. Train with network.norm=batch, or use another "
            "adapter."
        )
    return weights


def statistics_of(layers: Iterable[nn.Module]) -> list[Tensor]:
    """Copies of the running statistics of some layers, in order."""
    return [buffer.clone() for layer in layers for buffer in layer.buffers(recurse=False)]


def are_finite(values: Iterable[Tensor]) -> bool:
    """Whether no number among some tensors is NaN or infinite."""
    return bool(torch.stack([value.isfinite().all() for value in values]).all())


@torch.no_grad()
def put_back(layers: Iterable[nn.Module], statistics: Iterable[Tensor]) -> None:
    """Set the running statistics of some layers to copies that `statistics_of` made."""
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    for buffer, value in zip(buffers, statistics, strict=True):
        buffer.copy_(value)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, (N,)."""
    return -(logits.softmax(1) * F.log_softmax(logits, 1)).sum(1)
