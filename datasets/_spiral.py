"""Two clusters that turn and move apart along a spiral, and the graph of which domains are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dgbench.dataset import Card, GeneratedOptions, MultiDomainDataset, TensorDomain

PER_CLASS = 50


class SpiralDataset(MultiDomainDataset):
    """Domains at random angles of a spiral; a subclass gives `card` and `least_affinity`.

    Domain i has an angle a_i ~ U(0, 2 pi). Its classes are the clusters around +m_i and -m_i, where m_i lies in the
    direction of the angle at the radius 1 + 6 a_i / (2 pi). Domains i and j are adjacent with probability
    cos(a_i - a_j), never if that is below `least_affinity`.
    """

    Options = GeneratedOptions
    options: GeneratedOptions
    least_affinity: ClassVar[float]
    adjacency: Tensor
    """Which domains are alike, (D, D) bool, symmetric; no domain is its own neighbour."""

    def load(self) -> Sequence[TensorDomain]:
        """The domains; their metadata (2,) are cosine and sine of the angle."""
        rng = np.random.default_rng(self.options.data_seed)
        angles = rng.uniform(0, 2 * np.pi, len(self.card.domains))
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (D, 2)
        means = directions * (1 + 6 * angles / (2 * np.pi))[:, None]
        targets = torch.arange(2).repeat_interleave(PER_CLASS)
        domains = []
        for name, mean, direction in zip(self.card.domains, means, directions, strict=True):
            noise = truncated_normal(rng, 2 * PER_CLASS)
            inputs = noise + np.repeat([mean, -mean], PER_CLASS, axis=0)  # (100, 2)
            domains.append(TensorDomain(name, _float(inputs), targets.clone(), _float(direction)))
        self.adjacency = torch.from_numpy(draw_graph(rng, directions @ directions.T, self.least_affinity))
        return domains


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def truncated_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    """Standard normal points of the plane given that they lie within a distance of 1, (n, 2)."""
    # The squared radius of a normal point is exponential; its distribution function is inverted below 1.
    inside = 1 - np.exp(-0.5)
    radius = np.sqrt(-2 * np.log1p(-inside * rng.random(n)))
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def draw_graph(rng: np.random.Generator, affinities: np.ndarray, least: float) -> np.ndarray:
    """A symmetric graph without loops, (D, D) bool.

    Args:
        rng: draws one number per pair.
        affinities: probability of each edge, (D, D).
        least: affinities below are no edge.
    """
    is_drawn = np.triu(rng.random(affinities.shape) < np.where(affinities < least, 0, affinities), k=1)
    return is_drawn | is_drawn.T


def spiral_card(num_domains: int, sources: Sequence[int] = (), **facts: Any) -> Card:
    """A card with the facts that hold for all spirals.

    Args:
        num_domains: in all.
        sources: indices of the domains that train; the others are tested on. None: that is left open.
        facts: the others.
    """
    names = tuple(f"d{index}" for index in range(num_domains))
    train = tuple(names[index] for index in sources)
    return Card(
        **facts,
        domains=names,
        sizes=(2 * PER_CLASS,) * num_domains,
        classes=("along", "opposite"),
        regime="small",
        network="mlp",
        num_steps=500,
        evaluate_every=100,
        train_domains=train,
        test_domains=tuple(name for name in names if train and name not in train),
        licence="none needed, the data are computed",
        source="generated from data_seed",
        checksums={},
        citation="Z. Xu, H. He, G.-H. Lee, Y. Wang and H. Wang. Graph-Relational Domain Adaptation. ICLR 2022.",
    )
