"""Linear heads as single tensors, the bias last: what methods with more heads than the network's own compute with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgbench.task import Task


def joined(head: nn.Linear) -> Tensor:
    """Weight (C, F) and bias (C,) of a head side by side, (C, F + 1); a copy.

    >>> joined(nn.Linear(7, 4)).shape
    torch.Size([4, 8])
    """
    return torch.cat([head.weight, head.bias.unsqueeze(1)], 1).detach()


def head_risks(task: Task, heads: Tensor, features: Tensor, y: Tensor) -> Tensor:
    """Mean loss of each head on the features that it meets in broadcasting, (...).

    Args:
        task: the loss.
        heads: (..., C, F + 1).
        features: of each domain, (D, B, F).
        y: targets, (D, B) int64 or (D, B, C) in original units.
    """
    outputs = features @ heads[..., :-1].mT + heads[..., -1].unsqueeze(-2)  # (..., B, C)
    rows = outputs.shape[:-1]
    y = y.expand(*rows, *y.shape[2:])
    return task.losses(outputs.flatten(0, -2), y.flatten(0, len(rows) - 1)).view(rows).mean(-1)
