"""Contrastive losses: what an example's similarities to the others of the batch tell of their classes and domains."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BASE_TEMPERATURE = 0.07


def domain_bottleneck(
    features: Tensor,
    labels: Tensor,
    domains: Tensor,
    temperature: float,
    *,
    is_conditional: bool = False,
    is_flipped: bool = True,
    is_normalized: bool = False,
) -> Tensor:
    """How well an example's nearest others tell its domain, ().

    An example i picks another one j with probability p(j | i) proportional to exp(z_i . z_j / T). The bottleneck is
    T / 0.07 times the mean of `-log p(other domain | i)`, or, not flipped, of `log p(same domain | i)`, over the
    examples with another one of their class in the batch. Conditional, j is one of the same class. Examples for which
    there is no such j are left out of the mean, which is 0 without any.

    Args:
        features: representations z, (N, F).
        labels: classes, (N,).
        domains: index of each example's domain, (N,).
        temperature: T.
        is_conditional: compare within classes.
        is_flipped: raise the probability of other domains, instead of lowering that of the same one.
        is_normalized: compare directions: features of length 1.
    """
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)  # (N, N)
    is_same_class = (labels.unsqueeze(1) == labels) & others
    is_same_domain = domains.unsqueeze(1) == domains
    candidates = is_same_class if is_conditional else others
    chosen = candidates & (~is_same_domain if is_flipped else is_same_domain)
    logits = similarities(features, temperature, is_normalized=is_normalized)  # (N, N)
    log_prob = masked_logsumexp(logits, chosen) - masked_logsumexp(logits, candidates)  # (N,)
    mean = masked_mean(log_prob, chosen.any(1) & is_same_class.any(1))
    return (-1 if is_flipped else 1) * temperature / BASE_TEMPERATURE * mean


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float = BASE_TEMPERATURE) -> Tensor:
    """The supervised contrastive loss L_out: classes form clusters of directions, ().

    The mean of `-log p(j | i)` over the others j of the class of i, then over the examples i that have any, with p as
    in `domain_bottleneck`.

    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan. Supervised Contrastive Learning.
    NeurIPS 2020. https://arxiv.org/abs/2004.11362

    Args:
        features: of any length, (N, F); their directions are compared.
        labels: classes, (N,).
        temperature: what cosines are divided by.
    """
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)  # (N, N)
    positives = (labels.unsqueeze(1) == labels) & others
    logits = similarities(features, temperature, is_normalized=True)  # (N, N)
    log_prob = logits - masked_logsumexp(logits, others).unsqueeze(1)  # (N, N)
    counts = positives.sum(1)  # (N,)
    loss = -log_prob.masked_fill(~positives, 0.0).sum(1) / counts.clamp(min=1)  # (N,)
    return masked_mean(loss, counts > 0)


def similarities(features: Tensor, temperature: float, *, is_normalized: bool) -> Tensor:
    """Inner products of all pairs of features (N, F), or their cosines, over the temperature, (N, N)."""
    # Divided by small temperatures they are too large for half precision.
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        features = F.normalize(features, dim=1) if is_normalized else features
        return features @ features.mT / temperature


def masked_logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    """Log of the sum of exp(logits) where `mask` (N, M) holds, (N,); -inf for a row in which it never does.

    >>> masked_logsumexp(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]])).exp()
    tensor([2., 0.])
    """
    return logits.masked_fill(~mask, -math.inf).logsumexp(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values (N,) where `mask` holds, (); 0 if it nowhere does. Elsewhere they may be infinite or NaN.

    >>> masked_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
