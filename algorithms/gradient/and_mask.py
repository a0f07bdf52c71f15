"""AND-mask: train only the weights on whose direction the domains agree, a logical AND of their gradients.

Parascandolo, Neitz, Orvieto, Gresele, Schölkopf. Learning Explanations that Are Hard to Vary. ICLR 2021.
https://arxiv.org/abs/2009.00329

Differs from the paper: each tensor's masked gradient is divided by the share of its weights that the mask keeps
(as in DomainBed), so that a strict threshold does not shrink the steps.
Differs from DomainBed: frozen parameters are passed over. Agreement is counted in whole domains, so that
rounding cannot hide that all of them agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.hparams import hparam, uniform

from ._domain_gradients import Masked, agreement


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of the AND-mask."""

    tau: float = hparam(
        1.0, uniform(0.5, 1), "least agreement of the domains' signs; at 1 all must agree, tau", key="tau"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise ValueError(f"algorithm.tau={self.tau}, expected 0 to 1: no weight's domains agree more than wholly.")


class ANDMask(Masked):
    """Follow `m * mean(g) / mean(m)`, m = 1[|mean(sign(g))| >= tau], over the domains' gradients `g`, (D, ...)."""

    HParams = HParams
    cost = 3.6

    def mask(self, grads: Tensor) -> Tensor:
        return (agreement(grads) >= self.hp.tau * len(grads)).to(grads.dtype)
