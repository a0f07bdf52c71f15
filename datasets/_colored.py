"""The recipe of coloured digits, shared by the MNIST set and its small sister."""

from __future__ import annotations

import numpy as np
import torch

from dgbench.dataset import TensorDomain

COLOR_FLIPS = {"plus90": 0.1, "plus80": 0.2, "minus90": 0.9}
"""Probability, by domain, that the colour contradicts the label."""

LABEL_NOISE = 0.25


def colored_domains(images: np.ndarray, digits: np.ndarray, rng: np.random.Generator) -> list[TensorDomain]:
    """Domains of two-colour images whose colour predicts the label better or worse than the shape does.

    Args:
        images: (N, H, W); the type is kept.
        digits: 0 to 9, (N,).
        rng: draws the partition, the label noise and the colours, in this order.
    """
    order = rng.permutation(len(images))
    domains = []
    for i, (name, flip) in enumerate(COLOR_FLIPS.items()):
        part = order[i :: len(COLOR_FLIPS)]
        label = (digits[part] < 5) ^ (rng.random(len(part)) < LABEL_NOISE)
        color = label ^ (rng.random(len(part)) < flip)
        inputs = np.zeros((len(part), 2, *images.shape[1:]), dtype=images.dtype)
        inputs[np.arange(len(part)), color.astype(np.int64)] = images[part]
        domains.append(TensorDomain(name, torch.from_numpy(inputs), torch.from_numpy(label.astype(np.int64))))
    return domains
