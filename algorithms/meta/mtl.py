"""MTL: a classifier that also reads what its domain looks like, the mean of the domain's features.

Blanchard, Deshmukh, Dogan, Lee, Scott. Domain Generalization by Marginal Transfer Learning. JMLR 2021.
https://arxiv.org/abs/1711.07910

In training the embedding of a domain is a moving average of the means of its batches, of which only the current one has
a gradient; in evaluation it is the mean of the batch, which therefore holds examples of one domain alone.

Differs from the paper (as DomainBed does): features and their mean are learned, where the paper embeds the
distribution of the inputs by a fixed kernel, and the classifier is linear in both instead of a kernel machine.
Differs from DomainBed: the classifier reads the embedding, which is overwritten with random noise there, in training
and in evaluation; and there is one forward pass for all domains, which batch normalisation notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, hparam
from dgbench.network import Network
from dgbench.task import Task


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MTL."""

    ema: float = hparam(
        0.99, choices(0.5, 0.9, 0.99, 1.0), "part that the current batch has in its domain's embedding", key="mtl_ema"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.ema <= 1:
            raise ValueError(f"algorithm.ema={self.ema}, expected a part from 0 to 1.")


class MTL(Algorithm):
    """Minimise `sum(R)` over the risks `R` (D,) of `head([f, e])`, features `f` (D, B, F), embeddings `e` (D, F)."""

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_labels=True, domain_rows=True, joint_prediction=64)
    # Features alone are not enough for the head.
    composite = False

    embeddings: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        network.head = network.new_head(2 * network.feature_dim)
        self.register_buffer("embeddings", torch.zeros(num_domains, network.feature_dim))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        domain = batch.domain[:, 0]  # (D,)
        features = self.network.features(batch.x.flatten(0, 1)).unflatten(0, (D, B))  # (D, B, F)
        embedding = self.hp.ema * features.mean(1) + (1 - self.hp.ema) * self.embeddings[domain]  # (D, F)
        if self.training:
            self.embeddings[domain] = embedding.detach()
        risk = self.domain_risks(batch, self.network.head(joined(features, embedding)))  # (D,)
        return {"loss": risk.sum(), "nll": risk.mean()}

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.features(x)  # (N, F)
        return self.task.decode(self.network.head(joined(features, features.mean(0))))


def joined(features: Tensor, embedding: Tensor) -> Tensor:
    """Features (..., B, F), each with the embedding (..., F) of its domain, (..., B, 2 * F).

    >>> joined(torch.zeros(2, 1), torch.ones(1))
    tensor([[0., 1.],
            [0., 1.]])
    """
    return torch.cat([features, embedding.unsqueeze(-2).expand_as(features)], -1)
