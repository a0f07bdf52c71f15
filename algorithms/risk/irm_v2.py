"""IRMv2: IRM with a penalty that does not depend on the scale of the features, by their Gramian.

Khezeli, Blaas, Soboczenski, Chia, Kalantari. On Invariance Penalties for Risk Minimization. 2021.
https://arxiv.org/abs/2106.09777

For a linear head and the squared error, `g' I^-1 g` (g the gradient of a domain's risk in the head, I the Gramian of
its features) is four times what the domain's best head would gain over this one, whatever the features' scale.

Uncertain: written from the paper's abstract, without its full text and code. The form of the penalty is
reconstructed; that it has the property above follows by algebra. The companion IRMv1A is left out.
Ours: the same penalty for the cross-entropy; the bias of the head, as one more feature that is 1; the ridge on the
Gramian, without which it has no inverse where a domain has fewer examples than features; the annealing,
which is IRMv1's (weight 1 before it jumps, the optimizer starts afresh there); all defaults and search
distributions. The mean over the domains stands for their sum, as in `irm`.
Where a domain has fewer examples than features, a head can fit them all, and the penalty measures little but the
residuals: take larger batches, narrower features or a larger `ridge`. On digits_rot `small_cnn` stays at chance, but
neither with `ridge=1` nor with `network.norm=batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform

from ._annealing import Annealed


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of IRMv2."""

    penalty_weight: float = hparam(
        10.0, log10_uniform(-1, 4), "weight of the invariance penalty, lambda", key="irm_v2_lambda"
    )
    anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before that weight applies; it is 1 until then",
        key="irm_v2_penalty_anneal_iters",
        is_step=True,
    )
    ridge: float = hparam(
        1e-3,
        log10_uniform(-4, 0),
        "added to the Gramian's diagonal, in units of its mean, delta",
        key="irm_v2_ridge",
    )


class IRMv2(Annealed):
    """Minimise `mean(R + lambda * trace(G.T @ inv(F.T @ F / B + delta) @ G))` over the domains.

    Of each domain, `R` () is the risk, `F` (B, F + 1) are the features and a 1, and `G` (F + 1, C) is the risk's
    gradient in the head.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        D, B = batch.x.shape[:2]
        features = self.network.features(batch.x.flatten(0, 1)).unflatten(0, (D, B))  # (D, B, F)
        outputs = self.network.head(features)  # (D, B, C)
        risk = self.domain_risks(batch, outputs)  # (D,)
        (slopes,) = torch.autograd.grad(risk.sum(), outputs, create_graph=True)  # (D, B, C)
        nll, penalty = risk.mean(), gramian_penalty(features, slopes, self.hp.ridge).mean()  # (), ()
        weight = self.hp.penalty_weight if self.has_jumped else 1.0
        return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}


def gramian_penalty(features: Tensor, slopes: Tensor, ridge: float) -> Tensor:
    """`trace(G' inv(I) G)` of each domain, (D,).

    With the bias as a feature that is 1, `I = F'F / B + delta` is the Gramian, where delta is `ridge` times the mean of
    its diagonal, and `G = F' slopes` the gradient in the head.

    Args:
        features: what the head reads, (D, B, F).
        slopes: gradient of each domain's mean loss in the head's outputs, (D, B, C).
        ridge: keeps the Gramian invertible.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):  # there is no solver in half precision
        inputs = F.pad(features.to(dtype), (0, 1), value=1.0)  # (D, B, F+1)
        slopes = slopes.to(dtype)
        B, num_inputs = inputs.shape[1:]
        delta = ridge * inputs.square().mean((1, 2))  # (D,)
        if num_inputs <= B:
            gradient = inputs.mT @ slopes  # (D, F+1, C)
            return (gradient * _solved(inputs.mT @ inputs / B, delta, gradient)).sum((1, 2))
        # F inv(F'F / B + delta) F' = FF' inv(FF' / B + delta): the smaller of the two matrices is solved.
        kernel = inputs @ inputs.mT  # (D, B, B)
        return (slopes * (kernel @ _solved(kernel / B, delta, slopes))).sum((1, 2))


def _solved(matrix: Tensor, delta: Tensor, right: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    # solve_ex leaves NaN in, NaN out: a run that diverges is to say so by its loss.
    return torch.linalg.solve_ex(matrix + delta.view(-1, 1, 1) * identity, right).result
