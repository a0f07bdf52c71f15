"""SAND-mask: a smooth AND-mask, which also asks the domains' gradients to be alike in size.

Shahtalebi, Gagnon-Audet, Laleh, Faramarzi, Ahuja, Rish. SAND-mask: An Enhanced Gradient Masking Strategy for the
Discovery of Invariances in Domain Generalization. 2021. https://arxiv.org/abs/2106.02266

Differs from DomainBed: tau is 0.5 by default, the middle of its search range. DomainBed's default is 1, and as no
agreement exceeds 1 its mask is zero everywhere and nothing is trained; here such a tau is refused. Frozen
parameters are passed over. A weight whose agreement is tau is masked also where the variance vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.hparams import hparam, log10_uniform, uniform

from ._domain_gradients import Masked, agreement


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of the SAND-mask."""

    tau: float = hparam(0.5, uniform(0, 1), "agreement of the domains' signs that must be exceeded, tau", key="tau")
    k: float = hparam(10.0, log10_uniform(-3, 5), "steepness of the mask, times the gradients' variance, k", key="k")

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(
                f"algorithm.tau={self.tau}, expected at least 0 and less than 1: no agreement exceeds 1, and nothing "
                "would be trained."
            )
        if not self.k > 0:
            raise ValueError(f"algorithm.k={self.k}, expected more than 0: the mask would keep nothing.")


class SANDMask(Masked):
    """Follow `m * mean(g) / mean(m)`, m = max(0, tanh(k / var(g) * (|mean(sign(g))| - tau))), over the domains' `g`."""

    HParams = HParams
    cost = 3.7

    def mask(self, grads: Tensor) -> Tensor:
        D = len(grads)
        # One domain does not vary.
        variance = grads.var(0) if D > 1 else torch.zeros_like(grads[0])  # (...)
        excess = agreement(grads) / D - self.hp.tau  # (...)
        # Of equal gradients the variance is 0, and the mask 0 or 1; 0 / 0 would be no number.
        return (self.hp.k * excess / variance.clamp(min=torch.finfo(grads.dtype).tiny)).tanh().relu()
