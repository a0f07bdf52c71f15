"""Inter-domain mixup: train on convex combinations of examples of two domains.

Yan, Song, Li, Zou, Ren. Improve Unsupervised Domain Adaptation with Mixup Training. 2020.
https://arxiv.org/abs/2001.00677, after Zhang, Cisse, Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk
Minimization. ICLR 2018. https://arxiv.org/abs/1710.09412

Differs from the paper (as DomainBed does): training domains are mixed in a random cycle, all losses are on
mixed examples, and there is no domain discriminator.
Differs from DomainBed: one forward pass for all domains, which batch normalisation notices. A single domain
is mixed with itself in random order, plain mixup, where DomainBed mixes every example with itself.
Regression mixes the losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform

from ._mixing import mix


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of mixup."""

    alpha: float = hparam(0.2, log10_uniform(-1, 1), "lambda is drawn from Beta(alpha, alpha)", key="mixup_alpha")


class Mixup(Algorithm):
    """Minimise `mean(l * R_i(x) + (1 - l) * R_j(x))` over pairs of domains, x = l * x_i + (1 - l) * x_j.

    `R_i(x)` () is the mean loss at the mixed inputs against targets of domain i, `l` () ~ Beta(alpha, alpha).
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D = len(batch.x)
        share = Beta(self.hp.alpha, self.hp.alpha).sample((D,))  # (D,)
        first, second = domain_pairs(batch)
        mixed = first._replace(x=mix(first.x, second.x, share))
        outputs = self.outputs(mixed)  # (D, B, C)
        risk = mix(self.domain_risks(first, outputs), self.domain_risks(second, outputs), share)  # (D,)
        return {"loss": risk.mean()}


def domain_pairs(batch: Batch) -> tuple[Batch, Batch]:
    """The domains in random order, and beside each the next one, cyclically."""
    D, B = batch.y.shape[:2]
    order = torch.randperm(D)
    first = Batch(batch.x[order], batch.y[order], batch.domain[order])
    if D == 1:
        rows = torch.randperm(B)
        return first, Batch(first.x[:, rows], first.y[:, rows], first.domain[:, rows])
    return first, Batch(first.x.roll(-1, 0), first.y.roll(-1, 0), first.domain.roll(-1, 0))
