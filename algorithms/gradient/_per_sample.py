"""Gradients of each example's own loss in a linear head, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.task import Task


def residuals(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """Gradient of each example's loss in its own outputs, (..., C), at least in single precision.

    Args:
        task: cross-entropy, of classes or of one logit, or squared error.
        outputs: what the head answered, (..., C).
        y: targets, (...) int64, or (..., C) in original units.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if not task.is_classification:
        return 2 * (outputs - task.encode(y)) / outputs.shape[-1]
    if task.single_logit:
        return outputs.sigmoid() - y.unsqueeze(-1)
    return outputs.softmax(-1) - F.one_hot(y, outputs.shape[-1])


def head_gradients(features: Tensor, residual: Tensor) -> Tensor:
    """Gradient of each example's loss in the head's weight (C, F), row by row, and then its bias (C,); (..., C*F + C).

    Args:
        features: what the head reads, (..., F).
        residual: as `residuals` gives it, (..., C).

    >>> head_gradients(torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, -1.0]]))
    tensor([[ 2.,  3., -2., -3.,  1., -1.]])
    """
    weight = residual.unsqueeze(-1) * features.unsqueeze(-2)  # (..., C, F)
    return torch.cat([weight.flatten(-2), residual], -1)
