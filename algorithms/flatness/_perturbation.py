"""Gradients at perturbed weights, leaving no trace in the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dgbench.algorithm import Algorithm
from dgbench.batch import Batch

Gradients = Sequence[Tensor | None]


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """Gradient of `loss` in each parameter, None where it has no part in it."""
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def ascent(grads: Gradients, rho: float) -> Gradients:
    """The step of length `rho` along the gradient, its norm taken over all parameters together.

    >>> ascent([torch.tensor([3.0]), None, torch.tensor([4.0])], rho=0.5)
    [tensor([0.3000]), None, tensor([0.4000])]
    """
    norm = torch.nn.utils.get_total_norm([grad for grad in grads if grad is not None])
    scale = rho / (norm + 1e-12)
    return [None if grad is None else scale * grad for grad in grads]


def adaptive_ascent(grads: Gradients, scales: Sequence[Tensor], rho: float) -> Gradients:
    """The step of length `rho` that raises the loss most where lengths are measured in units of `scales`.

    >>> adaptive_ascent([torch.tensor([1.5]), None, torch.tensor([4.0])], 3 * [torch.tensor(2.0)], rho=0.5)
    [tensor([0.3511]), None, tensor([0.9363])]
    """
    scaled = [None if grad is None else scale * grad for grad, scale in zip(grads, scales, strict=True)]
    steps = ascent(scaled, rho)
    return [None if step is None else scale * step for step, scale in zip(steps, scales, strict=True)]


@contextmanager
def perturbed(parameters: Sequence[Tensor], perturbation: Gradients) -> Iterator[None]:
    """Inside, the parameters are moved by `perturbation`; afterwards they are what they were, bit for bit."""
    moved = [
        (p, p.detach().clone(), move) for p, move in zip(parameters, perturbation, strict=True) if move is not None
    ]
    try:
        with torch.no_grad():
            for parameter, _, move in moved:
                parameter.add_(move)
        # Under autocast, copies of the weights in low precision are kept and would hide the move.
        torch.clear_autocast_cache()
        yield
    finally:
        with torch.no_grad():
            for parameter, saved, _ in moved:
                parameter.copy_(saved)
        torch.clear_autocast_cache()


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Afterwards the buffers are what they were: batch normalisation remembers nothing of what it saw."""
    buffers = [b for m in module.modules() if m.training for b in m.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)


@contextmanager
def rewound_randomness(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Afterwards, torch's generators are where they were: the next pass draws the same dropout masks."""
    device = parameters[0].device
    with torch.random.fork_rng([] if device.index is None else [device], device_type=device.type):
        yield


class SharpnessAware(Algorithm):
    """Descend the gradient at weights perturbed by `perturbation`, as `descent` changes it.

    The first pass alone moves the running statistics of batch normalisation, and both see the same dropout masks.
    """

    automatic_optimization = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.outputs(batch)  # (D, B, C)
        return {"loss": self.task.loss(outputs.flatten(0, 1), batch.y.flatten(0, 1))}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        weights = self.trainable()
        with rewound_randomness(weights):
            here = self.loss(batch)["loss"]  # ()
            grads = gradients(here, weights)
        with perturbed(weights, self.perturbation(grads)), frozen_buffers(self):
            nearby = self.loss(batch)["loss"]  # ()
            nearby_grads = gradients(nearby, weights)
        self.apply_gradients(self.descent(grads, nearby_grads))
        return {"loss": nearby.detach(), "sharpness": (nearby - here).detach()}

    def perturbation(self, grads: Gradients) -> Gradients:
        """What is added to each trainable parameter: to first order, where the loss is highest within radius rho."""
        return ascent(grads, self.hp.rho)

    def descent(self, grads: Gradients, nearby: Gradients) -> Gradients:
        """What the optimizer gets, from the gradients at the weights and at the perturbed weights."""
        return nearby
