"""The parameters that the parts of a model read, and their optimizer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from dgbench.algorithm import Algorithm

SCOPES = ("all", "classifier", "featurizer")
Scope = Literal["all", "classifier", "featurizer"]


def parameters_of(algorithm: Algorithm, scope: Scope) -> list[nn.Parameter]:
    """The parameters that a prediction depends on, in order; those that only training reads are not among them.

    Args:
        algorithm: a model whose parameters require no gradients, as an adapter is handed it.
        scope: `all`, those of the `classifier` alone, or those of the `featurizer` alone.
    """
    x = algorithm.network.normalise.mean.new_zeros(1, *algorithm.network.input_shape)
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
        grads = torch.autograd.grad(outputs.sum(), parameters, allow_unused=True)
    algorithm.requires_grad_(False)
    return [p for p, grad in zip(parameters, grads, strict=True) if grad is not None]


def adam(algorithm: Algorithm, parameters: list[nn.Parameter], lr_factor: float) -> torch.optim.Adam:
    """Adam with the weight decay of training and `lr_factor` times its learning rate; requires their gradients."""
    for parameter in parameters:
        parameter.requires_grad_()
    optim: Any = algorithm.optim
    return torch.optim.Adam(parameters, lr=lr_factor * optim.lr, weight_decay=optim.weight_decay)
