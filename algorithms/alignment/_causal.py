"""Two random mixtures of the training domains, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def random_mixtures(features: Tensor) -> tuple[Tensor, Tensor]:
    """All rows of features (D, B, F), in two mixtures (N, F) and (M, F) of the domains, N + M = D * B.

    The first takes the first r rows of a domain, the second the rest; r is drawn uniformly from 0, ..., B - 1 for every
    domain, by torch's global generator.
    """
    D, B = features.shape[:2]
    cuts = torch.randint(B, (D,)).tolist()
    first = [rows[:cut] for rows, cut in zip(features, cuts, strict=True)]
    second = [rows[cut:] for rows, cut in zip(features, cuts, strict=True)]
    return torch.cat(first), torch.cat(second)


def mixture_distance(features: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The distance between two random mixtures of the domains, (); 0 where one has fewer than two examples.

    Args:
        features: examples of each domain, (D, B, F).
        distance: between two samples, (N, F) and (M, F).
    """
    first, second = random_mixtures(features)
    if min(len(first), len(second)) < 2:
        return features.new_zeros(())
    return distance(first, second)
