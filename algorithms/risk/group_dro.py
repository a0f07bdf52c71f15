"""GroupDRO: the risk of the worst training domain, by weights that grow where the risk is high.

Sagawa, Koh, Hashimoto, Liang. Distributionally Robust Neural Networks for Group Shifts: On the Importance of
Regularization for Worst-Case Generalization. ICLR 2020, algorithm 1. https://arxiv.org/abs/1911.08731

A group is a training domain. A batch may hold only some of them (protocol.sampling=domains:k): as in the paper,
where it holds one, the others keep their part of q and add nothing to the loss.

Differs from the paper: no group adjustments, and the benchmark's optimizer takes the place of SGD.
Differs from DomainBed: one forward pass for all domains, which batch normalisation notices, and q can be
loaded from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of GroupDRO."""

    eta: float = hparam(0.01, log10_uniform(-3, -1), "step size of the domains' weights, eta_q", key="groupdro_eta")


class GroupDRO(Algorithm):
    """Minimise `sum(q * R)`, q growing by `q * exp(eta * R)` and summing to 1; `q` (D,), risks `R` (D,)."""

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_labels=True, domain_rows=True)

    q: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.register_buffer("q", torch.full((num_domains,), 1 / num_domains))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        risk = self.domain_risks(batch)  # (D,)
        domain = batch.domain[:, 0]  # (D,)
        if self.training:
            self.q.copy_(raised(self.q, domain, self.hp.eta * risk.detach()))
        loss = (self.q[domain] * risk).sum()  # ()
        return {"loss": loss, "nll": risk.mean(), "worst_nll": risk.max()}


def raised(q: Tensor, domain: Tensor, growth: Tensor) -> Tensor:
    """Weights `q` after those of `domain` were multiplied by `exp(growth)`, summing to 1.

    >>> raised(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([2]), torch.tensor([2.0]).log())
    tensor([0.4000, 0.2000, 0.4000])
    """
    # In logarithms, as exp(growth) alone may overflow.
    return q.log().index_add(0, domain, growth.to(q.dtype)).softmax(0)
