"""The information bottleneck of features, by their variance."""

from __future__ import annotations

from torch import Tensor


def mean_variance(features: Tensor) -> Tensor:
    """Mean over domains and features of the unbiased variance among a domain's examples, ().

    Among random variables of one variance the Gaussian has the largest entropy: a small variance bounds the entropy,
    and so the information, that features carry.

    Args:
        features: (D, B, F).

    Raises:
        ValueError: fewer than two examples per domain.

    >>> import torch
    >>> mean_variance(torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 4.0]]]))
    tensor(2.5000)
    """
    B = features.shape[1]
    if B < 2:
        raise ValueError(f"A variance needs at least 2 examples of each domain, got {B}; raise optim.batch_size.")
    return features.var(1).mean()
