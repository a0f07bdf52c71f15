"""CORAL: features whose mean and covariance are the same in every training domain.

Sun and Saenko. Deep CORAL: Correlation Alignment for Deep Domain Adaptation. ECCV Workshops 2016, eq. 1.
https://arxiv.org/abs/1607.01719

Differs from the paper (as DomainBed does): every pair of training domains takes the place of source and
target, the means are matched too, and the squared entries are averaged, 1 / F^2 for 1 / (4 F^2).
Differs from DomainBed: one forward pass for all domains, which batch normalisation notices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._moments import mean_and_covariance, mean_pairwise_distance


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CORAL."""

    penalty_weight: float = hparam(1.0, log10_uniform(-1, 1), "weight of the alignment, gamma", key="mmd_gamma")


class CORAL(Algorithm):
    """Minimise `mean(R) + gamma * mean over i<j of [mean((mu_i - mu_j)**2) + mean((C_i - C_j)**2)]`.

    `R` (D,) are the risks, `mu` (D, F) and `C` (D, F, F) the moments of the features.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True, min_domains=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        penalty = coral_distance(features.unflatten(0, (D, B)))  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}


def coral_distance(features: Tensor) -> Tensor:
    """Mean over pairs of domains of the distance between their moments, ().

    Args:
        features: examples of at least two domains, (D, B, F).
    """
    mean, covariance = mean_and_covariance(features)  # (D, F), (D, F, F)
    return mean_pairwise_distance(mean) + mean_pairwise_distance(covariance)
