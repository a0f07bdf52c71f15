"""Partners within a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def partners(same: Tensor, other: Tensor) -> Tensor:
    """A random partner of each example, uniform among those of the same `same` and another `other`, (N,).

    An example without one is its own partner. Ranks in a sorted batch take the place of an (N, N) mask, which would
    not fit into memory where a batch is a whole split.

    Args:
        same: what partners share, (N,), integers from 0.
        other: what they do not, (N,), integers from 0.

    >>> partners(same=torch.tensor([0, 0, 1, 1, 2]), other=torch.tensor([0, 1, 0, 1, 0]))
    tensor([1, 0, 3, 2, 4])
    """
    num = other.max() + 1
    key = same * num + other  # blocks of one `same`, and in each a run of every `other`
    keys, order = key.sort(stable=True)
    block = torch.searchsorted(keys, same * num)
    block_end = torch.searchsorted(keys, same * num + num)
    run, run_end = torch.searchsorted(keys, key), torch.searchsorted(keys, key, right=True)
    eligible = (block_end - block) - (run_end - run)  # (N,)
    draw = torch.rand(len(key)).to(key.device) * eligible
    # A draw may be rounded up to `eligible` itself. Without anybody eligible the rank is that before the block, unused.
    rank = block + draw.long().minimum(eligible - 1)
    rank = rank + (run_end - run) * (rank >= run)
    return torch.where(eligible > 0, order[rank], torch.arange(len(key), device=key.device))
