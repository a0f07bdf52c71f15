"""A trained net of two hidden layers with batch norm, and its answer by the batch's statistics on plain tensors."""

import functools
from typing import Any

import torch

from dgbench.adapter import build_adapter
from dgbench.batch import Batch
from tests.algorithms.reference import make, random_batches, train

AFFINE = (2, 3, 6, 7)
"""Positions of the batch norms' weights and biases among the parameters."""


@functools.cache
def trained(norm: str = "batch", sharpness: float = 6.0, **network):
    """ERM in float64 with logits stretched until some of the predictions are certain."""
    algorithm = train(make("erm", norm=norm, depth=2, **network), random_batches(5)).eval()
    with torch.no_grad():
        algorithm.network.head.weight.mul_(sharpness)
    return algorithm


def stream(num: int = 6, size: int = 9, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 5, generator=generator, dtype=torch.float64) for _ in range(num)]


def source(num: int = 40, batch: int = 16, shape=(5,), dtype=torch.float64):
    x = torch.randn(1, num, *shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    # An adapter that read labels would fail.
    nothing: Any = None
    return [Batch(rows, nothing, nothing) for rows in x.split(batch, 1)]


def run(name, algorithm, batches, **options):
    """The adapter after the stream, and its answers."""
    adapter = build_adapter(name, algorithm, **options)
    return adapter, [adapter.step(x) for x in batches]


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def answer(w, x):
    """Logits with biased statistics of the batch; `w` is [W, b, gamma, beta] twice, then the head."""
    for W, b, gamma, beta in (w[0:4], w[4:8]):
        h = x @ W.T + b
        mean = h.mean(0)
        x = ((h - mean) / (((h - mean) ** 2).mean(0) + 1e-5) ** 0.5 * gamma + beta).clamp(min=0)
    return x @ w[8].T + w[9]


def entropies(z):
    p = (z - z.max(1, keepdim=True).values).exp()
    p = p / p.sum(1, keepdim=True)
    return -(p * p.log()).sum(1)
