"""LISA: mixup of two examples that share the label but not the domain, or the domain but not the label.

Yao, Wang, Li, Zhang, Liang, Zou, Finn. Improving Out-of-Distribution Robustness via Selective Augmentation.
ICML 2022. https://arxiv.org/abs/2201.00299

All losses are on mixed examples. Which pairing a step has is drawn anew for every step, and holds for its whole batch.
Partners are drawn within the batch; an example that has none there (its label is in no other domain of the batch, or
its domain has no other label) is trained on as it is.

Differs from the paper: inputs are mixed by mixup on every dataset, where the authors' code takes CutMix for some
images, and hidden features for text. `mix_ratio=1` is the pairing that it has for domain shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform, uniform

from ._mixing import mix
from ._partners import partners


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of LISA."""

    mix_ratio: float = hparam(
        0.5, uniform(0, 1), "probability that a step pairs within labels, p_sel; else within domains", key="mix_ratio"
    )
    alpha: float = hparam(2.0, log10_uniform(-1, 1), "lambda is drawn from Beta(alpha, alpha)", key="lisa_alpha")

    def __post_init__(self) -> None:
        if not 0 <= self.mix_ratio <= 1:
            raise ValueError(f"algorithm.mix_ratio={self.mix_ratio}, expected a probability from 0 to 1.")
        if not self.alpha > 0:
            raise ValueError(f"algorithm.alpha={self.alpha}, expected more than 0. 1 draws lambda uniformly.")


class LISA(Algorithm):
    """Minimise `mean(l * loss(f(x), y_i) + (1 - l) * loss(f(x), y_j))` over pairs (i, j), x = l * x_i + (1 - l) * x_j.

    Every example i has a partner j; `l` (D*B,) ~ Beta(alpha, alpha).
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_labels=True, min_domains=2, tasks=("classification",))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x, y, domain = batch.x.flatten(0, 1), batch.y.flatten(), batch.domain.flatten()  # (D*B, ...), (D*B,), (D*B,)
        is_intra_label = torch.rand(()) < self.hp.mix_ratio
        partner = partners(same=y, other=domain) if is_intra_label else partners(same=domain, other=y)  # (D*B,)
        share = Beta(self.hp.alpha, self.hp.alpha).sample((len(y),))  # (D*B,)
        outputs = self.network(mix(x, x[partner], share))  # (D*B, C)
        # The cross-entropy with mixed labels is the mix of the cross-entropies.
        risk = mix(self.task.losses(outputs, y), self.task.losses(outputs, y[partner]), share)  # (D*B,)
        return {"loss": risk.mean()}
