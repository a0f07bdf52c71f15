"""CausIRL with MMD: features whose distribution, as kernels see it, is the same in random mixtures of the domains.

Chevalley, Bunne, Krause, Bauer. Invariant Causal Mechanisms through Distribution Matching. 2022.
https://arxiv.org/abs/2206.11646. The distance is that of Gretton, Borgwardt, Rasch, Schoelkopf, Smola. A Kernel
Two-Sample Test. JMLR 2012, the biased estimate of MMD^2.

Every domain's examples are cut at a random place, and the parts before and after the cuts are the mixtures. Where
one has fewer than two examples, the step has no penalty.

Differs from DomainBed: one forward pass for all domains, which batch normalisation notices; torch draws the cuts;
a single training domain is refused; a distance that is not a number is not taken for 0; distances in single
precision at least, and from centred features.
Features that nothing normalises can end in one point, as with `mmd`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._causal import mixture_distance
from ._kernels import mmd


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CausIRL with MMD."""

    penalty_weight: float = hparam(1.0, log10_uniform(-1, 1), "weight of the alignment, gamma", key="mmd_gamma")


class CausIRLMMD(Algorithm):
    """Minimise `mean(R) + gamma * [mean k(F_1, F_1) + mean k(F_2, F_2) - 2 mean k(F_1, F_2)]`.

    `R` (D,) are the risks, `F_1` (N, F) and `F_2` (M, F) the features of two mixtures of the domains, and k sums
    Gaussian kernels of seven widths.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True, min_domains=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        penalty = mixture_distance(features.unflatten(0, (D, B)), mmd)  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}
