"""The parameters that the parts of a model read, and their optimizer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dgbench.algorithm import Algorithm

SCOPES = ("all", "classifier", "featurizer")
Scope = Literal["all", "classifier", "featurizer"]


def parameters_of(algorithm: Algorithm, scope: Scope) -> list[nn.Parameter]:
    """The parameters that a prediction depends on, in order; those that only training reads are not among them.

    Args:
        algorithm: a model whose parameters require no gradients, as an adapter is handed it.
        scope: `all`, those of the `classifier` alone, or those of the `featurizer` alone.
    """
    x = algorithm.network.normalise.mean.new_zeros(1, *algorithm.input_shape)
    parameters = list(algorithm.parameters())
    algorithm.requires_grad_()
    with torch.enable_grad():
        if scope == "all":
            outputs = algorithm(x)
        else:
            outputs = algorithm.features(x)  # (1, F)
            if scope == "classifier":
                outputs = algorithm.classify(outputs.detach())
        # What an output does not depend on has no gradient, which is not the same as one of 0.
        grads: tuple[Tensor | None, ...] = (None,) * len(parameters)
        if outputs.requires_grad:
            grads = torch.autograd.grad(outputs.sum(), parameters, allow_unused=True)
    algorithm.requires_grad_(False)
    return [p for p, grad in zip(parameters, grads, strict=True) if grad is not None]


def trainable_parameters(algorithm: Algorithm, scope: Scope, remedy: str) -> list[nn.Parameter]:
    """As `parameters_of`, at least one, for an adapter that updates them.

    Args:
        algorithm: as there.
        scope: as there.
        remedy: the last sentence of the refusal.

    Raises:
        ValueError: there are none.
    """
    weights = parameters_of(algorithm, scope)
    if not weights:
        part = "model" if scope == "all" else scope
        raise ValueError(
            f"The {part} of {type(algorithm).__name__} on network={algorithm.network.recipe['name']} has no weights, "
            f"expected some to update. {remedy}"
        )
    return weights


def check_updates(number: int) -> None:
    """Refuse a number of updates per batch that is none, for which a batch would have no answer.

    Raises:
        ValueError: less than one.
    """
    if number < 1:
        raise ValueError(
            f"adapter.num_updates={number}, expected updates per batch. Set it to 1 or more; adapter=source makes none."
        )


def adam(algorithm: Algorithm, parameters: list[nn.Parameter], lr_factor: float) -> torch.optim.Adam:
    """Adam with the weight decay of training and `lr_factor` times its learning rate; requires their gradients."""
    for parameter in parameters:
        parameter.requires_grad_()
    optim: Any = algorithm.optim
    return torch.optim.Adam(parameters, lr=lr_factor * optim.lr, weight_decay=optim.weight_decay)
