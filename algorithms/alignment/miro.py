"""MIRO: features that stay close to those of the pretrained weights, where these vary little.

Cha, Lee, Park, Chun. Domain Generalization by Mutual-Information Regularization with Pre-trained Models.
ECCV 2022. https://arxiv.org/abs/2203.10789

In each stage the features of the trained network are the mean of a Gaussian over those of the frozen pretrained
one, its variances learned per channel, and the term is that Gaussian's negative logarithm without the constant.
Stages are the network's own; four-dimensional outputs are taken to have their channels first. The frozen
network stays in evaluation mode; with `network.freeze_bn=true`, as the paper has it, the trained one starts from
the very same features.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, fixed, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task

INITIAL_VARIANCE = 0.1
LEAST_VARIANCE = 1e-5


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MIRO."""

    penalty_weight: float = hparam(
        0.1, log10_uniform(-3, 0), "weight of the features' distance, lambda; the paper: 0.01 or 0.1", key="miro_ld"
    )
    lr_multiplier: float = hparam(
        10.0, fixed(10.0), "learning rate of the variances in units of the network's", key="miro_lr_mult"
    )


class MIRO(Algorithm):
    """Minimise `mean(loss) + lambda * sum_l mean((f_l - f0_l)^2 / v_l + log v_l) / 2` over stages l.

    `f_l` and `f0_l` are the features of the trained and of the frozen network, `v_l` a variance per channel.
    """

    HParams = HParams
    cost = 1.5
    needs = Needs(pretrained=True)

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        if not network.stages:
            raise ValueError(
                f"MIRO compares features after each stage, but network={network.recipe['name']} as configured has "
                "none. Use a network with stages."
            )
        self.frozen = copy.deepcopy(network).requires_grad_(False).eval()
        with torch.no_grad():
            _, stages = staged_features(self.frozen, network.normalise.mean.new_zeros(1, *network.input_shape))
        self.raw_variances = nn.ParameterList(initial_raw_variance(f) for f in stages)

    def train(self, mode: bool = True) -> MIRO:
        super().train(mode)
        self.frozen.eval()
        return self

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.x.flatten(0, 1)  # (D*B, *input_shape)
        with torch.no_grad():
            _, pretrained = staged_features(self.frozen, x)
        features, trained = staged_features(self.network, x)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        terms = map(gaussian_nll, trained, pretrained, self.variances())
        distance = torch.stack([*terms]).sum()  # ()
        return {"loss": nll + self.hp.penalty_weight * distance, "nll": nll, "distance": distance}

    def variances(self) -> list[Tensor]:
        """Of each stage, (C, 1, 1) of maps (N, C, H, W), (C,) of what ends with its channels."""
        return [F.softplus(raw) + LEAST_VARIANCE for raw in self.raw_variances]

    def configure_optimizers(self) -> Any:
        network = {"params": [p for p in self.network.parameters() if p.requires_grad]}
        variances = {"params": list(self.raw_variances), "lr": self.optim.lr * self.hp.lr_multiplier}
        return self.make_optimizer([network, variances])


def staged_features(network: Network, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features (N, F) of inputs, and the output of each stage: maps (N, C, H, W), tokens (N, L, C) or (N, C)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(output: Tensor) -> Tensor:
            seen[name] = output
            return output

        return hook

    features = network.features(x, after={name: keep(name) for name in network.stages})
    return features, [seen[name] for name in network.stages]


def initial_raw_variance(features: Tensor) -> nn.Parameter:
    """What softplus makes the initial variance of, one for each channel of features (N, ...)."""
    shape = (features.shape[1], 1, 1) if features.ndim == 4 else (features.shape[-1],)
    return nn.Parameter(features.new_full(shape, math.log(math.expm1(INITIAL_VARIANCE - LEAST_VARIANCE))))


def gaussian_nll(mean: Tensor, value: Tensor, variance: Tensor) -> Tensor:
    """Mean over all entries of `-log N(value; mean, variance)` without its constant, ().

    >>> gaussian_nll(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(3))
    tensor(0.5000)
    """
    # Divided first: squares of half-precision features may overflow.
    return ((value - mean) / variance.sqrt()).square().add(variance.log()).mean() / 2
