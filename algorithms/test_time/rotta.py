"""RoTTA: a student learns from its slow teacher on a memory of recent, certain images of all predicted classes.

Yuan, Xie, Li. Robust Test-Time Adaptation in Dynamic Scenarios. CVPR 2023. https://arxiv.org/abs/2303.13899

Batch norms use running statistics, which the memory moves (robust batch norm). Differs from the authors' code: dropout
is off, the entropy has no constant within the logarithm, and images whose answers or statistics are not finite leave
no trace.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.algorithm import Algorithm
from dgbench.hparams import choices, fixed, hparam

from ._augment import augment
from ._memories import TimelyMemory
from ._norms import OtherBatchNorm, affine_parameters, are_finite, entropy, put_back, replace, statistics_of


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of RoTTA."""

    lr: float = hparam(1e-3, choices(1e-5, 1e-4, 1e-3, 1e-2), "learning rate of Adam")
    teacher_rate: float = hparam(1e-3, choices(1e-4, 1e-3, 1e-2), "the student's share in the next teacher, nu")
    momentum: float = hparam(0.05, choices(0.01, 0.05, 0.1), "the memory's share in the next statistics, alpha")
    memory_size: int = hparam(64, fixed(64), "images in the memory, N")
    update_every: int = hparam(64, fixed(64), "images from one update to the next")
    age_weight: float = hparam(1.0, fixed(1.0), "weight of the age when images leave the memory, lambda_t")
    uncertainty_weight: float = hparam(1.0, fixed(1.0), "weight of the uncertainty when images leave, lambda_u")

    def __post_init__(self) -> None:
        for name in ("memory_size", "update_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"adapter.{name}={getattr(self, name)}, expected a number of images, 1 or more.")
        for name in ("teacher_rate", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"adapter.{name}={getattr(self, name):g}, expected a share, from 0 to 1.")


class RoTTA(Adapter):
    """Minimise `mean(sigmoid(-age / N) * CE(softmax(teacher(m)), student(augment(m))))` over the memory's images m.

    Over the weights and biases of the student's batch norms. `self.algorithm` is the teacher, which answers.
    """

    HParams = HParams
    needs = Needs(norms=("batch",), images=True)
    baseline = Baseline("source", {"lr": 0.0, "momentum": 0.0})

    def prepare(self, source: Source | None) -> None:
        replace(self.algorithm, lambda norm: RobustBatchNorm(norm, self.hp.momentum).eval())
        for weight in affine_parameters(self.algorithm, robust_norms(self.algorithm)):
            weight.requires_grad_()
        self.student: Algorithm = copy.deepcopy(self.algorithm)
        self.optimizer = torch.optim.Adam(weights_of(self.student), lr=self.hp.lr)
        self.memory = self.empty_memory()
        self.num_seen = 0

    def empty_memory(self) -> TimelyMemory:
        """The memory before the stream."""
        example = self.algorithm.network.normalise.mean.new_zeros(self.algorithm.input_shape)
        weights = self.hp.age_weight, self.hp.uncertainty_weight
        return TimelyMemory(self.hp.memory_size, self.task.num_classes, example, *weights)

    def adapt(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.logits(x)  # (N, C)
        for image, label, uncertainty in zip(x, logits.argmax(1).tolist(), entropy(logits).tolist(), strict=True):
            if math.isfinite(uncertainty):
                self.memory.add(image, label, uncertainty)
            self.num_seen += 1
            if self.num_seen % self.hp.update_every == 0 and len(self.memory) > 0:
                self.update()
        return logits

    def update(self) -> None:
        """One step of the student towards the teacher, and one of the teacher towards the student.

        Where the memory has no finite loss and statistics, it is emptied instead.
        """
        norms = [*robust_norms(self.algorithm), *robust_norms(self.student)]
        statistics = statistics_of(norms)
        images = self.memory.images  # (N, *input_shape)
        with torch.no_grad():
            targets = self.two_classes(renewed(self.algorithm, images)).softmax(1)  # (N, C)
        logits = self.two_classes(renewed(self.student, augment(images, "hard")))  # (N, C)
        weights = timeliness(self.memory.ages, self.hp.memory_size).to(logits)  # (N,)
        loss = (weights * F.cross_entropy(logits, targets, reduction="none")).mean()  # ()
        if not are_finite([loss, *statistics_of(norms)]):
            put_back(norms, statistics)
            self.memory = self.empty_memory()
            return
        self.descend(loss, self.optimizer)
        with torch.no_grad():
            for weight, learned in zip(weights_of(self.algorithm), weights_of(self.student), strict=True):
                weight.lerp_(learned, self.hp.teacher_rate)


def timeliness(ages: Tensor, memory_size: int) -> Tensor:
    """Weights of images by their ages, (N,).

    >>> timeliness(torch.tensor([0, 32, 64]), memory_size=64)
    tensor([0.5000, 0.3775, 0.2689])
    """
    return (-ages / memory_size).sigmoid()


class RobustBatchNorm(OtherBatchNorm):
    """Batch norm by running statistics that in training take the batch in before they normalise it (RBN).

    Args:
        norm: the trained layer; its weight and bias are taken over, not copied.
        momentum: the batch's share in the next statistics.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, momentum: float):
        super().__init__(norm)
        self.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        """Normalised activations, (N, C) or (N, C, H, W)."""
        if not self.training:
            return self.by_constants(x, self.running_mean, self.running_var)
        mean, var = self.mixed(x, 1 - self.momentum, self.momentum)
        self.running_mean, self.running_var = mean.detach(), var.detach()
        return self.by(x, mean, var)


def robust_norms(model: nn.Module) -> list[RobustBatchNorm]:
    """The model's robust batch norms, in order."""
    return [part for part in model.modules() if isinstance(part, RobustBatchNorm)]


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients, in order."""
    return [p for p in model.parameters() if p.requires_grad]


def renewed(model: Algorithm, x: Tensor) -> Tensor:
    """Outputs for a batch (N, *input_shape), whose statistics the model's robust batch norms take in, (N, C)."""
    for norm in robust_norms(model):
        norm.train()
    outputs = model(x)
    for norm in robust_norms(model):
        norm.eval()
    return outputs
