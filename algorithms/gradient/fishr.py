"""Fishr: the same variance of the examples' gradients in every domain.

Rame, Dancette, Cord. Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization. ICML 2022.
https://arxiv.org/abs/2109.02934

The gradients are those of the head alone, of its weight and bias. A batch may hold only some of the domains
(protocol.sampling=domains:k): the averages of the others stay, and the penalty compares those that it holds.

As in the authors' code, the moving average starts from 0 and is divided by 1 - ema, however many steps it has
seen: the newest variance always enters with weight 1, and late averages are 1 / (1 - ema) times a variance. They
move from step 0 on, also while the penalty has no weight. The optimizer starts afresh where it gets one. Until step
`anneal_steps` it is ERM.

Differs from the paper: also regression, by the gradients of the squared error in the task's inner scale.
Differs from DomainBed: a batch need not hold every domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, hparam, log10_uniform, uniform, uniform_int
from dgbench.network import Network
from dgbench.task import Task

from ..risk._annealing import Annealed
from ._per_sample import head_gradients, residuals


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of Fishr."""

    penalty_weight: float = hparam(
        1000.0, log10_uniform(1, 4), "weight of the distance between variances, lambda", key="lambda"
    )
    anneal_steps: int = hparam(
        1500,
        uniform_int(0, 5000),
        "steps before that weight applies; it is 0 until then",
        key="penalty_anneal_iters",
        is_step=True,
    )
    ema: float = hparam(0.95, uniform(0.90, 0.99), "decay of the variances' moving averages, gamma")

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"algorithm.ema={self.ema}, expected at least 0 and less than 1.")


class Fishr(Annealed):
    """Minimise `mean(R) + lambda * mean((V - mean(V, 0))**2)`, risks `R` (D,).

    `V` (D, P) are the variances of the P = C*F + C entries of the examples' gradients, averaged over the steps.
    """

    HParams = HParams
    cost = 0.9
    needs = Needs(domain_labels=True, domain_rows=True)

    average: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.register_buffer("average", torch.zeros(num_domains, (network.feature_dim + 1) * task.num_outputs))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        if B < 2:
            raise ValueError(
                f"Fishr takes the variance over each domain's examples, got {B}, expected at least 2; "
                "raise optim.batch_size."
            )
        features = self.network.features(batch.x.flatten(0, 1)).unflatten(0, (D, B))  # (D, B, F)
        outputs = self.network.head(features)  # (D, B, C)
        grads = head_gradients(features, residuals(self.task, outputs, batch.y))  # (D, B, P)
        variance = self.averaged(grads.var(1, correction=0), batch.domain[:, 0])  # (D, P)
        nll, penalty = self.domain_risks(batch, outputs).mean(), variance.var(0, correction=0).mean()  # (), ()
        weight = self.hp.penalty_weight if self.has_jumped else 0.0
        return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}

    def averaged(self, variance: Tensor, domain: Tensor) -> Tensor:
        """Moving averages that have taken in `variance` (D, P) of `domain` (D,), divided by 1 - ema, (D, P)."""
        average = self.hp.ema * self.average[domain] + (1 - self.hp.ema) * variance
        if self.training:
            self.average[domain] = average.detach().to(self.average.dtype)
        return average / (1 - self.hp.ema)
