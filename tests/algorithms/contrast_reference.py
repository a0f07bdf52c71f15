"""Contrastive losses again, example by example, on plain tensors; imports nothing from dgbench."""

import torch
from torch import Tensor


def bottleneck(z, y, d, T, conditional=False, flipped=True, normalized=False) -> Tensor:
    """DomainBed's AbstractCAD.bn_loss; not flipped, the example itself is left out."""
    z = z / (z**2).sum(1, keepdim=True).sqrt() if normalized else z
    terms = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and (y[j] == y[i] or not conditional)]
        chosen = [j for j in others if (d[j] != d[i]) == flipped]
        if not chosen or not any(y[j] == y[i] for j in range(len(z)) if j != i):
            continue
        weight = {j: torch.exp(z[i] @ z[j] / T) for j in others}
        log_prob = torch.log(torch.stack([weight[j] for j in chosen]).sum() / torch.stack(list(weight.values())).sum())
        terms.append(-log_prob if flipped else log_prob)
    return T / 0.07 * torch.stack(terms).mean() if terms else torch.zeros((), dtype=z.dtype)


def supervised_contrast(z, y, T=0.07) -> Tensor:
    """Khosla et al. 2020, L_out, over the examples that have another one of their class."""
    z = z / (z**2).sum(1, keepdim=True).sqrt()
    terms = []
    for i in range(len(z)):
        weight = {j: torch.exp(z[i] @ z[j] / T) for j in range(len(z)) if j != i}
        positives = [j for j in weight if y[j] == y[i]]
        if positives:
            shares = torch.stack([weight[j] for j in positives]) / torch.stack(list(weight.values())).sum()
            terms.append(-torch.log(shares).mean())
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=z.dtype)
