"""Source: the trained model as it is, which every adapter is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.adapter import Adapter, Needs


@dataclass(kw_only=True)
class HParams:
    """The source model has no hyper-parameters."""


class Unadapted(Adapter):
    """Answer `f(x)`."""

    HParams = HParams
    needs = Needs(tasks=("classification", "regression"))

    def adapt(self, x: Tensor) -> Tensor:
        return self.logits(x)
