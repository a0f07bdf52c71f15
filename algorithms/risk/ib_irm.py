"""IB-IRM: IRMv1 with features that carry little information, its penalty and one on the features' variance.

Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas, Rish. Invariance Principle Meets Information Bottleneck
for Out-of-Distribution Generalization. NeurIPS 2021. https://arxiv.org/abs/2106.06607

As in DomainBed, the first penalty is that of `irm` (unbiased, from two halves of a minibatch, weight 1 before it
jumps), the second that of `ib_erm` (weight 0 before it jumps). The jumps have steps of their own, and the optimizer
starts afresh at either.

Differs from DomainBed: the halves are of equal size, so the last row of an odd batch is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform

from ._bottleneck import mean_variance
from .irm import halves_penalty


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of IB-IRM."""

    irm_weight: float = hparam(100.0, log10_uniform(-1, 5), "weight of the invariance penalty", key="irm_lambda")
    irm_anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before irm_weight applies; it is 1 until then",
        key="irm_penalty_anneal_iters",
        is_step=True,
    )
    ib_weight: float = hparam(100.0, log10_uniform(-1, 5), "weight of the features' variance", key="ib_lambda")
    ib_anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before ib_weight applies; it is 0 until then",
        key="ib_penalty_anneal_iters",
        is_step=True,
    )


class IBIRM(Algorithm):
    """Minimise `mean(R + irm_weight * (dR(s * outputs) / ds at s=1)**2) + ib_weight * mean(var(F))`.

    `R` (D,) are the risks, `F` (D, B, F) the features, whose variance is taken among the examples of a domain.
    """

    HParams = HParams
    cost = 1.2
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1)).unflatten(0, (D, B))  # (D, B, F)
        outputs = self.network.head(features)  # (D, B, C)
        nll = self.domain_risks(batch, outputs).mean()  # ()
        variance = mean_variance(features)  # ()
        invariance = halves_penalty(self.task, outputs, batch.y).mean()  # ()
        irm_weight = self.hp.irm_weight if self.step >= self.hp.irm_anneal_steps else 1.0
        ib_weight = self.hp.ib_weight if self.step >= self.hp.ib_anneal_steps else 0.0
        loss = nll + irm_weight * invariance + ib_weight * variance
        return {"loss": loss, "nll": nll, "irm_penalty": invariance, "ib_penalty": variance}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.step > 0 and self.step in (self.hp.irm_anneal_steps, self.hp.ib_anneal_steps):
            self.reset_optimizer()
        return super().training_step(batch, batch_idx)
