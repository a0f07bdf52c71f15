"""First and second moments of features, and how far they lie apart."""

from __future__ import annotations

from torch import Tensor


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., F) and unbiased covariance (..., F, F) of features (..., N, F).

    Raises:
        ValueError: fewer than two examples.

    >>> import torch
    >>> mean_and_covariance(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    (tensor([1., 3.]), tensor([[2., 4.],
            [4., 8.]]))
    """
    N = features.shape[-2]
    if N < 2:
        raise ValueError(f"A covariance needs at least 2 examples of each domain, got {N}; raise optim.batch_size.")
    mean = features.mean(-2, keepdim=True)
    centred = features - mean
    return mean.squeeze(-2), centred.mT @ centred / (N - 1)


def mean_pairwise_distance(values: Tensor) -> Tensor:
    """Mean over pairs `i < j` of `mean((values[i] - values[j])**2)`, ().

    The mean squared difference of pairs is twice the unbiased variance, so no pair has to be formed.

    Args:
        values: one tensor for each of at least two domains, (D, ...).

    >>> import torch
    >>> mean_pairwise_distance(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    tensor(5.)
    """
    return 2 * values.var(0).mean()
