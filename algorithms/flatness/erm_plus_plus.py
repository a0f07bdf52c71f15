"""ERM++: the head alone first, then all weights, whose mean over the later steps is what predicts.

Teterwak, Saito, Tsiligkaridis, Saenko, Plummer. ERM++: An Improved Baseline for Domain Generalization. 2023.
https://arxiv.org/abs/2304.01973, whose mean of weights is that of Arpit, Wang, Zhou, Xiong. Ensemble of
Averages. NeurIPS 2022. https://arxiv.org/abs/2110.10832

Parameters and the running statistics of batch norms are averaged. After each step, batch norms of the mean
weights then see the step's batch once, without a graph.

Differs from the paper: neither the number of steps nor the learning rate follows the loss on held-out examples,
and there is no second training on all of them, as DomainBed's own train.py has neither. The initial weights are
the run's (the paper's are timm's resnet50.ram_in1k).
Differs from DomainBed: the head is trained alone for `linear_steps` steps, not for one more; the body has no graph
meanwhile; and `sma_start` is a hyper-parameter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import Optim, fixed, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task
from dgbench.weight_average import accumulate


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of ERM++."""

    linear_lr: float = hparam(5e-5, log10_uniform(-5, -3.5), "learning rate while the head is trained alone")
    linear_steps: int = hparam(500, fixed(500), "steps that train the head alone", is_step=True)
    sma_start: int = hparam(
        600, fixed(600), "number of the first step whose weights are averaged with those before it", is_step=True
    )

    def __post_init__(self) -> None:
        if self.sma_start < 1:
            raise ValueError(f"algorithm.sma_start={self.sma_start}, expected at least 1, the number of a step.")


class ERMPlusPlus(Algorithm):
    """Minimise `mean(loss(outputs, y))`, first over the head; predict with the mean of the weights.

    After t steps the mean is that of the weights after step `sma_start - 1`, ..., t; before, it is the weights.
    """

    HParams = HParams
    cost = 1.1
    automatic_optimization = False

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())

    def trains_head_alone(self) -> bool:
        """Whether the current step trains nothing but the head."""
        return self.step < self.hp.linear_steps

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.trains_head_alone()):
            features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        return {"loss": self.task.loss(self.network.head(features), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        loss = self.loss(batch)["loss"]  # ()
        optimizers: Any = self.optimizers()
        self.manual_backward(loss)
        optimizers[0 if self.trains_head_alone() else 1].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.update_average(batch)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def update_average(self, batch: Batch) -> None:
        """Take the weights after the current step into the mean, and show the batch to its batch norms."""
        count = max(0, self.step + 2 - self.hp.sma_start)
        values, average = ([*n.parameters(), *n.buffers()] for n in (self.network, self.average))
        accumulate(average, values, count)
        if self.has_batch_norm and not self.network.recipe["freeze_bn"]:
            self.average.features(batch.x.flatten(0, 1))

    def configure_optimizers(self) -> Any:
        head = list(self.network.head.parameters())
        return [self.make_optimizer(head, lr=self.hp.linear_lr), self.make_optimizer(self.trainable())]

    def features(self, x: Tensor) -> Tensor:
        return self.average.features(x)

    def classify(self, features: Tensor) -> Tensor:
        return self.task.decode(self.average.head(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.task.decode(self.average(x))
