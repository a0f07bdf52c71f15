"""Layers that normalise: inputs by the statistics of the data, activations within a net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NORMS = ("none", "batch", "group", "layer", "instance_aware")


class Normalise(nn.Module):
    """`(x - mean) / std` per channel, or per feature of a vector; as built, the identity.

    Args:
        input_shape: of an example, channels first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: tuple[int, ...]):
        super().__init__()
        shape = (input_shape[0], *[1] * (len(input_shape) - 1))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised inputs (N, *input_shape)."""
        return (x - self.mean) / self.std

    def fit(self, x: Tensor) -> None:
        """Take the statistics of training inputs (N, *input_shape); what is constant keeps its scale."""
        rows = x.double().transpose(0, 1).flatten(1)  # (C, N * ...)
        std = rows.std(1, correction=0)
        self.set(rows.mean(1), torch.where(std > 0, std, 1.0))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take statistics of the first channels (n,); channels beyond these pass unchanged."""
        num = min(len(mean), len(self.mean))
        for buffer, values, neutral in ((self.mean, mean, 0.0), (self.std, std, 1.0)):
            buffer.fill_(neutral)
            buffer[:num] = values[:num].reshape(num, *buffer.shape[1:]).to(buffer)


def make_norm(norm: str, channels: int, *, is_flat: bool = False) -> nn.Module:
    """The normalisation of maps, or of flat activations, by name."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return nn.GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels)
    if norm == "layer":
        return nn.LayerNorm(channels) if is_flat else nn.GroupNorm(1, channels)
    if norm == "instance_aware":
        return InstanceAwareBatchNorm2d(channels)
    return nn.BatchNorm1d(channels) if is_flat else nn.BatchNorm2d(channels)


class InstanceAwareBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that moves to an instance's own statistics where they differ significantly (IABN).

    Where an instance's mean or variance lies beyond `k` standard errors of the batch's, that excess is kept.
    Maps of a single pixel have no variance of their own and are normalised by the batch's.
    Reference: Gong et al., NOTE, NeurIPS 2022, https://arxiv.org/abs/2208.05117.

    Args:
        num_features: channels.
        k: standard errors that are still noise; infinite is batch norm, 0 is instance norm.
    """

    def __init__(self, num_features: int, k: float = 4.0, **kwargs: Any):
        super().__init__(num_features, **kwargs)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Normalised maps, (N, C, H, W)."""
        self._check_input_dim(x)
        # Variances of half-precision maps overflow.
        maps = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, var = (s.view(1, -1, 1, 1) for s in self._batch_statistics(maps))
        num_pixels = x.shape[2] * x.shape[3]
        if num_pixels > 1:
            own_var, own_mean = torch.var_mean(maps, (2, 3), keepdim=True)  # (N, C, 1, 1)
            spread = var + self.eps
            mean = mean + _beyond(own_mean - mean, self.k * (spread / num_pixels).sqrt())
            var = (var + _beyond(own_var - var, self.k * spread * (2 / (num_pixels - 1)) ** 0.5)).relu()
        maps = (maps - mean) * (var + self.eps).rsqrt()
        if self.affine:
            maps = maps * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return maps.to(x.dtype)

    def _batch_statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training and running_mean is not None and running_var is not None:
            return running_mean, running_var
        if maps.numel() == maps.shape[1]:
            raise ValueError("norm=instance_aware needs more than one value per channel to train, got one.")
        var, mean = torch.var_mean(maps, (0, 2, 3))
        if self.training and running_mean is not None and running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), weight)
                running_var.lerp_(var.to(running_var.dtype), weight)
        return mean, var


def _beyond(value: Tensor, margin: Tensor) -> Tensor:
    return value - torch.minimum(torch.maximum(value, -margin), margin)
