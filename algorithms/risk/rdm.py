"""RDM: risk distribution matching, the worst training domain's losses distributed as those of all domains.

Nguyen, Do, Duong, Nguyen. Domain Generalisation via Risk Distribution Matching. WACV 2024.
https://arxiv.org/abs/2310.18598. The objective, with the variances, is the one in DomainBed.

Until step `anneal_steps` it is ERM. Then the penalty applies, and the optimizer starts afresh with a learning rate of
its own.

Differs from DomainBed: hyper-parameters depend on the regime, there on the dataset. PACS and TerraIncognita draw
lambda from U(1, 10) there, TerraIncognita and OfficeHome have no variance term, and TerraIncognita has the batch
size of DomainNet; here all have the values of the other large datasets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dgbench.algorithm import Needs
from dgbench.batch import Batch
from dgbench.hparams import by_regime, fixed, hparam, log2_int, uniform, uniform_int

from ..alignment._kernels import GAMMAS, mmd
from ._annealing import Annealed


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of RDM."""

    penalty_weight: float | None = by_regime(
        "weight of the distance between the losses' distributions, lambda",
        key="rdm_lambda",
        large=(5.0, uniform(0.1, 10)),
        domain_net=(0.5, uniform(0.1, 1)),
    )
    anneal_steps: int | None = by_regime(
        "steps before the penalty applies",
        key="rdm_penalty_anneal_iters",
        is_step=True,
        large=(1500, uniform_int(800, 2700)),
        domain_net=(2400, uniform_int(1500, 3000)),
    )
    variance_weight: float | None = by_regime(
        "weight of the losses' variances, gamma",
        large=(0.004, uniform(0.001, 0.007)),
        domain_net=(0.0, fixed(0.0)),
    )
    final_lr: float = hparam(1.5e-5, uniform(8e-6, 2e-5), "learning rate from then on", key="rdm_lr")


class RDM(Annealed):
    """Minimise `mean(R) + lambda * MMD^2(L_w, L) + gamma * (var(L) + var(L_w))`.

    `R` (D,) are the risks, `L` (D*B,) the losses of all examples, `L_w` (B,) those of the domain of the largest risk.
    """

    HParams = HParams
    cost = 1.0
    needs = Needs(domain_rows=True)
    optim_fields: ClassVar[Mapping[str, Any]] = {
        "batch_size": by_regime(
            "examples per training domain in a batch, or all",
            key="batch_size",
            small=(64, log2_int(3, 9)),
            large=(88, uniform_int(70, 100)),
            domain_net=(40, uniform_int(30, 60)),
        )
    }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.task.losses(self.outputs(batch).flatten(0, 1), batch.y.flatten(0, 1))  # (D*B,)
        worst = worst_row(losses.view(batch.y.shape[:2]))  # (B,)
        nll, penalty = losses.mean(), risk_distance(worst, losses)  # (), ()
        variance = losses.var() + worst.var()  # ()
        loss = nll
        if self.has_jumped:
            loss = loss + self.hp.penalty_weight * penalty + self.hp.variance_weight * variance
        return {"loss": loss, "nll": nll, "worst_nll": worst.mean(), "penalty": penalty, "variance": variance}

    def configure_optimizers(self) -> Any:
        # Without annealing no step is the jump's.
        return self.make_optimizer(self.trainable(), **({"lr": self.hp.final_lr} if self.has_jumped else {}))

    def restart(self) -> None:
        self.reset_optimizer(lr=self.hp.final_lr)


def worst_row(losses: Tensor) -> Tensor:
    """The row of losses (D, B) whose mean is the largest, (B,).

    Raises:
        ValueError: fewer than two examples per domain.

    >>> import torch
    >>> worst_row(torch.tensor([[0.0, 3.0], [2.0, 2.0]]))
    tensor([2., 2.])
    """
    B = losses.shape[1]
    if B < 2:
        raise ValueError(
            f"RDM needs the variance of each domain's losses, got {B} example of each; raise optim.batch_size."
        )
    # Not losses[index], which waits for the device.
    return losses.index_select(0, losses.mean(1).argmax(0, keepdim=True)).squeeze(0)


def risk_distance(worst: Tensor, losses: Tensor) -> Tensor:
    """Squared MMD between the losses of one domain (B,) and of all examples (D*B,), ()."""
    return mmd(worst.unsqueeze(1), losses.unsqueeze(1), (1e-4, *GAMMAS))
