"""SD: spectral decoupling, a penalty on the size of the logits, so that no feature starves the others of gradient.

Pezeshki, Kaba, Bengio, Courville, Precup, Lajoie. Gradient Starvation: A Learning Proclivity in Neural Networks.
NeurIPS 2021. https://arxiv.org/abs/2011.09468

Differs from the paper (as DomainBed does): the mean of the squares over examples and classes stands for half their
sum, and one weight serves all outputs, which are drawn to 0.
Regression (not DomainBed's) penalises the outputs in the task's inner scale: with `target_scale=standard` they are
drawn to the mean of the targets.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import hparam, log10_uniform


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of spectral decoupling."""

    penalty_weight: float = hparam(0.1, log10_uniform(-5, -1), "weight of the mean squared logit, lambda", key="sd_reg")


class SD(Algorithm):
    """Minimise `R + lambda * mean(outputs**2)`, `R` () the mean loss, outputs (D, B, C)."""

    HParams = HParams
    cost = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        nll = self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))  # ()
        penalty = outputs.square().mean()  # ()
        return {"loss": nll + self.hp.penalty_weight * penalty, "nll": nll, "penalty": penalty}
