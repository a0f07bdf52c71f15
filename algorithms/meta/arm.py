"""ARM: a network that sees, beside an image, the context of the group it came in, and so adapts to the group.

Zhang, Marklund, Dhawan, Gupta, Levine, Finn. Adaptive Risk Minimization: Learning to Adapt to Domain Shift. NeurIPS
2021. https://arxiv.org/abs/2007.02931. The form is ARM-CML, with contextual meta-learning.

A context network makes one map of every image; their mean over the group is a further channel of its images. In
training a group is the examples of a domain in the batch. In evaluation, batches are of one domain, in groups of
optim.batch_size where that divides the batch, else in one.

Pretrained filters of the first layer are repeated for the channel that is added.

Differs from DomainBed: the context network is trained (there, the optimizer does not know of it), sees inputs as the
network normalises them, and has no biases that batch normalisation would take out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, by_regime, fixed, log2_int
from dgbench.network import Network
from dgbench.task import Task

WIDTH = 64


@dataclass(kw_only=True)
class HParams:
    """ARM has no hyper-parameters of its own."""


class ARM(Algorithm):
    """Minimise the mean loss of `network([x, mean(context(x))])`, the mean over the group of an example `x`.

    `context(x)` (N, 1, H, W) is of the size of the images.
    """

    HParams = HParams
    cost = 2.1
    needs = Needs(domain_rows=True, joint_prediction=64)
    optim_fields: ClassVar[Mapping[str, Any]] = {
        "batch_size": by_regime(
            "examples per training domain in a batch, or all; also the size of a group in evaluation",
            key="batch_size",
            small=(64, log2_int(3, 9)),
            large=(8, fixed(8)),
        )
    }

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        if len(network.input_shape) != 3:
            raise ValueError(
                f"ARM needs images (C, H, W), of which its context network makes maps, got inputs of "
                f"{network.input_shape}. Use another dataset, or another method."
            )
        C, H, W = network.input_shape
        super().__init__(task, network.rebuild(input_shape=(C + 1, H, W)), num_domains, optim, hp)
        self.context = context_network(C, network.normalise)

    @property
    def input_shape(self) -> tuple[int, ...]:
        C, H, W = self.network.input_shape
        return C - 1, H, W

    def outputs(self, batch: Batch) -> Tensor:
        """The network's answer for a batch whose rows are groups, (D, B, C)."""
        D, B = batch.x.shape[:2]
        return self.network(self.with_context(batch.x.flatten(0, 1), B)).unflatten(0, (D, B))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def with_context(self, x: Tensor, size: int) -> Tensor:
        """Images (N, C, H, W) with the context of their group of `size` successive ones, (N, C + 1, H, W)."""
        context = self.context(x).unflatten(0, (len(x) // size, size)).mean(1)  # (groups, 1, H, W)
        return torch.cat([x, context.repeat_interleave(size, 0)], 1)

    def group_size(self, num: int) -> int:
        """Examples in a group, where `num` are predicted together."""
        size: Any = self.optim.batch_size
        return num if size == "all" or num % size else size

    def features(self, x: Tensor) -> Tensor:
        return self.network.features(self.with_context(x, self.group_size(len(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def context_network(num_channels: int, normalise: nn.Module) -> nn.Sequential:
    """From images (N, num_channels, H, W) to maps (N, 1, H, W)."""
    layers: list[nn.Module] = [normalise]
    for channels in (num_channels, WIDTH):
        # A normalisation has a bias of its own.
        conv = nn.Conv2d(channels, WIDTH, 5, padding=2, bias=False)
        layers += [conv, nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 5, padding=2))
