"""MMD: features whose distribution, as kernels see it, is the same in every training domain.

Li, Pan, Wang, Kot. Domain Generalization with Adversarial Feature Learning. CVPR 2018.
https://openaccess.thecvf.com/content_cvpr_2018/html/Li_Domain_Generalization_With_CVPR_2018_paper.html

Differs from the paper (as DomainBed does): the penalty alone, on the network's features, without autoencoder and
adversarial prior, averaged over the pairs of training domains.
Differs from DomainBed: one forward pass for all domains, which batch normalisation notices; distances in single
precision at least, and from centred features.
Where nothing normalises the features, the penalty can pull all of them to one point before the classes part: on
digits_rot `small_cnn` stays at chance with the default weight, but neither with 0.1 nor with `network.norm=batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._kernels import mean_pairwise_mmd


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of MMD."""

    penalty_weight: float = hparam(1.0, log10_uniform(-1, 1), "weight of the alignment, gamma", key="mmd_gamma")


class MMD(Algorithm):
    """Minimise `mean(R) + gamma * mean over i<j of [mean k(F_i, F_i) + mean k(F_j, F_j) - 2 mean k(F_i, F_j)]`.

    `R` (D,) are the risks, `F` (D, B, F) the features, and k sums Gaussian kernels of seven widths.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True, min_domains=2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        nll = self.task.loss(self.network.head(features), batch.y.flatten(0, 1))  # ()
        penalty = mean_pairwise_mmd(features.unflatten(0, (D, B)))  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}
