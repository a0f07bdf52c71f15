"""TRM: features on which the head that fits one training domain serves the others as well.

Xu, Jaakkola. Learning Representations that Support Robust Transfer of Predictors. 2021.
https://arxiv.org/abs/2110.09940

Until step `erm_steps` it is ERM. From there on, each step first fits a head `w_Q` to each domain by SGD on fixed
features; the heads go on from where the last step left them. The transfer risk of `w_Q` is its risk on the other
domains `P`, weighted by `alpha[Q, P]`, which grows where the weighted risk is high.

A fitted head would follow the features if they moved. The gradient-matching term is this part of the transfer risk's
gradient, complete at `matching_weight` 1. It needs the inverse Hessian of `w_Q`'s own risk: a Neumann series, which
ends for a domain where an entry exceeds 10.

A batch may hold only some of the domains (protocol.sampling=domains:k): the others keep their part of alpha and add
nothing to the loss.

Differs from the authors' code: there the heads start each step from the weight of the network's own; the gradients
that are matched are those of the heads' weights, here of their biases too; and the loss is cross-entropy. For squared
error, whose gradients grow with the features, the rate at which a head is fitted is at most one over a bound on its
curvature, without which it diverges.
Differs from DomainBed: the biases, as above; its series doubles the second term and drops the first, as two names
share a tensor that is changed in place; and the heads and alpha go with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, fixed, hparam, log10_int, log10_uniform
from dgbench.network import Network
from dgbench.task import Task

from ._linear_heads import head_risks, joined


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of TRM."""

    erm_steps: int = hparam(200, log10_int(0, 4), "steps of ERM before the transfer risk", key="iters", is_step=True)
    matching_weight: float = hparam(
        1e-4, log10_uniform(-5, 0), "weight of the gradient-matching term", key="cos_lambda"
    )
    eta: float = hparam(0.01, log10_uniform(-3, -1), "step size of the weights alpha", key="groupdro_eta")
    head_steps: int = hparam(30, fixed(30), "steps of SGD that fit the heads")
    head_lr: float = hparam(0.1, fixed(0.1), "learning rate of these")
    num_terms: int = hparam(10, fixed(10), "terms of the Neumann series after the first")


class TRM(Algorithm):
    """Minimise `R + mean_Q(sum_P(alpha[Q, P] * R[Q, P]))`, `R[Q, P]` (D, D) the risk of domain Q's head on P."""

    HParams = HParams
    cost = 1.0
    # Each process would fit heads of its own.
    needs = Needs(domain_labels=True, domain_rows=True, min_domains=2, single_process=True)

    heads: Tensor
    alpha: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.register_buffer("heads", torch.stack([joined(network.new_head()) for _ in range(num_domains)]))
        self.register_buffer("alpha", (1 - torch.eye(num_domains)) / (num_domains - 1))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        if self.step < self.hp.erm_steps:
            return {"loss": nll, "nll": nll}
        transfer, matching = self.transfer(features.unflatten(0, batch.x.shape[:2]), batch)  # (D,), (D,)
        loss = nll + transfer.mean() - self.hp.matching_weight * matching.mean()
        return {"loss": loss, "nll": nll, "transfer": transfer.mean()}

    def transfer(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each head's transfer risk, and the product of its gradient with that of the head's own risk, (D,) each.

        Args:
            features: of the batch, (D, B, F).
            batch: names targets and domains.
        """
        domain = batch.domain[:, 0]  # (D,)
        heads = self.fitted(self.heads[domain], features.detach(), batch.y).requires_grad_()  # (D, C, F + 1)
        own = head_risks(self.task, heads, features, batch.y)  # (D,)
        risks = head_risks(self.task, heads.unsqueeze(1), features, batch.y)  # (D, D), of head Q on domain P
        weighted = self.alpha[domain][:, domain] * risks
        (grad_P,) = torch.autograd.grad(weighted.sum(), heads, retain_graph=True)  # (D, C, F + 1)
        (grad_Q,) = torch.autograd.grad(own.sum(), heads, create_graph=True)  # (D, C, F + 1)

        def hessian_product(v: Tensor) -> Tensor:
            return torch.autograd.grad(grad_Q, heads, v, retain_graph=True)[0]

        solved = inverse_product(hessian_product, grad_P, self.hp.num_terms)  # (D, C, F + 1)
        if self.training:
            self.remember(domain, heads.detach(), self.hp.eta * weighted.detach())
        return weighted.sum(1), (solved * grad_Q).sum((1, 2))

    def fitted(self, heads: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """The heads (D, C, F + 1) after steps of SGD, each on its own domain's features (D, B, F)."""
        rate = self.rates(features)
        for _ in range(self.hp.head_steps):
            heads = heads.detach().requires_grad_()
            (grad,) = torch.autograd.grad(head_risks(self.task, heads, features, y).sum(), heads)
            heads = heads - rate * grad
        return heads.detach()

    def rates(self, features: Tensor) -> Tensor:
        """Learning rate of each domain's head on its features (D, B, F), (D, 1, 1)."""
        rate = features.new_full((len(features), 1, 1), self.hp.head_lr, dtype=self.heads.dtype)
        if self.task.is_classification:
            return rate
        # The trace of the Hessian of one output's weights bounds its eigenvalues.
        curvature = 2 * (1 + features.square().sum(2).mean(1)) / self.task.num_outputs  # (D,)
        return torch.minimum(rate, 1 / curvature.view(-1, 1, 1))

    def remember(self, domain: Tensor, heads: Tensor, growth: Tensor) -> None:
        """Keep the heads of `domain` (D,); multiply alpha among these by `exp(growth)` (D, D), rows summing to 1."""
        self.heads[domain] = heads
        exponents = torch.zeros_like(self.alpha)
        exponents[domain.unsqueeze(1), domain] = growth.to(exponents.dtype)
        # In logarithms, as exp(growth) alone may overflow.
        self.alpha.copy_((self.alpha.log() + exponents).softmax(1))


def inverse_product(product: Callable[[Tensor], Tensor], v: Tensor, num_terms: int, bound: float = 10.0) -> Tensor:
    """`H^-1 v` by the series `v + (I - H) v + ... + (I - H)^num_terms v`, of each row, (D, ...).

    It converges where the eigenvalues of `H` lie between 0 and 2. The series of a row ends where it exceeds `bound`.

    Args:
        product: `H v` of each row.
        v: (D, ...).
        num_terms: the highest power.
        bound: on the absolute entries.

    >>> inverse_product(lambda v: 0.5 * v, torch.tensor([[1.0, 2.0], [0.0, 40.0]]), 10)
    tensor([[ 1.9990,  3.9980],
            [ 0.0000, 60.0000]])
    """
    total, going = v, torch.ones_like(v, dtype=torch.bool)
    for _ in range(num_terms):
        v = v - product(v)
        total = torch.where(going, total + v, total)
        going = going & (total.flatten(1).abs().amax(1) <= bound).view(-1, *[1] * (v.ndim - 1))
    return total
