"""SAGM: sharpness-aware gradient matching, the loss and the perturbed loss descended in directions that agree.

Wang, Zhang, Lei, Zhang. Sharpness-Aware Gradient Matching for Domain Generalization. CVPR 2023.
https://arxiv.org/abs/2303.10353

The perturbed loss is taken where a step of length alpha down the loss's own gradient leads: to first order, that
rewards gradients with a large inner product. The two passes are those of `sam`: with alpha = 0 the gradient is the mean
of ERM's and SAM's, and with rho = 0 besides the method is ERM, bit for bit.

Differs from the paper: the mean of the two losses stands for their sum, as in the authors' code.
Ours: the search distributions, for rho that of `sam`, for alpha the values of the authors' runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgbench.hparams import choices, hparam

from ._perturbation import Gradients, SharpnessAware, ascent


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SAGM."""

    rho: float = hparam(
        0.05,
        choices(0.01, 0.02, 0.05, 0.1),
        "radius of the neighbourhood, in the norm of all weights",
        key="sagm_rho",
    )
    alpha: float = hparam(
        0.001, choices(0.0005, 0.001), "step down the gradient before the perturbation", key="sagm_alpha"
    )


class SAGM(SharpnessAware):
    """Minimise `(L(w) + L(w - alpha * g + rho * g / |g|)) / 2`, g = dL/dw held constant.

    `L` is the mean loss.
    """

    HParams = HParams
    cost = 2.0

    def perturbation(self, grads: Gradients) -> Gradients:
        """Up the gradient by length rho and down it by alpha times its own length."""
        up = ascent(grads, self.hp.rho)
        return [None if u is None or g is None else u - self.hp.alpha * g for u, g in zip(up, grads, strict=True)]

    def descent(self, grads: Gradients, nearby: Gradients) -> Gradients:
        """The mean of both gradients."""
        return [None if g is None or g_p is None else (g + g_p) / 2 for g, g_p in zip(grads, nearby, strict=True)]
