"""IRMv1: features on which one and the same classifier is optimal in every training domain.

Arjovsky, Bottou, Gulrajani, Lopez-Paz. Invariant Risk Minimization. 2019, objective IRMv1 with its unbiased
estimate from two halves of a minibatch. https://arxiv.org/abs/1907.02893

Differs from the paper: the mean over the domains stands for their sum (as in DomainBed). The weight is 1
before it jumps, and the optimizer starts afresh at the jump.
Differs from DomainBed: the halves are of equal size, so the last row of an odd batch is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_int, log10_uniform
from dgbench.task import Task


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of IRMv1."""

    penalty_weight: float = hparam(
        100.0, log10_uniform(-1, 5), "weight of the invariance penalty, lambda", key="irm_lambda"
    )
    anneal_steps: int = hparam(
        500,
        log10_int(0, 4),
        "steps before that weight applies; it is 1 until then",
        key="irm_penalty_anneal_iters",
        is_step=True,
    )


class IRM(Algorithm):
    """Minimise `mean(R + lambda * (dR(s * outputs) / ds at s=1)**2)` over the per-domain risks `R`, (D,)."""

    HParams = HParams
    needs = Needs(domain_rows=True)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if 0 < self.step == self.hp.anneal_steps:
            self.reset_optimizer()
        return self.loss(batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        nll = self.domain_risks(batch, outputs).mean()  # ()
        penalty = invariance_penalty(self.task, outputs, batch.y).mean()  # ()
        weight = self.hp.penalty_weight if self.step >= self.hp.anneal_steps else 1.0
        return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}


def invariance_penalty(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """Each domain's squared slope of the risk in a dummy scale of the outputs, (D,).

    Estimated without bias by the product of the slopes on even and on odd rows, which may be negative.

    Args:
        task: gives the loss.
        outputs: what the network answered, (D, B, C).
        y: targets, (D, B) or (D, B, C).

    Raises:
        ValueError: fewer than two examples per domain.
    """
    D, B = outputs.shape[:2]
    if B < 2:
        raise ValueError(f"IRM compares two halves of each domain's examples, got {B}; raise optim.batch_size.")
    pairs = outputs[:, : B // 2 * 2].unflatten(1, (B // 2, 2))  # (D, B/2, 2, C)
    scale = outputs.new_ones(D, 1, 2, 1, requires_grad=True)
    losses = task.losses((scale * pairs).flatten(0, 2), y[:, : B // 2 * 2].flatten(0, 1))
    risk = losses.view(D, B // 2, 2).mean(1)  # (D, 2)
    (slope,) = torch.autograd.grad(risk.sum(), scale, create_graph=True)
    return slope.view(D, 2).prod(1)
