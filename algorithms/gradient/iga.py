"""IGA: inter-environmental gradient alignment, a penalty on the variance of the domains' gradients.

Koyama, Yamaguchi. When Is Invariance Useful in an Out-of-Distribution Generalization Problem? 2020, objective IGA.
https://arxiv.org/abs/2008.01883

The penalty is differentiated through all trainable weights, with D graphs in memory at once. The mean gradient may be
held constant there: the slope of sum_d |g_d - c|**2 in c is -2 sum_d (g_d - c), which is zero at the mean c, so
what is followed is the exact gradient, 2 sum_d H_d (g_d - mean(g)) with the Hessians H_d of the risks.

Differs from the paper: the penalty is the sum over the domains (as in DomainBed), D times the trace of the variance.
Differs from DomainBed: frozen parameters are passed over.
The default weight, DomainBed's, holds weights nearly where they are for thousands of steps: after 1000 on digits_rot
`small_cnn` is at chance, with a weight of 1 at 0.53.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._domain_gradients import domain_gradients


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of IGA."""

    penalty_weight: float = hparam(
        1000.0, log10_uniform(1, 5), "weight of the variance of the gradients, lambda", key="penalty"
    )


class IGA(Algorithm):
    """Minimise `mean(R) + lambda * sum_d |g_d - mean(g)|**2`, g_d the gradient of `R[d]`, over the risks `R`, (D,)."""

    HParams = HParams
    cost = 14
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # The fused kernels of attention cannot be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            risk = self.domain_risks(batch)  # (D,)
        grads = domain_gradients(risk, self.trainable(), create_graph=True)
        nll, penalty = risk.mean(), scatter(grads)  # (), ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}


def scatter(grads: list[Tensor | None]) -> Tensor:
    """Summed squared distance of the domains' gradients (D, ...) to their mean, over all parameters, ().

    >>> scatter([torch.tensor([[1.0], [3.0]]), None, torch.tensor([[0.0], [4.0]])])
    tensor(10.)
    """
    return torch.stack([(g - g.mean(0).detach()).square().sum() for g in grads if g is not None]).sum()
