"""V-REx: risk extrapolation by equal risks, a penalty on the variance of the domains' risks.

Krueger, Caballero, Jacobsen, Zhang, Binas, Zhang, Le Priol, Courville. Out-of-Distribution Generalization
via Risk Extrapolation (REx). ICML 2021, objective R_V-REx. https://arxiv.org/abs/2003.00688

Differs from the paper: the mean of the risks stands for their sum (as in DomainBed), so that the learning
rate does not depend on the number of domains. The weight is 1 before it jumps, and the optimizer starts
afresh at the jump.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform

from ._annealing import Annealed


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of V-REx."""

    penalty_weight: float = hparam(10.0, log10_uniform(-1, 5), "weight of the variance term, beta", key="vrex_lambda")
    anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before that weight applies; it is 1 until then",
        key="vrex_penalty_anneal_iters",
        is_step=True,
    )


class VREx(Annealed):
    """Minimise `mean(R) + beta * var(R)` over the per-domain risks `R`, (D,)."""

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        risk = self.domain_risks(batch)  # (D,)
        weight = self.hp.penalty_weight if self.has_jumped else 1.0
        nll, penalty = risk.mean(), risk.var(correction=0)  # (), ()
        return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}
