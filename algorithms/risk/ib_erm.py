"""IB-ERM: the least risk with features that carry little information, a penalty on their variance.

Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas, Rish. Invariance Principle Meets Information Bottleneck
for Out-of-Distribution Generalization. NeurIPS 2021. https://arxiv.org/abs/2106.06607

As in DomainBed, the variance is taken among the examples of each training domain and averaged over domains and
features, and the mean of the risks stands for their sum. The weight is 0 before it jumps, and the optimizer starts
afresh at the jump. Until step `anneal_steps` it is ERM.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform

from ._annealing import Annealed
from ._bottleneck import mean_variance


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of IB-ERM."""

    penalty_weight: float = hparam(100.0, log10_uniform(-1, 5), "weight of the features' variance", key="ib_lambda")
    anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before that weight applies; it is 0 until then",
        key="ib_penalty_anneal_iters",
        is_step=True,
    )


class IBERM(Annealed):
    """Minimise `mean(R) + lambda * mean(var(F))`: risks `R` (D,), features `F` (D, B, F), var among examples."""

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        penalty = mean_variance(features.unflatten(0, (D, B)))  # ()
        weight = self.hp.penalty_weight if self.has_jumped else 0.0
        return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}
