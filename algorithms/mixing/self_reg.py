"""SelfReg: features and logits are drawn towards those of random examples of the same class, and mixes of two.

Kim, Yoo, Park, Kim, Lee. SelfReg: Self-supervised Contrastive Regularization for Domain Generalization. ICCV 2021.
https://arxiv.org/abs/2104.09841

Every example has two partners, by two random permutations within the classes of the batch. Features are drawn towards
the projections of their partners' features (the class-specific domain perturbation layer), logits towards logits.
The gradient flows through both sides.

Differs from the paper (as DomainBed does): neither inter-domain curriculum nor averaged weights.
Differs from DomainBed: the projection is trained, where DomainBed's stays at random; and its linear layers have no
biases, which the normalisation after them would take away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, fixed, hparam
from dgbench.network import Network
from dgbench.task import Task

from ._mixing import mix


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SelfReg."""

    alpha: float = hparam(0.5, fixed(0.5), "lambda is drawn from Beta(alpha, alpha)", key="self_reg_alpha")
    feature_weight: float = hparam(
        0.3, fixed(0.3), "weight of the features' distances beside the logits'", key="self_reg_feature_weight"
    )

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"algorithm.alpha={self.alpha}, expected more than 0. 1 draws lambda uniformly.")


class SelfReg(Algorithm):
    """Minimise `R + min(R, 1) * (l * d(one) + (1 - l) * d(l * one + (1 - l) * two))`, one and two the partners.

    `R` () is the mean loss, constant in the min, `l` () ~ Beta(alpha, alpha), and `d` () the mean squared distance to
    the logits (D*B, C) plus `feature_weight` times that to the projections (D*B, F).
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(tasks=("classification",))

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.projection = projection(network.feature_dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        y = batch.y.flatten()  # (D*B,)
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        logits, projected = self.network.head(features), self.projection(features)  # (D*B, C), (D*B, F)
        nll = self.task.loss(logits, y)  # ()
        share = Beta(self.hp.alpha, self.hp.alpha).sample()  # ()
        one, two = permute_within(y), permute_within(y)  # (D*B,), (D*B,)

        def distance(target_logits: Tensor, target_features: Tensor) -> Tensor:
            to_features = F.mse_loss(features, target_features)
            return F.mse_loss(logits, target_logits) + self.hp.feature_weight * to_features  # ()

        individual = distance(logits[one], projected[one])
        mixed = distance(mix(logits[one], logits[two], share), mix(projected[one], projected[two], share))
        penalty = mix(individual, mixed, share)  # ()
        return {"loss": nll + nll.detach().clamp(max=1) * penalty, "nll": nll, "penalty": penalty}


def permute_within(y: Tensor) -> Tensor:
    """A random permutation that maps every example to one of its class, (N,).

    >>> y = torch.tensor([1, 0, 1, 1, 0])
    >>> bool((y[permute_within(y)] == y).all())
    True
    """
    shuffled = torch.randperm(len(y)).to(y.device)
    # Both orders go through the classes alike, the second through each of them at random.
    ordered, shuffled = y.argsort(stable=True), shuffled[y[shuffled].argsort(stable=True)]
    return torch.empty_like(ordered).scatter(0, ordered, shuffled)


def projection(num_features: int) -> nn.Sequential:
    """The perturbation layer, from features (N, F) to (N, F)."""
    # As in DomainBed, the features of a ResNet-50 are not widened.
    width = num_features if num_features == 2048 else 2 * num_features
    return nn.Sequential(
        *(nn.Linear(num_features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, num_features, bias=False), nn.BatchNorm1d(num_features)),
    )
