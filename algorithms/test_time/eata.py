"""EATA: entropy minimisation on reliable and non-redundant examples, held near the source where weights matter to it.

Niu, Wu, Zhang, Chen, Zheng, Zhao, Tan. Efficient Test-Time Model Adaptation without Forgetting. ICML 2022.
https://arxiv.org/abs/2204.02610

Batch norms use the batch's statistics. With `fisher_weight=0` it is the paper's ETA, which leaves the source unread.
The defaults are those of https://github.com/mariodoebler/test-time-adaptation for CIFAR-10; the authors' for ImageNet
are `optimizer=sgd`, `lr=2.5e-4`, `redundancy_threshold=0.05` and `fisher_weight=2000`. Differs from the authors' code:
weights of group and layer norms are adapted too, dropout is off, and `reset` forgets the mean prediction as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbench.adapter import Adapter, Baseline, Constant, Needs, Source
from dgbench.hparams import choices, fixed, hparam
from dgbench.registry import UnknownName

from ._norms import affine_parameters, batch_statistics, entropy, replace_batch_norms

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9)}


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of EATA."""

    lr: float = hparam(1e-3, choices(1e-5, 1e-4, 1e-3, 1e-2), "learning rate")
    optimizer: str = hparam("adam", fixed("adam"), "adam, or sgd (momentum 0.9)")
    entropy_threshold: float = hparam(0.4, fixed(0.4), "entropy below which an example is reliable, E0 / log(C)")
    redundancy_threshold: float = hparam(
        0.4, choices(0.05, 0.1, 0.4), "cosine to the mean prediction from which an example is redundant, epsilon"
    )
    fisher_weight: float = hparam(1.0, choices(0.0, 1.0, 50.0, 2000.0), "weight of the distance to the source, beta")
    fisher_size: int = hparam(2000, fixed(2000), "source examples that the Fisher information is estimated from")
    fisher_batch_size: int = hparam(64, fixed(64), "examples whose mean gradient is squared")

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        for name, least in (("fisher_weight", 0), ("fisher_size", 1), ("fisher_batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"adapter.{name}={getattr(self, name)}, expected {least} or more.")


class EATA(Adapter):
    """Minimise `mean(exp(E0 - H) * H) + beta * sum(fisher * (theta - source)^2)`, the mean over selected examples."""

    HParams = HParams
    needs = Needs(source=True, norms=("batch", "group", "layer", "instance_aware"))
    baseline = Baseline("bn_adapt", {"lr": 0.0})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, batch_statistics)
        self.weights = affine_parameters(self.algorithm)
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = OPTIMIZERS[self.hp.optimizer](self.weights, lr=self.hp.lr)
        self.threshold = self.hp.entropy_threshold * math.log(self.task.num_classes)
        self.mean_prediction: Tensor | None = None  # (C,)
        self.anchors = Constant([])  # pairs of Fisher information and source weight, one for each of the weights
        if self.hp.fisher_weight > 0 and source is not None:
            fisher = self.fisher(drawn(source, self.hp.fisher_size))
            self.anchors = Constant([(f, w.detach().clone()) for f, w in zip(fisher, self.weights, strict=True)])

    def adapt(self, x: Tensor) -> Tensor:
        logits = self.logits(x)  # (N, C)
        entropies, predictions = entropy(logits), logits.detach().softmax(1)
        selected = self.select(entropies.detach(), predictions)  # (N,)
        if bool(selected.any()):
            mean, latest = self.mean_prediction, predictions[selected].mean(0)  # (C,)
            self.mean_prediction = latest if mean is None else 0.9 * mean + 0.1 * latest
            certainty = (self.threshold - entropies.detach()).exp()  # (N,)
            self.descend((certainty * entropies)[selected].mean() + self.distance(), self.optimizer)
        return logits

    def select(self, entropies: Tensor, predictions: Tensor) -> Tensor:
        """Which examples are reliable, and unlike the mean of what was learned from, (N,)."""
        reliable = entropies < self.threshold
        if self.mean_prediction is None:
            return reliable
        similarity = F.cosine_similarity(self.mean_prediction.unsqueeze(0), predictions)  # (N,)
        return reliable & (similarity.abs() < self.hp.redundancy_threshold)

    def distance(self) -> Tensor | float:
        """`beta * sum(fisher * (theta - source)^2)`, ()."""
        terms = zip(self.anchors.value, self.weights, strict=False)
        return self.hp.fisher_weight * sum((f * (w - start).square()).sum() for (f, start), w in terms)

    def fisher(self, x: Tensor) -> Sequence[Tensor]:
        """Mean over batches of the squared gradient of their mean loss, at the labels that the model predicts.

        Args:
            x: source examples, (N, *input_shape).
        """
        squares = [torch.zeros_like(weight) for weight in self.weights]
        batches = x.split(self.hp.fisher_batch_size)
        for batch in batches:
            logits = self.logits(batch.to(self.algorithm.device))
            loss = F.cross_entropy(logits, logits.argmax(1))
            grads = torch.autograd.grad(loss, self.weights, materialize_grads=True)
            squares = [square + grad.square() for square, grad in zip(squares, grads, strict=True)]
        return [square / len(batches) for square in squares]


def drawn(source: Source, num: int) -> Tensor:
    """Inputs drawn from all source examples alike and without replacement, in one pass, (<= num, *input_shape)."""
    keys = torch.full((num,), torch.inf)  # the examples with the lowest keys stay
    kept: Tensor | None = None
    for batch in source:
        x = batch.x.flatten(0, 1)  # (B, *input_shape)
        kept = x.new_empty(num, *x.shape[1:]) if kept is None else kept
        new = torch.rand(len(x))
        stay = torch.zeros(num + len(x), dtype=torch.bool)
        stay[torch.cat([keys, new]).topk(num, largest=False).indices] = True
        left, entered = (~stay[:num]).nonzero().squeeze(1), stay[num:].nonzero().squeeze(1)
        kept[left], keys[left] = x[entered], new[entered]
    if kept is None:
        raise ValueError("EATA got a source without examples, expected those of the training domains. Hand it them.")
    return kept[keys.isfinite()]
