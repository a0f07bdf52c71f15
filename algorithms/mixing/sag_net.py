"""SagNet: a network that ignores style and makes style useless, style being the mean and variance of features.

Nam, Lee, Park, Yoon, Yoo. Reducing Domain Gap by Reducing Style Bias. CVPR 2021.
https://arxiv.org/abs/1910.11645

A step has three updates, on three passes: body and head learn from features in the style of others; the style head
learns from features with the content of others; and the body learns to leave the style head without a clue.

Differs from the paper (as DomainBed does): the style is mean and variance over an example's pooled features instead
of each channel's over positions, and both heads are linear.
Differs from DomainBed: one optimizer for body and head, whose averages it keeps per parameter; and a task with one
logit `z` is read as logits `(0, z)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithm import Algorithm, Needs
from dgbench.batch import Batch
from dgbench.hparams import Optim, hparam, log10_uniform
from dgbench.network import Network
from dgbench.task import Task

from ._mixing import mix

EPS = 1e-5


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SagNet."""

    adversarial_weight: float = hparam(
        0.1, log10_uniform(-2, 1), "weight of the body's game against the style head", key="sag_w_adv"
    )


class SagNet(Algorithm):
    """Minimise `loss(head(style_mixed), y)` over the network, `loss(style(content_swapped), y)` over the style head.

    And `w * mean(-log_softmax(style(content_swapped)))` over the body; inputs of both heads are (D*B, F).
    """

    HParams = HParams
    cost = 2.3
    needs = Needs(tasks=("classification",))
    automatic_optimization = False

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__(task, network, num_domains, optim, hp)
        if network.feature_dim < 2:
            raise ValueError("SagNet takes the variance over features, got 1 feature, expected at least 2. Widen it.")
        self.style_head = network.new_head()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        return {"loss": self.task.loss(self.network.head(mix_style(features)), batch.y.flatten())}

    def style_loss(self, batch: Batch) -> Tensor:
        """What the style head minimises, ()."""
        with torch.no_grad():
            features = self.network.features(batch.x.flatten(0, 1))  # (D*B, F)
        return self.task.loss(self.style_head(swap_content(features)), batch.y.flatten())

    def adversarial_loss(self, batch: Batch) -> Tensor:
        """What the body minimises against the style head: its cross-entropy with all classes alike, ()."""
        logits = self.style_head(swap_content(self.network.features(batch.x.flatten(0, 1))))  # (D*B, C)
        logits = F.pad(logits, (1, 0)) if self.task.single_logit else logits
        return self.hp.adversarial_weight * -logits.log_softmax(1).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers()
        network, style = optimizers
        loss = self.loss(batch)["loss"]  # ()
        self.update(loss, network)
        style_loss = self.style_loss(batch)  # ()
        self.update(style_loss, style)
        adversarial_loss = self.adversarial_loss(batch)  # ()
        # The head has no part in it: without a gradient, the optimizer passes over it.
        self.update(adversarial_loss, network)
        values = {"loss": loss, "style_loss": style_loss, "adversarial_loss": adversarial_loss}
        return {name: value.detach() for name, value in values.items()}

    def update(self, loss: Tensor, optimizer: Any) -> None:
        """One step of `optimizer`."""
        self.manual_backward(loss)
        optimizer.step()
        self.zero_grad()
        # Under autocast, copies of the weights in low precision are kept and would hide the step.
        torch.clear_autocast_cache()

    def configure_optimizers(self) -> Any:
        network = [p for p in self.network.parameters() if p.requires_grad]
        return [self.make_optimizer(network), self.make_optimizer(self.style_head.parameters())]


def split_style(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content (N, F), and the style's mean and variance, (N, 1) each, of features (N, F)."""
    mean, var = features.mean(1, keepdim=True), features.var(1, keepdim=True)
    return (features - mean) / (var + EPS).sqrt(), mean, var


def mix_style(features: Tensor) -> Tensor:
    """Features (N, F) in a random mix of their own style and another example's."""
    content, mean, var = split_style(features)
    share = torch.rand(len(features))  # (N,)
    other = torch.randperm(len(features)).to(features.device)
    mean, var = mix(mean, mean[other], share), mix(var, var[other], share)
    return content * (var + EPS).sqrt() + mean


def swap_content(features: Tensor) -> Tensor:
    """Features (N, F) in their own style with another example's content, a constant to the gradient."""
    content, mean, var = split_style(features)
    other = torch.randperm(len(features)).to(features.device)
    return content[other].detach() * (var + EPS).sqrt() + mean
