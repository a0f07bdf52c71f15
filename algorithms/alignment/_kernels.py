"""Maximum mean discrepancies (MMD) by a mixture of Gaussian kernels.

Gretton, Borgwardt, Rasch, Schoelkopf, Smola. A Kernel Two-Sample Test. JMLR 2012, the biased estimate of MMD^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Between rows of x (N, F) and of y (M, F), (N, M), at least 1e-30.

    >>> squared_distances(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[25.],
            [13.]])
    """
    # Small distances are differences of large numbers: fewer digits are lost around the common mean, all of them
    # in half precision.
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(dtype), y.to(dtype)
        origin = y.detach().mean(0)
        x, y = x - origin, y - origin
        squares = x.square().sum(1).unsqueeze(1) + y.square().sum(1)  # (N, M)
        return (squares - 2 * x @ y.mT).clamp(min=1e-30)


def gaussian_kernel(x: Tensor, y: Tensor, gammas: Sequence[float] = GAMMAS) -> Tensor:
    """k(x, y) = sum over gammas of exp(-gamma * |x - y|^2), of rows x (N, F) and y (M, F), (N, M)."""
    squares = squared_distances(x, y)
    return torch.stack([(-gamma * squares).exp() for gamma in gammas]).sum(0)


def mmd(x: Tensor, y: Tensor, gammas: Sequence[float] = GAMMAS) -> Tensor:
    """Squared MMD between the samples x (N, F) and y (M, F), ()."""
    within = gaussian_kernel(x, x, gammas).mean() + gaussian_kernel(y, y, gammas).mean()
    return within - 2 * gaussian_kernel(x, y, gammas).mean()


def mean_pairwise_mmd(samples: Tensor, gammas: Sequence[float] = GAMMAS) -> Tensor:
    """Mean over pairs `i < j` of `mmd(samples[i], samples[j])`, ().

    Every pair of examples enters the kernel once, and K (D, D) holds its means between domains. The sum over
    pairs of `K[i, i] + K[j, j] - 2 * K[i, j]` is then `D * trace(K) - sum(K)`.

    Args:
        samples: features of at least two domains, (D, B, F).
        gammas: of the kernels.
    """
    D, B = samples.shape[:2]
    rows = samples.flatten(0, 1)  # (D*B, F)
    K = gaussian_kernel(rows, rows, gammas).view(D, B, D, B).mean((1, 3))  # (D, D)
    return (D * K.trace() - K.sum()) / (D * (D - 1) / 2)
