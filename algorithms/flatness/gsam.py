"""GSAM: surrogate gap guided SAM, which also lowers the gap between the perturbed loss and the loss itself.

Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu. Surrogate Gap Minimization Improves Sharpness-Aware
Training. ICLR 2022. https://arxiv.org/abs/2203.08065

The part of the loss's own gradient that is orthogonal to the perturbed loss's is descended backwards: to first order,
that raises the loss without changing the perturbed loss. The two passes are those of `sam`, which alpha = 0 is, bit for
bit.

Differs from the paper: the radius follows the learning rate there, and the benchmark's is constant.
Ours: the search distributions, for rho that of `sam`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dgbench.hparams import choices, hparam

from ._perturbation import Gradients, SharpnessAware


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of GSAM."""

    rho: float = hparam(
        0.05,
        choices(0.01, 0.02, 0.05, 0.1),
        "radius of the neighbourhood, in the norm of all weights",
        key="gsam_rho",
    )
    alpha: float = hparam(0.4, choices(0.1, 0.2, 0.4, 0.8), "weight of the orthogonal part", key="gsam_alpha")


class GSAM(SharpnessAware):
    """Descend `g_p - alpha * (g - proj(g))`, g = dL/dw, g_p = dL/dw at w + rho * g / |g|.

    `L` is the mean loss, `proj` the projection on g_p.
    """

    HParams = HParams
    cost = 2.0

    def descent(self, grads: Gradients, nearby: Gradients) -> Gradients:
        return decomposed(grads, nearby, self.hp.alpha)


def decomposed(grads: Gradients, nearby: Gradients, alpha: float) -> Gradients:
    """`nearby` less `alpha` times the part of `grads` that is orthogonal to it, over all parameters together.

    Args:
        grads: of the loss.
        nearby: of the perturbed loss; None in the same places.
        alpha: weight of the orthogonal part.

    >>> decomposed([torch.tensor([3.0]), torch.tensor([5.0])], [torch.tensor([2.0]), torch.tensor([0.0])], alpha=0.5)
    [tensor([2.]), tensor([-2.5000])]
    """
    pairs = [(g, g_p) for g, g_p in zip(grads, nearby, strict=True) if g is not None and g_p is not None]
    norm = torch.nn.utils.get_total_norm([g_p for _, g_p in pairs]) + 1e-12
    along = torch.stack([(g * (g_p / norm)).sum() for g, g_p in pairs]).sum() / norm
    return [
        g_p if g is None or g_p is None else g_p - alpha * (g - along * g_p)
        for g, g_p in zip(grads, nearby, strict=True)
    ]
