"""Empirical risk minimisation: the mean loss over the examples of all training domains.

Vapnik. Principles of Risk Minimization for Learning Theory. NIPS 1991. The baseline of Gulrajani and
Lopez-Paz. In Search of Lost Domain Generalization. ICLR 2021. https://arxiv.org/abs/2007.01434
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch


@dataclass(kw_only=True)
class HParams:
    """None: the weights and how they are updated are the whole method."""


class ERM(Algorithm):
    """Minimise `mean(loss(outputs, y))`, outputs (D*B, C)."""

    HParams = HParams
    cost = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}
