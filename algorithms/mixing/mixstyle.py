"""MixStyle: examples exchange part of the mean and the standard deviation of their feature maps, their style.

Zhou, Yang, Qiao, Xiang. Domain Generalization with MixStyle. ICLR 2021. https://arxiv.org/abs/2104.02008

In training only, after each of `stages`, each with a coin, partners and lambdas of its own. Statistics are constants
to the gradient. By default the first half of the network's stages, rounded up, is followed by it: conv1 and conv2 of
small_cnn, the stem, layer1 and layer2 of a ResNet of timm. Where positions are, statistics are over them: of maps
(N, C, H, W) over H and W, of a transformer's tokens (N, T, C) over T, by channel. Features (N, F), as those of an mlp,
have none: their statistics are over F, the whole vector one channel. Maps whose channels come last (Swin of timm) would
be read wrongly.

`pairing=random` permutes the batch. `pairing=cross_domain` draws a partner from another domain; an example that has
none in the batch keeps its style.

Differs from the paper: in `cross_domain`, batches have more than two domains, and partners are drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, fixed, hparam
from dgbench.network import Network
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._mixing import mix, place
from ._partners import partners

PAIRINGS = ("random", "cross_domain")
# Axes of the positions, by the number of axes: of features (N, F), tokens (N, T, C) and maps (N, C, H, W).
POSITIONS = {2: (1,), 3: (1,), 4: (2, 3)}
EPS = 1e-6


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MixStyle."""

    alpha: float = hparam(0.1, choices(0.1, 0.2, 0.3), "lambda is drawn from Beta(alpha, alpha)", key="mixstyle_alpha")
    probability: float = hparam(0.5, fixed(0.5), "probability that a stage of a step is mixed, p", key="mixstyle_p")
    pairing: str = hparam("random", fixed("random"), "random or cross_domain partners", key="mixstyle_pairing")
    stages: list[str] | None = hparam(
        None, fixed(None), "where it mixes: stages of the network, input; null: the first half", key="mixstyle_stages"
    )

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"algorithm.alpha={self.alpha}, expected more than 0. 1 draws lambda uniformly.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"algorithm.probability={self.probability}, expected a probability from 0 to 1.")
        if self.pairing not in PAIRINGS:
            raise UnknownName("pairing (algorithm.pairing)", self.pairing, PAIRINGS)


class MixStyle(Algorithm):
    """Minimise `mean(loss(f(x), y))`, where in f maps m_i become `(l s_i + (1 - l) s_j) * (m_i - u_i) / s_i + v`.

    `v = l u_i + (1 - l) u_j`; u and s (N, C) are mean and standard deviation, `l` (N,) ~ Beta(alpha, alpha).
    """

    HParams = HParams
    cost = 1.1

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        names = hp.stages or network.stages[: (len(network.stages) + 1) // 2]
        if not names:
            raise ValueError(
                f"MixStyle mixes after stages of the network, but {network.recipe['name']} as configured has none, "
                "expected at least one. Use a deeper network, or algorithm.stages=[input]."
            )
        self.places = [place(network, name) for name in names]
        if hp.pairing == "cross_domain" and num_domains < 2:
            raise ValueError(
                f"algorithm.pairing=cross_domain needs at least 2 training domains, got {num_domains}. "
                "Use pairing=random."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        mixing = partial(self.mix_some, domain=batch.domain.flatten())
        outputs = self.network(batch.x.flatten(0, 1), dict.fromkeys(self.places, mixing))  # (D*B, C)
        return {"loss": self.task.loss(outputs, batch.y.flatten(0, 1))}

    def mix_some(self, maps: Tensor, domain: Tensor) -> Tensor:
        """The output of a stage, (N, ...), with the style of partners mixed in, or as it is.

        Args:
            maps: of all examples, (N, ...).
            domain: of each example, (N,).
        """
        if torch.rand(()) >= self.hp.probability:
            return maps
        if self.hp.pairing == "cross_domain":
            partner = partners(same=torch.zeros_like(domain), other=domain)  # (N,)
        else:
            partner = torch.randperm(len(maps)).to(maps.device)
        share = Beta(self.hp.alpha, self.hp.alpha).sample((len(maps),))  # (N,)
        return mix_styles(maps, partner, share)


def mix_styles(maps: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """`maps` (N, ...) in the style of `share` themselves and `1 - share` partner.

    Args:
        maps: (N, C, H, W), (N, T, C) or (N, F).
        partner: index of each example's partner, (N,).
        share: lambda, (N,).
    """
    axes = POSITIONS[maps.ndim]
    mean = maps.mean(axes, keepdim=True).detach()  # (N, C, 1, 1), (N, 1, C) or (N, 1)
    std = (maps.var(axes, correction=0, keepdim=True) + EPS).sqrt().detach()
    return mix(std, std[partner], share) * (maps - mean) / std + mix(mean, mean[partner], share)
