"""ASAM: adaptive sharpness-aware minimisation, SAM in a neighbourhood that scales with the weights.

Kwon, Kim, Park, Choi. ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
Networks. ICML 2021, with p = 2 and element-wise normalisation. https://arxiv.org/abs/2102.11600

`T` is the identity for parameters that are no weights by name (biases), as in the authors' code. The two passes are
those of `sam`: with rho = 0 the method is ERM, bit for bit.
Ours: the search distribution of rho, ten times that of `sam`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dgbench.hparams import choices, fixed, hparam

from ._perturbation import Gradients, SharpnessAware, adaptive_ascent


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of ASAM."""

    rho: float = hparam(
        0.5,
        choices(0.1, 0.2, 0.5, 1.0),
        "radius of the neighbourhood, in the norm of all weights divided by T",
        key="asam_rho",
    )
    eta: float = hparam(0.01, fixed(0.01), "added to the size of each weight in T", key="asam_eta")


class ASAM(SharpnessAware):
    """Minimise `L(w + rho * T**2 @ g / |T @ g|)`, T = diag(|w| + eta), g = dL/dw, both held constant.

    `L` is the mean loss.
    """

    HParams = HParams
    cost = 1.7

    @torch.no_grad()
    def perturbation(self, grads: Gradients) -> Gradients:
        """Where the loss is highest nearby, from the gradient in each trainable parameter."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        scales = [p.abs() + self.hp.eta if "weight" in name else torch.ones_like(p) for name, p in named]
        return adaptive_ascent(grads, scales, self.hp.rho)
