"""SAM: sharpness-aware minimisation, the gradient taken at the worst weights nearby.

Foret, Kleiner, Mobahi, Neyshabur. Sharpness-Aware Minimization for Efficiently Improving Generalization.
ICLR 2021, eqs. 2 and 3 with p = 2. https://arxiv.org/abs/2010.01412

The first pass alone moves the running statistics of batch normalisation, and both passes see the same dropout
masks: with rho = 0 the method is ERM, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgbench.hparams import choices, hparam

from ._perturbation import SharpnessAware


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SAM."""

    rho: float = hparam(
        0.05,
        choices(0.01, 0.02, 0.05, 0.1),
        "radius of the neighbourhood, in the norm of all weights",
        key="rho",
    )


class SAM(SharpnessAware):
    """Minimise `L(w + rho * g / |g|)`, g = dL/dw held constant, where `L` is the mean loss."""

    HParams = HParams
    cost = 2.1
