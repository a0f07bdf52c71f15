"""SAR: sharpness-aware entropy minimisation on reliable examples, with recovery from collapse.

Niu, Wu, Zhang, Wen, Chen, Zhao, Tan. Towards Stable Test-Time Adaptation in Dynamic Wild World. ICLR 2023.
https://arxiv.org/abs/2302.12400

Batch norms use the batch's statistics; the paper prefers networks of group or layer norms. A well-trained model of few
classes may have a mean entropy below `recovery_threshold` from the start, and then recovers after every batch.
Differs from the authors' code: recovery forgets the mean loss, which there stays low and recovers again; the last stage
is read off the network, one stage also of a transformer, and adapted too where no other layer normalises; the learning
rate does not depend on the batch size; dropout is off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.adapter import Adapter, Baseline, Needs, Source
from dgbench.hparams import choices, fixed, hparam
from dgbench.network import Network

from ..flatness._perturbation import ascent, gradients, perturbed
from ._norms import affine_parameters, batch_statistics, entropy, replace_batch_norms


@dataclass(kw_only=True)
class HParams:
    """Hyper-parameters of SAR."""

    lr: float = hparam(2.5e-4, choices(1e-4, 2.5e-4, 1e-3, 1e-2), "learning rate of SGD with momentum 0.9")
    rho: float = hparam(0.05, fixed(0.05), "radius in which the entropy is made flat, rho")
    entropy_threshold: float = hparam(0.4, fixed(0.4), "entropy below which an example is reliable, E0 / log(C)")
    recovery_threshold: float = hparam(
        0.2, choices(0.0, 0.2), "mean loss below which the model has collapsed, e0 in nats; 0: never"
    )
    num_frozen_stages: int = hparam(1, choices(0, 1), "last stages that stay as they are, with all that lies behind")

    def __post_init__(self) -> None:
        for name in ("rho", "num_frozen_stages"):
            if getattr(self, name) < 0:
                raise ValueError(f"adapter.{name}={getattr(self, name)}, expected 0 or more.")


class SAR(Adapter):
    """Minimise `max(mean(H(softmax(f(x; theta + eps)))), |eps| <= rho)` over the examples that both passes trust."""

    HParams = HParams
    needs = Needs(norms=("batch", "group", "layer", "instance_aware"))
    baseline = Baseline("bn_adapt", {"lr": 0.0})

    def prepare(self, source: Source | None) -> None:
        replace_batch_norms(self.algorithm, batch_statistics)
        frozen = {id(p) for p in late_parameters(self.algorithm, self.hp.num_frozen_stages)}
        weights = affine_parameters(self.algorithm)
        self.weights = [p for p in weights if id(p) not in frozen] or weights
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.SGD(self.weights, lr=self.hp.lr, momentum=0.9)
        self.threshold = self.hp.entropy_threshold * math.log(self.task.num_classes)
        self.mean_loss: Tensor | None = None  # (), an exponential mean over batches

    def adapt(self, x: Tensor) -> Tensor:
        logits = self.logits(x)  # (N, C)
        entropies = entropy(logits)  # (N,)
        reliable = entropies < self.threshold
        if bool(reliable.any()):
            self.learn(x, entropies, reliable)
        return logits

    def learn(self, x: Tensor, entropies: Tensor, reliable: Tensor) -> None:
        """One step on the examples that are still reliable where the entropy is highest nearby; perhaps recovery."""
        eps = ascent(gradients(entropies[reliable].mean(), self.weights), self.hp.rho)
        with perturbed(self.weights, eps):
            nearby = entropy(self.logits(x))  # (N,)
            reliable = reliable & (nearby < self.threshold)
            if not bool(reliable.any()):
                return
            loss = nearby[reliable].mean()  # ()
            grads = gradients(loss, self.weights)
        for weight, grad in zip(self.weights, grads, strict=True):
            weight.grad = grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        latest = loss.detach()
        self.mean_loss = latest if self.mean_loss is None else 0.9 * self.mean_loss + 0.1 * latest
        if bool(self.mean_loss < self.hp.recovery_threshold):
            self.recover()

    def recover(self) -> None:
        """Return to the source model, without momentum and without a mean loss; the steps count on."""
        steps = self.steps
        self.reset()
        self.steps = steps


def late_parameters(module: nn.Module, num_stages: int) -> Iterator[nn.Parameter]:
    """The parameters of the last stages of each network, and of the layers behind them; none without stages.

    Stages need not cover a network: of timm's, a stem lies before them and a final norm behind. The order of the layers
    tells which.
    """
    bodies = [part.body for part in module.modules() if isinstance(part, Network)]
    for body in bodies:
        late = {body.stage(name) for name in body.stages[max(0, len(body.stages) - num_stages) :]}
        is_late = False
        for part in body.modules():
            is_late = is_late or part in late
            if is_late:
                yield from part.parameters(recurse=False)
