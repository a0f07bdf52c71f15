"""Manifold mixup: train on convex combinations of hidden states, at a stage drawn anew for each batch.

Verma, Lamb, Beckham, Najafi, Mitliagkas, Lopez-Paz, Bengio. Manifold Mixup: Better Representations by
Interpolating Hidden States. ICML 2019. https://arxiv.org/abs/1806.05236

One lambda and one permutation per batch; the batch is that of all training domains. With `stages=[input]` it is
mixup (Zhang, Cisse, Dauphin, Lopez-Paz. ICLR 2018. https://arxiv.org/abs/1710.09412).

Differs from the paper: the first two stages are the network's own, so that a stem counts as one. Regression, which
the paper does not treat, mixes the losses: squared error against the mixed target, plus what no weight changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import Optim, fixed, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task

from ._mixing import mix, place


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of manifold mixup."""

    alpha: float = hparam(
        2.0, log10_uniform(-1, 1), "lambda is drawn from Beta(alpha, alpha)", key="manifold_mixup_alpha"
    )
    stages: list[str] | None = hparam(
        None, fixed(None), "where it mixes, S: stages of the network and input; null: input and the first two stages"
    )

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"algorithm.alpha={self.alpha}, expected above 0.")


class ManifoldMixup(Algorithm):
    """Minimise `l * R(y) + (1 - l) * R(y')`, the hidden states of a stage being `l * h + (1 - l) * h'`.

    `R(y)` () is the mean loss against targets y; y' and h' belong to the permuted batch, `l` () ~ Beta(alpha, alpha).
    """

    HParams = HParams
    cost = 1.0

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        names = hp.stages or ["input", *network.stages[:2]]
        self.places = [place(network, name) for name in names]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x, y = batch.x.flatten(0, 1), batch.y.flatten(0, 1)  # (D*B, ...)
        share = Beta(self.hp.alpha, self.hp.alpha).sample()  # ()
        partner = torch.randperm(len(x)).to(x.device)  # (D*B,)
        where = self.places[torch.randint(len(self.places), ())]
        outputs = self.network(x, {where: lambda h: mix(h, h[partner], share)})  # (D*B, C)
        return {"loss": mix(self.task.loss(outputs, y), self.task.loss(outputs, y[partner]), share)}
