"""kNN loss: features whose nearest neighbours among the last examples, of any domain, are of the same class.

Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin, Tan. AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation.
ICML 2023. https://arxiv.org/abs/2304.12566. The training there; what it does at test time is the adapter `adanpc`.

There is no linear head: predictions, too, are the vote of the nearest keys in the queue, and logits their log p. An
example without a neighbour of its class has no gradient. With `averaging=ema` or `sma` the keys of different examples
would be averaged: leave it none.

Differs from the authors' code: slots of the queue that are still empty do not vote, where they hold random keys of
class 0 there; the temperature falls over the run's steps, there over 5000 (where num_steps is None, it is
`temperature` from the start); a batch enters the queue in turns of the domains, so that also a small queue holds all
of them; evaluation reads the queue, there a larger one that is refilled with all source features each time; the
learning rate is not halved when the loss stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, by_regime, choices, fixed, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task

from ._neighbours import cosines, directions, vote


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of the kNN loss."""

    queue_size: int | None = by_regime(
        "examples in the queue",
        small=(1000, choices(500, 1000, 2000, 2500, 3500)),
        large=(3500, choices(1000, 1500, 2000, 2500, 3500, 5000)),
    )
    k: int | None = by_regime(
        "neighbours that vote",
        small=(10, choices(5, 10, 20, 50, 100, 150)),
        large=(150, choices(25, 50, 75, 100, 125, 150, 200, 500)),
    )
    temperature: float = hparam(
        0.1, fixed(0.1), "temperature of the votes in predictions, and what it falls to in training, from 1; tau"
    )

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"algorithm.temperature={self.temperature:g}, expected more than 0.")
        if self.k is not None and self.k < 1:
            raise ValueError(f"algorithm.k={self.k}, expected 1 neighbour or more.")
        if self.k is not None and self.queue_size is not None and self.k > self.queue_size:
            raise ValueError(
                f"algorithm.k={self.k}, expected at most queue_size={self.queue_size}. Lower it, or raise that."
            )


class KNNLoss(Algorithm):
    """Minimise `mean(-log p_y)`, p (N, C) the vote of the k nearest in a queue, weighed by `softmax(cosine / tau)`."""

    HParams = HParams
    cost = 1.0
    # Each process would have a queue of its own.
    needs = Needs(tasks=("classification",), single_process=True)
    optim_fields: ClassVar[Mapping[str, Any]] = {
        "lr": by_regime(
            "learning rate",
            key="lr",
            small=(1e-3, log10_uniform(-4.5, -2.5)),
            large=(1e-4, log10_uniform(-5, -3.5)),
        )
    }

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        self.queue = network.head = Queue(task, network.feature_dim, hp)  # type: ignore[assignment]
        if not self.trainable():
            raise ValueError(
                f"KNNLoss trains features alone, but those of network={network.recipe['name']} as configured have no "
                "weights. Use a network with stages."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # In turns of the domains, (B*D, ...).
        x, y = batch.x.transpose(0, 1).flatten(0, 1), batch.y.mT.flatten()
        features = self.network.features(x)  # (B*D, F)
        p = self.queue.probabilities(features, self.temperature)  # (B*D, C)
        if self.training:
            self.queue.push(features.detach(), y)
        return {"loss": F.nll_loss(p.log(), y)}

    @property
    def temperature(self) -> float:
        """That of the current step: it falls from 1 linearly."""
        num_steps = self.optim.num_steps
        progress = min(self.step / num_steps, 1) if num_steps else 1
        return 1 - (1 - self.hp.temperature) * progress


class Queue(nn.Module):
    """A head without weights, which keeps the last examples.

    Args:
        task: a classification.
        num_features: F.
        hp: of `KNNLoss`.
    """

    keys: Tensor
    labels: Tensor
    is_filled: Tensor
    next_slot: Tensor

    def __init__(self, task: Task, num_features: int, hp: Any):
        super().__init__()
        self.num_classes, self.single_logit = task.num_classes, task.single_logit
        self.k, self.temperature = hp.k, hp.temperature
        self.register_buffer("keys", torch.zeros(hp.queue_size, num_features))
        self.register_buffer("labels", torch.zeros(hp.queue_size, dtype=torch.int64))
        self.register_buffer("is_filled", torch.zeros(hp.queue_size, dtype=torch.bool))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.int64))

    def probabilities(self, features: Tensor, temperature: float) -> Tensor:
        """The vote of the k nearest keys to features (N, F), (N, C)."""
        similarities = cosines(directions(features).to(self.keys), self.keys)  # (N, Q)
        nearest, rows = similarities.masked_fill(~self.is_filled, -math.inf).topk(self.k)  # (N, k)
        return vote(nearest, self.labels[rows], temperature, self.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Log p, (N, C), or of a single logit `log p_1 - log p_0`, (N, 1)."""
        log_p = self.probabilities(features, self.temperature).log()
        return log_p.diff(dim=1) if self.single_logit else log_p

    def push(self, features: Tensor, labels: Tensor) -> None:
        """Put examples in the place of the oldest: features (N, F), labels (N,)."""
        features, labels = features[-len(self.keys) :], labels[-len(self.keys) :]
        slots = (self.next_slot + torch.arange(len(labels), device=labels.device)) % len(self.keys)
        # Not in place: the loss of this step still needs the keys.
        self.keys = self.keys.index_copy(0, slots, directions(features).to(self.keys))
        self.labels = self.labels.index_copy(0, slots, labels)
        self.is_filled = self.is_filled.index_fill(0, slots, True)
        self.next_slot = (self.next_slot + len(labels)) % len(self.keys)
