"""NOTE: normalisation that knows the instance, and entropy minimisation on a memory balanced over predicted classes.

Gong, Jeong, Kim, Kim, Shin, Lee. NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation.
NeurIPS 2022. https://arxiv.org/abs/2208.05117

Needs a model that was trained with `network.norm=instance_aware`. The entropy is in nats. Differs from the authors'
code: theirs is divided by the number of classes as well, which hardly matters to Adam, and has a constant within the
logarithm; a stream that ends before the first update is never learned from, where theirs makes one at its end; and
dropout is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.adapter import NORMS, Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam

from ._memories import ReservoirMemory
from ._norms import entropy


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of NOTE."""

    lr: float = hparam(1e-4, choices(1e-5, 1e-4, 1e-3, 1e-2), "learning rate of Adam")
    momentum: float = hparam(0.01, choices(0.01, 0.05, 0.1), "the memory's share in the next statistics, m")
    memory_size: int = hparam(64, fixed(64), "images in the memory, N")
    update_every: int = hparam(64, fixed(64), "images from one update to the next")

    def __post_init__(self) -> None:
        for name in ("memory_size", "update_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"adapter.{name}={getattr(self, name)}, expected a number of images, 1 or more.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"adapter.momentum={self.momentum:g}, expected a share, from 0 to 1.")


class NOTE(Adapter):
    """Minimise `mean(H(softmax(f(m))))` over the memory's images m and the weights and biases of the batch norms."""

    HParams = HParams
    needs = Needs(norms=("instance_aware",))
    baseline = Baseline("source", {"lr": 0.0, "momentum": 0.0})

    def prepare(self, source: Source | None) -> None:
        self.norms = tuple(batch_norms(self.algorithm))
        for norm in self.norms:
            norm.momentum = self.hp.momentum
            norm.requires_grad_()
        self.optimizer = torch.optim.Adam([p for norm in self.norms for p in norm.parameters()], lr=self.hp.lr)
        example = self.algorithm.network.normalise.mean.new_zeros(self.algorithm.network.input_shape)
        self.memory = ReservoirMemory(self.hp.memory_size, self.task.num_classes, example)
        self.num_seen = 0

    def adapt(self, x: Tensor) -> Tensor:
        answers = []
        while len(x) > 0:
            # An image is answered by all updates that precede it, however the stream is cut into batches.
            num = self.hp.update_every - self.num_seen % self.hp.update_every
            images, x = x[:num], x[num:]
            with torch.no_grad():
                answers.append(self.logits(images))  # (<= num, C)
            for image, label in zip(images, answers[-1].argmax(1).tolist(), strict=True):
                self.memory.add(image, label)
            self.num_seen += len(images)
            if self.num_seen % self.hp.update_every == 0:
                self.update()
        return torch.cat(answers)  # (N, C)

    def update(self) -> None:
        """One step on the memory, whose statistics the batch norms also take in."""
        for norm in self.norms:
            norm.train()
        loss = entropy(self.logits(self.memory.images)).mean()  # ()
        for norm in self.norms:
            norm.eval()
        self.descend(loss, self.optimizer)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The layers of a model with running statistics, in order."""
    kinds = (*NORMS["batch"], *NORMS["instance_aware"])
    return [part for part in model.modules() if isinstance(part, kinds)]  # type: ignore[misc]
