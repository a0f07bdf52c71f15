"""Tent: test-time entropy minimisation in the normalisation layers' weights.

Wang, Shelhamer, Liu, Olshausen, Darrell. Tent: Fully Test-Time Adaptation by Entropy Minimization. ICLR 2021.
https://arxiv.org/abs/2006.10726

Batch norms use the batch's statistics. Differs from the authors' code: weights of group and layer norms are adapted
too, and dropout is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, hparam

from ._norms import affine_parameters, batch_statistics, entropy, replace_batch_norms
from ._parts import check_updates


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of Tent."""

    lr: float = hparam(1e-3, choices(1e-5, 1e-4, 1e-3, 1e-2), "learning rate of Adam")
    num_updates: int = hparam(1, choices(1, 3, 10), "updates per batch")

    def __post_init__(self) -> None:
        check_updates(self.num_updates)


class Tent(Adapter):
    """Minimise `mean(H(softmax(f(x))))` over the weights and biases of the normalisation layers."""

    HParams = HParams
    needs = Needs(norms=("batch", "group", "layer", "instance_aware"))
    baseline = Baseline("bn_adapt", {"lr": 0.0})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, batch_statistics)
        weights = affine_parameters(self.algorithm)
        for weight in weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(weights, lr=self.hp.lr)

    def adapt(self, x: Tensor) -> Tensor:
        for _ in range(self.hp.num_updates):
            logits = self.logits(x)  # (N, C)
            self.descend(entropy(logits).mean(), self.optimizer)
        return logits
