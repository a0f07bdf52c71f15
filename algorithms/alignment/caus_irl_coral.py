"""CausIRL with CORAL: features whose mean and covariance are the same in random mixtures of the training domains.

Chevalley, Bunne, Krause, Bauer. Invariant Causal Mechanisms through Distribution Matching. 2022.
https://arxiv.org/abs/2206.11646. The distance is that of Sun and Saenko. Deep CORAL: Correlation Alignment for Deep
Domain Adaptation. ECCV Workshops 2016, eq. 1. https://arxiv.org/abs/1607.01719

Every domain's examples are cut at a random place, and the parts before and after the cuts are the mixtures. Where
one has fewer than two examples, the step has no penalty.

Differs from the papers (as DomainBed does): as `coral` in the distance, means too and entries averaged.
Differs from DomainBed: one forward pass for all domains, which batch normalisation notices; torch draws the cuts;
a single training domain is refused; a distance that is not a number is not taken for 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._causal import mixture_distance
from ._moments import mean_and_covariance


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CausIRL with CORAL."""

    penalty_weight: float = hparam(1.0, log10_uniform(-1, 1), "weight of the alignment, gamma", key="mmd_gamma")


class CausIRLCORAL(Algorithm):
    """Minimise `mean(R) + gamma * [mean((mu_1 - mu_2)**2) + mean((C_1 - C_2)**2)]`.

    `R` (D,) are the risks, `mu` (F,) and `C` (F, F) the moments of the features of two mixtures of the domains.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True, min_domains=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        penalty = mixture_distance(features.unflatten(0, (D, B)), moment_distance)  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}


def moment_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared differences of the means and of the covariances of samples x (N, F) and y (M, F), ().

    >>> import torch
    >>> moment_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [3.0], [6.0]]))
    tensor(10.)
    """
    moments = zip(mean_and_covariance(x), mean_and_covariance(y), strict=True)
    mean, covariance = ((a - b).square().mean() for a, b in moments)  # (), ()
    return mean + covariance
