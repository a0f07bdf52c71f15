"""NOTE: normalisation that knows the instance, and entropy minimisation on a memory balanced over predicted classes.

Gong, Jeong, Kim, Kim, Shin, Lee. NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation.
NeurIPS 2022. https://arxiv.org/abs/2208.05117

Needs a model that was trained with `network.norm=instance_aware`. The entropy is in nats. Differs from the authors'
code: theirs is divided by the number of classes as well, which hardly matters to Adam, and has a constant within the
logarithm; a stream that ends before the first update is never learned from, where theirs makes one at its end;
dropout is off; and images whose answers or statistics are not finite leave no trace.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.adapter import NORMS, Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam

from ._memories import ReservoirMemory
from ._norms import affine_parameters, are_finite, entropy, put_back, statistics_of


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
        weights = affine_parameters(self.algorithm, self.norms)
        for weight in weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(weights, lr=self.hp.lr)
        self.memory = self.empty_memory()
        self.num_seen = 0

    def empty_memory(self) -> ReservoirMemory:
        """The memory before the stream."""
        example = self.algorithm.network.normalise.mean.new_zeros(self.algorithm.input_shape)
        return ReservoirMemory(self.hp.memory_size, self.task.num_classes, example)

    def adapt(self, x: Tensor) -> Tensor:
        answers = []
        while len(x) > 0:
            # An image is answered by all updates that precede it, however the stream is cut into batches.
            num = self.hp.update_every - self.num_seen % self.hp.update_every
            images, x = x[:num], x[num:]
            with torch.no_grad():
                answers.append(self.logits(images))  # (<= num, C)
            is_sound = entropy(answers[-1]).isfinite()  # (<= num,)
            for image, label in zip(images[is_sound], answers[-1][is_sound].argmax(1).tolist(), strict=True):
                self.memory.add(image, label)
            self.num_seen += len(images)
            if self.num_seen % self.hp.update_every == 0 and len(self.memory) > 0:
                self.update()
        return torch.cat(answers)  # (N, C)

    def update(self) -> None:
        """One step on the memory, whose statistics the batch norms also take in.

        Where the memory has no finite loss and statistics, it is emptied instead.
        """
        statistics = statistics_of(self.norms)
        for norm in self.norms:
            norm.train()
        loss = entropy(self.logits(self.memory.images)).mean()  # ()
        for norm in self.norms:
            norm.eval()
        if not are_finite([loss, *statistics_of(self.norms)]):
            put_back(self.norms, statistics)
            self.memory = self.empty_memory()
            return
        self.descend(loss, self.optimizer)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The layers of a model with running statistics, in order."""
    kinds = (*NORMS["batch"], *NORMS["instance_aware"])
    return [part for part in model.modules() if isinstance(part, kinds)]  # type: ignore[misc]
