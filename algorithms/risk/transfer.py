"""Transfer: features on which no head near the network's own tells the training domains' risks apart.

Zhang, Zhao, Yu, Poupart. Quantifying and Improving Transferability in Domain Generalization. NeurIPS 2021.
https://arxiv.org/abs/2106.03632

A step is three updates: of the network on the mean loss; of the features on the gap between the highest and the
lowest domain's risk under the adversarial head; and of that head, which starts from the network's and ascends the
gap within a ball of radius delta around it, weight and bias together. The first two share the run's optimizer and
its averages, so that the features move twice in a step, even where the gap is zero.

Differs from DomainBed: one forward pass for all domains, and one for all ascents, which batch normalisation and
dropout notice. There is no `gda`: that flag leaves the main updates to an optimizer of the adversarial head alone, so
that the network is never trained, and DomainBed's random draws always set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, choices, hparam, log10_uniform, uniform
from dgbench.network import Network
from dgbench.task import Task

from ._linear_heads import head_risks, joined


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of Transfer."""

    penalty_weight: float = hparam(1.0, log10_uniform(-2, 1), "weight of the gap, also in its ascent", key="t_lambda")
    delta: float = hparam(2.0, uniform(0.1, 3.0), "radius of the ball around the head", key="delta")
    d_steps: int = hparam(10, choices(1, 2, 5), "ascents of the adversarial head in a step", key="d_steps_per_g")
    lr_d: float = hparam(1e-3, log10_uniform(-4.5, -2.5), "learning rate of these", key="lr_d")


class Transfer(Algorithm):
    """Minimise `mean(R(w)) + t * max(R(v)) - t * min(R(v))`, risks `R` (D,), over heads `v` near `w` maximised."""

    HParams = HParams
    cost = 2.4
    # Each process would ascend on its own examples.
    needs = Needs(domain_rows=True, min_domains=2, single_process=True)
    automatic_optimization = False

    adversary: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.register_buffer("adversary", joined(network.head))  # (C, F + 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        nll = self.loss(batch)["loss"]  # ()
        self.descend(nll)
        gap = self.gap(self.adversary, self.rows(batch), batch.y)  # ()
        self.descend(self.hp.penalty_weight * gap)
        with torch.no_grad():
            features = self.rows(batch)  # (D, B, F)
        self.adversary.copy_(self.ascended(joined(self.network.head), features, batch.y))
        nll, gap = nll.detach(), gap.detach()
        return {"loss": nll + self.hp.penalty_weight * gap, "nll": nll, "gap": gap}

    def descend(self, objective: Tensor) -> None:
        """One step of the run's optimizer on what the objective depends on; it skips the rest."""
        optimizer: Any = self.optimizers()
        self.manual_backward(objective)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Under autocast, copies of the weights in low precision are kept and would hide the step.
        torch.clear_autocast_cache()

    def rows(self, batch: Batch) -> Tensor:
        """Features of each domain, (D, B, F)."""
        return self.network.features(batch.x.flatten(0, 1)).unflatten(0, batch.x.shape[:2])

    def gap(self, head: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """Highest minus lowest of the domains' risks under a head (C, F + 1), given features (D, B, F); ()."""
        risk = head_risks(self.task, head, features, y)  # (D,)
        return risk.max() - risk.min()

    def ascended(self, head: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """The adversarial head (C, F + 1) after its ascents from `head` (C, F + 1) in the ball around it."""
        adversary = head
        for _ in range(self.hp.d_steps):
            adversary = adversary.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.hp.penalty_weight * self.gap(adversary, features, y), adversary)
            adversary = projected(adversary + self.hp.lr_d * slope, head, self.hp.delta)
        return adversary.detach()


def projected(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The point nearest to `x` in the ball around `centre`, its norm over all entries together.

    >>> projected(torch.tensor([[4.0, 1.0], [5.0, 1.0]]), torch.ones(2, 2), 1.0)
    tensor([[1.6000, 1.0000],
            [1.8000, 1.0000]])
    """
    move = x - centre
    length = move.norm().clamp(min=torch.finfo(move.dtype).tiny)
    return centre + (radius / length).clamp(max=1) * move
