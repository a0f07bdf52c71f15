"""What the tests of methods on the domains' gradients share; nothing here imports dgbench."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.algorithms.reference import Adam, example_losses, mlp


def gradients_of_domains(weights: Sequence[Tensor], batch, create_graph: bool = False) -> list[list[Tensor]]:
    """One list over the weights for each domain, each by a forward pass of its own."""
    risks = [example_losses(mlp(weights, x)[1], y).mean() for x, y in zip(batch.x, batch.y, strict=True)]
    return [list(torch.autograd.grad(risk, weights, create_graph=create_graph)) for risk in risks]


def masked_gradient(grads: Sequence[Tensor], mask: Callable[[list[float]], float]) -> Tensor:
    """One weight after the other, its mean gradient masked; over the share that the mask keeps of the tensor."""
    columns = torch.stack([g.flatten() for g in grads], 1).tolist()
    masks = [mask(column) for column in columns]
    kept = sum(masks) / len(masks)
    values = [m * sum(c) / len(c) / (1e-10 + kept) for m, c in zip(masks, columns, strict=True)]
    return torch.tensor(values, dtype=torch.float64).view_as(grads[0])


def masked_steps(weights, batches, mask: Callable[[list[float]], float], frozen: int = 0, **adam) -> list[Tensor]:
    """Weights after one Adam step per batch along the masked gradients; the first `frozen` weights stay."""
    weights = [w.clone().requires_grad_() for w in weights]
    optimizer = Adam(weights[frozen:], **adam)
    for batch in batches:
        columns = zip(*gradients_of_domains(weights, batch), strict=True)
        optimizer.step([masked_gradient(grads, mask) for grads in columns][frozen:])
    return weights


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def freeze_first_layer(algorithm):
    for parameter in list(algorithm.parameters())[:2]:
        parameter.requires_grad_(False)
    return algorithm
