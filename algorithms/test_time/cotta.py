"""CoTTA: continual adaptation to the averaged answers of an averaged teacher, with weights now and then restored.

Wang, Fink, Van Gool, Dai. Continual Test-Time Domain Adaptation. CVPR 2022. https://arxiv.org/abs/2203.13591

Batch norms use the batch's statistics, so each augmented copy of the batch is forwarded by itself, and memory is that
of one batch. Half of the copies are mirrored, which changes what digits and letters are.

Differs from the authors' code: dropout is off, and the augmented copies are forwarded only where the anchor is unsure,
which changes no answer. The authors' settings for ImageNet are `symmetric`, a threshold of 0.1, a restored share of
0.001 and SGD with momentum; here the optimizer is Adam throughout.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Constant, Needs, Source
from dgbench.algorithm import Algorithm
from dgbench.hparams import choices, fixed, hparam

from ._augment import augment, check_copies
from ._norms import batch_statistics, replace_batch_norms
from ._parts import check_updates, parameters_of


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of CoTTA."""

    lr: float = hparam(1e-3, choices(1e-4, 1e-3, 1e-2), "learning rate of Adam")
    decay: float = hparam(0.999, choices(0.99, 0.999, 0.9999), "what the teacher keeps of itself per update, alpha")
    restored: float = hparam(0.01, choices(0.0, 0.001, 0.01, 0.1), "share of weights restored after an update, p")
    threshold: float = hparam(
        0.92, choices(0.1, 0.72, 0.92), "mean confidence of the anchor below which answers are averaged, p_th"
    )
    num_augmentations: int = hparam(32, fixed(32), "augmented copies of the batch, N")
    symmetric: bool = hparam(False, fixed(False), "half the cross entropy of each with the other, not the one alone")
    num_updates: int = hparam(1, fixed(1), "updates per batch")

    def __post_init__(self) -> None:
        for name in ("decay", "restored"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"adapter.{name}={value:g}, expected a share. Set it in [0, 1].")
        check_copies(self.num_augmentations)
        check_updates(self.num_updates)


class CoTTA(Adapter):
    """Minimise `CE(softmax(t), f(x))`, t the teacher's logits, or their mean over augmented copies where in doubt."""

    HParams = HParams
    needs = Needs(images=True)
    baseline = Baseline("bn_adapt", {"lr": 0.0, "restored": 0.0, "threshold": 0.0})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, batch_statistics)
        self.teacher = copy.deepcopy(self.algorithm)
        self.anchor = Constant(copy.deepcopy(self.algorithm))  # the source model, never changed
        is_read = {id(p) for p in parameters_of(self.algorithm, "all")}
        named = [(name.rpartition(".")[2], p) for name, p in self.algorithm.named_parameters() if id(p) in is_read]
        weights = [p for name, p in named if name in ("weight", "bias")]
        for weight in weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(weights, lr=self.hp.lr)

    def adapt(self, x: Tensor) -> Tensor:
        for _ in range(self.hp.num_updates):
            targets = self.answer(x)  # (N, C)
            self.descend(consistency(self.logits(x), targets, self.hp.symmetric), self.optimizer)
            with torch.no_grad():
                follow(self.teacher, self.algorithm, self.hp.decay)
                restore(self.algorithm, self.anchor.value, self.hp.restored)
        return targets

    def answer(self, x: Tensor) -> Tensor:
        """The teacher's logits, averaged over augmented copies if the anchor is unsure of the batch, (N, C)."""
        with torch.no_grad():
            confidence = self.two_classes(self.anchor.value(x)).softmax(1).amax(1).mean()  # ()
            if bool(confidence >= self.hp.threshold):
                return self.two_classes(self.teacher(x))
            copies = (augment(x, "hard") for _ in range(self.hp.num_augmentations))
            return torch.stack([self.two_classes(self.teacher(views)) for views in copies]).mean(0)


def consistency(student: Tensor, teacher: Tensor, symmetric: bool) -> Tensor:
    """Cross entropy of the student's logits (N, C) with the teacher's softmax, or half of it and half the reverse."""
    forward = F.cross_entropy(student, teacher.softmax(1))
    return (forward + F.cross_entropy(teacher, student.softmax(1))) / 2 if symmetric else forward


def follow(teacher: Algorithm, student: Algorithm, decay: float) -> None:
    """Set the teacher's weights to `decay * teacher + (1 - decay) * student`."""
    for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)


def restore(student: Algorithm, anchor: Algorithm, share: float) -> None:
    """Set a random share of the elements of all weights back to the anchor's."""
    for weight, start in zip(student.parameters(), anchor.parameters(), strict=True):
        is_restored = (torch.rand(weight.shape) < share).to(weight.device)
        weight.copy_(torch.where(is_restored, start, weight))
