"""Nearest neighbours by cosine in a memory of labelled features, and the class probabilities that they vote for.

Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin, Tan. AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation.
ICML 2023. https://arxiv.org/abs/2304.12566
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING = 1e-5
CHUNK = 16384

Memory = Sequence[tuple[Tensor, Tensor]]
"""Parts of a memory: keys of length 1, (M, F), and their labels, (M,)."""


def directions(features: Tensor) -> Tensor:
    """Features (N, F) of length 1, at least in single precision."""
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Of queries (N, F) and keys (M, F) of length 1, (N, M)."""
    # Divided by small temperatures they are too coarse in half precision.
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.mT


def vote(similarities: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """`p_c = min(sum of softmax(similarities / T) over neighbours of class c + 1e-5, 1)`, (N, C).

    Args:
        similarities: of the neighbours, (N, K); one of -inf is no neighbour, and without any p is 1e-5.
        labels: of the neighbours, (N, K).
        temperature: T.
        num_classes: C.

    >>> vote(torch.tensor([[0.96, 0.8]]), torch.tensor([[1, 0]]), temperature=0.1, num_classes=2)
    tensor([[0.1680, 0.8320]])
    """
    # Finite, so that the softmax is so without neighbours too, and its gradient 0.
    logits = (similarities / temperature).clamp(min=torch.finfo(similarities.dtype).min)
    weights = logits.softmax(1) * (similarities > -math.inf)  # (N, K)
    return _smoothed(weights.new_zeros(len(weights), num_classes).scatter_add(1, labels, weights))


def nearest(queries: Tensor, memory: Memory, k: int, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Cosines of the k nearest keys, largest first, and their labels, (N, K) each; K < k in a smaller memory.

    Exact: all N * M cosines are computed, those of `chunk` keys at a time.

    Args:
        queries: of length 1, (N, F).
        memory: its parts, which are not copied.
        k: most neighbours of a query.
        chunk: keys that are compared at a time.
    """
    best = queries.new_empty(len(queries), 0)
    best_labels = torch.empty_like(best, dtype=torch.int64)
    for keys, labels in _chunks(memory, chunk):
        top, rows = cosines(queries, keys).topk(min(k, len(keys)))  # (N, K) of the chunk
        best, best_labels = torch.cat([best, top], 1), torch.cat([best_labels, labels[rows]], 1)
        best, order = best.topk(min(k, best.shape[1]))
        best_labels = best_labels.gather(1, order)
    return best, best_labels


def ball_vote(
    queries: Tensor,
    memory: Memory,
    largest: Tensor,
    *,
    radius: float,
    temperature: float,
    num_classes: int,
    chunk: int = CHUNK,
) -> Tensor:
    """As `vote`, by all keys whose cosine is at least `radius`, (N, C).

    Args:
        queries: of length 1, (N, F).
        memory: its parts.
        largest: cosine of each query's nearest key, (N,).
        radius: least cosine of a neighbour, epsilon.
        temperature: T.
        num_classes: C.
        chunk: keys that are compared at a time.
    """
    shares = queries.new_zeros(len(queries), num_classes)
    for keys, labels in _chunks(memory, chunk):
        similarities = cosines(queries, keys)  # (N, M)
        weights = ((similarities - largest.detach().unsqueeze(1)) / temperature).exp()
        weights = weights.masked_fill(similarities < radius, 0.0)
        shares = shares.scatter_add(1, labels.expand_as(weights), weights)
    # The nearest weighs 1: less is nothing.
    return _smoothed(shares / shares.sum(1, keepdim=True).clamp(min=1))


def _smoothed(shares: Tensor) -> Tensor:
    return (shares + SMOOTHING).clamp(max=1)


def _chunks(memory: Memory, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    for keys, labels in memory:
        if len(keys):
            yield from zip(keys.split(chunk), labels.split(chunk), strict=True)
