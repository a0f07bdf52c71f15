"""A small trained model in float64, its unlabelled stream, and its mathematics again, which imports nothing of dgbench.

The network is relu(norm(x W' + b)) V' + c, with inputs (N, 5), features (N, 7) and four classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.algorithms.reference import make, random_batches, train


def trained(method: str = "erm", /, hparams=None, kind: Any = "classification", shape=(5,), optim=None, **network: Any):
    """The model after six steps, in evaluation mode, with batch norm if not told otherwise."""
    made = make(method, hparams, kind, shape=shape, optim=optim, **{"norm": "batch", **network})
    return train(made, random_batches(6, kind, B=16, shape=shape)).eval()


def with_single_logit(model):
    """The model with the difference of its first two logits as the single one of a binary task."""
    from dgbench.task import Task

    head = torch.nn.Linear(7, 1).double()
    weight, bias = model.network.head.weight, model.network.head.bias
    head.load_state_dict({"weight": weight[1:2] - weight[:1], "bias": bias[1:2] - bias[:1]})
    model.task, model.network.head = Task("classification", 2, single_logit=True), head
    return model


def stream(num: int = 4, N: int = 8, scale: float = 2.0) -> list[Tensor]:
    """Batches of inputs otherwise distributed than in training, (N, 5)."""
    return [1 + scale * batch.x[0] for batch in random_batches(num, D=1, B=N, seed=9)]


def weights_of(model) -> list[Tensor]:
    """W, b, gamma, beta, V, c."""
    return [p.detach().clone() for p in model.network.parameters()]


def statistics_of(model) -> tuple[Tensor, Tensor]:
    """Mean and variance of the batch norm in training."""
    norm = model.network.body.get_submodule("layer1.1")
    return norm.running_mean.clone(), norm.running_var.clone()


def features(weights, x: Tensor, statistics, share: float) -> Tensor:
    """Features (N, 7), normalised by `share` of the given statistics and 1 - `share` of the batch's, biased."""
    W, b, gamma, beta = weights[:4]
    h = x @ W.T + b
    mean, var = h.mean(0), ((h - h.mean(0)) ** 2).mean(0)
    mean = share * statistics[0] + (1 - share) * mean
    var = share * statistics[1] + (1 - share) * var
    return ((h - mean) / (var + 1e-5).sqrt() * gamma + beta).clamp(min=0)


def logits(weights, x: Tensor, statistics, share: float = 1.0) -> Tensor:
    """Logits (N, 4)."""
    return features(weights, x, statistics, share) @ weights[4].T + weights[5]


def entropies(z: Tensor) -> Tensor:
    """Of softmax(z) in nats, (N,)."""
    p = z.exp() / z.exp().sum(1, keepdim=True)
    return -(p * p.log()).sum(1)


def changed_by(adapter, batches: list[Tensor]) -> list[str]:
    """Names of the weights and statistics that a stream changes."""
    before = {name: value.clone() for name, value in adapter.algorithm.state_dict().items()}
    for x in batches:
        adapter.step(x)
    return [name for name, value in adapter.algorithm.state_dict().items() if not torch.equal(value, before[name])]


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
