"""IRMv1: features on which one and the same classifier is optimal in every training domain.

Arjovsky, Bottou, Gulrajani, Lopez-Paz. Invariant Risk Minimization. 2019, objective IRMv1 with its unbiased
estimate from two halves of a minibatch. https://arxiv.org/abs/1907.02893

`estimator=squared`, `rescale=true`, an `l2_weight` and `resets_optimizer=false` are the authors' way on Colored
MNIST.

Differs from the paper: the mean over the domains stands for their sum (as in DomainBed). The weight is 1
before it jumps, and the optimizer starts afresh at the jump.
Differs from DomainBed: the halves are of equal size, so the last row of an odd batch is in neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import fixed, hparam, log10_int, log10_uniform
from dgbench.registry import UnknownName
from dgbench.task import Task

from ._annealing import Annealed


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
    estimator: str = hparam(
        "halves",
        fixed("halves"),
        "halves (unbiased: product of the slopes of two halves) or squared (slope of all examples, squared)",
    )
    rescale: bool = hparam(False, fixed(False), "divide the loss by lambda where that exceeds 1")
    l2_weight: float = hparam(
        0.0, fixed(0.0), "weight of the sum of squares of all trained parameters, added before `rescale`"
    )
    resets_optimizer: bool = hparam(True, fixed(True), "start the optimizer afresh at the jump")

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise UnknownName("estimator (algorithm.estimator)", self.estimator, ESTIMATORS)


class IRM(Annealed):
    """Minimise `mean(R + lambda * (dR(s * outputs) / ds at s=1)**2)` over the per-domain risks `R`, (D,)."""

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        nll = self.domain_risks(batch, outputs).mean()  # ()
        penalty = ESTIMATORS[self.hp.estimator](self.task, outputs, batch.y).mean()  # ()
        weight = self.hp.penalty_weight if self.has_jumped else 1.0
        loss = nll + weight * penalty
        if self.hp.l2_weight:
            loss = loss + self.hp.l2_weight * sum(p.square().sum() for p in self.trainable())
        if self.hp.rescale:
            loss = loss / max(weight, 1.0)
        return {"loss": loss, "nll": nll, "penalty": penalty}

    def restart(self) -> None:
        if self.hp.resets_optimizer:
            super().restart()


def halves_penalty(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """Each domain's squared slope of the risk in a dummy scale of the outputs, (D,).

    Estimated without bias by the product of the slopes on even and on odd rows, which may be negative.

    Args:
        task: gives the loss.
        outputs: what the network answered, (D, B, C).
        y: targets, (D, B) or (D, B, C).

    Raises:
        ValueError: fewer than two examples per domain.
    """
    B = outputs.shape[1]
    if B < 2:
        raise ValueError(
            f"IRM compares two halves of each domain's examples, got {B}; raise optim.batch_size, or set "
            "algorithm.estimator=squared."
        )
    return slopes(task, outputs, y, num_parts=2).prod(1)


def squared_penalty(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    """As `halves_penalty`, by the square of the slope on all rows, too large by that slope's variance."""
    return slopes(task, outputs, y, num_parts=1).square().squeeze(1)


def slopes(task: Task, outputs: Tensor, y: Tensor, num_parts: int) -> Tensor:
    """Slope of each part's mean loss in a scale s of the outputs at s = 1, (D, P).

    Row i is in part i modulo P; rows left over are in none.
    """
    D, B, P = *outputs.shape[:2], num_parts
    rows = B // P * P
    parts = outputs[:, :rows].unflatten(1, (B // P, P))  # (D, B/P, P, C)
    scale = outputs.new_ones(D, 1, P, 1, requires_grad=True)
    losses = task.losses((scale * parts).flatten(0, 2), y[:, :rows].flatten(0, 1))
    risk = losses.view(D, B // P, P).mean(1)  # (D, P)
    (slope,) = torch.autograd.grad(risk.sum(), scale, create_graph=True)
    return slope.view(D, P)


ESTIMATORS: dict[str, Callable[[Task, Tensor, Tensor], Tensor]] = {
    "halves": halves_penalty,
    "squared": squared_penalty,
}
