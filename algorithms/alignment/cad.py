"""CAD: contrastive adversarial domain bottleneck, features whose nearest others are as likely of any domain.

Ruan, Dubois, Maddison. Optimal Representations for Covariate Shift. ICLR 2022. https://arxiv.org/abs/2201.00057

The bottleneck is the one in DomainBed: it has the factor T / 0.07 of supervised contrastive learning, and examples
without another one of their class in the batch are left out of it, although it reads no classes otherwise.

Differs from DomainBed: not flipped, an example does not count among those of its own domain, where it does there,
with similarity 0. The option of a projection, which crashes there, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import choices, fixed, hparam

from ._contrast import domain_bottleneck


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CAD."""

    penalty_weight: float = hparam(
        0.1, choices(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), "weight of the bottleneck, lambda", key="lmbda"
    )
    temperature: float = hparam(0.1, choices(0.05, 0.1), "what similarities are divided by, T")
    is_flipped: bool = hparam(
        True, fixed(True), "raise the probability of other domains, instead of lowering that of the same one"
    )
    is_normalized: bool = hparam(False, fixed(False), "compare the directions of features alone")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"algorithm.temperature={self.temperature}, expected more than 0.")


class CAD(Algorithm):
    """Minimise `R - lambda * T / 0.07 * mean_i log p(d_j != d_i | i)`, p(j | i) ~ exp(z_i . z_j / T) over j != i.

    `R` () is the mean loss of the task, `z` (D*B, F) the features, `d` (D*B,) the domains.
    """

    HParams = HParams
    cost = 0.9
    needs = Needs(domain_labels=True, min_domains=2, tasks=("classification",))
    is_conditional: ClassVar[bool] = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        y, domain = batch.y.flatten(), batch.domain.flatten()  # (D*B,), (D*B,)
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), y)  # ()
        penalty = domain_bottleneck(
            features,
            y,
            domain,
            self.hp.temperature,
            is_conditional=self.is_conditional,
            is_flipped=self.hp.is_flipped,
            is_normalized=self.hp.is_normalized,
        )  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}
