"""The running mean of weights: in place, in a few launches for all tensors together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def accumulate(average: Sequence[Tensor], values: Sequence[Tensor], count: int) -> None:
    """Take `values` into the mean of the `count` earlier ones, in place: `(average * count + value) / (count + 1)`.

    With `count` 0 the average becomes `values`, whatever it was, and the mean of equal values is that value, both
    bit for bit. Floating tensors are averaged in the average's own precision; others, such as counts, are copied.

    Args:
        average: the mean of `count` values, changed in place.
        values: what is taken in, of the same shapes.
        count: how many values the average holds already.

    >>> mean = [torch.tensor([2.0, 4.0]), torch.tensor(1)]
    >>> accumulate(mean, [torch.tensor([8.0, 4.0]), torch.tensor(9)], count=2)
    >>> mean
    [tensor([4., 4.]), tensor(9)]
    """
    pairs = list(zip(average, values, strict=True))
    averaged = [(a, v.to(a)) for a, v in pairs if count > 0 and a.is_floating_point()]
    copied = [(a, v) for a, v in pairs if count == 0 or not a.is_floating_point()]
    if averaged:
        torch._foreach_lerp_([a for a, _ in averaged], [v for _, v in averaged], 1 / (count + 1))
    if copied:
        torch._foreach_copy_([a for a, _ in copied], [v for _, v in copied])
