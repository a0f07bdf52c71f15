"""EQRM: a low risk with a given probability, a quantile of the distribution of the domains' risks.

Eastwood, Robey, Singh, von Kuegelgen, Hassani, Pappas, Schoelkopf. Probable Domain Generalization via Quantile Risk
Minimization. NeurIPS 2022. https://arxiv.org/abs/2207.09944

The distribution is estimated by Gaussian kernels at the risks of a batch. As in the authors' code, the mean risk is
minimised first, the optimizer starts afresh with a learning rate of its own where the quantile takes over, and the
quantile's gradient flows through the least and the largest risk and the bandwidth. Until step `burn_in_steps` it is
ERM.

Differs from DomainBed: the burn-in is always a whole number of steps, so that drawn runs too switch to the second
learning rate; equal risks give a loss that is finite; one forward pass for all domains, which batch normalisation
notices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform, uniform

from ._quantile import far_quantile, quantile


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of EQRM."""

    quantile: float = hparam(
        0.75,
        uniform(0.5, 0.99),
        "probability of a risk below the loss, alpha; a negative value is log(1 - alpha), for alpha close to 1",
        key="eqrm_quantile",
    )
    burn_in_steps: int = hparam(
        2500,
        log10_int(2.5, 3.5),
        "steps on the mean risk before the quantile takes over",
        key="eqrm_burnin_iters",
        is_step=True,
    )
    final_lr: float = hparam(1e-6, log10_uniform(-7, -5), "learning rate after these steps", key="eqrm_lr")

    def __post_init__(self) -> None:
        if not (self.quantile < 0 or 0 < self.quantile < 1):
            raise ValueError(
                f"algorithm.quantile={self.quantile}, expected a probability between 0 and 1, or a negative number, "
                "log(1 - alpha), for one close to 1."
            )


class EQRM(Algorithm):
    """Minimise the `alpha`-quantile of `mean of Normal(R, h)` over the per-domain risks `R`, (D,)."""

    HParams = HParams
    cost = 1.1
    needs = Needs(domain_rows=True, min_domains=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        risk = self.domain_risks(batch)  # (D,)
        nll = risk.mean()  # ()
        if self.step < self.hp.burn_in_steps:
            return {"loss": nll, "nll": nll}
        alpha = self.hp.quantile
        return {"loss": quantile(risk, alpha) if alpha > 0 else far_quantile(risk, alpha), "nll": nll}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.step == self.hp.burn_in_steps:
            self.reset_optimizer(lr=self.hp.final_lr)
        return super().training_step(batch, batch_idx)
