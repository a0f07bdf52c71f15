"""What the tests of single methods share: small problems, and the mathematics again, on plain tensors.

Of the two halves, the second imports nothing from dgbench.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

# --- small problems


class Batches:
    """Any iterable of batches is a data source of a Trainer; a list would be taken for several sources."""

    def __init__(self, batches: Sequence):
        self.batches = batches

    def __iter__(self) -> Iterator:
        return iter(self.batches)


def random_batches(num: int, kind: str = "classification", D: int = 3, B: int = 6, shape=(5,), seed: int = 0):
    from dgbench.batch import Batch

    r = np.random.default_rng(seed)
    made = []
    for _ in range(num):
        x = torch.tensor(r.normal(size=(D, B, *shape)) + 0.3 * r.normal(size=(D, 1, *[1] * len(shape))))
        y = torch.tensor(r.integers(4, size=(D, B)) if kind == "classification" else r.normal(5, 3, size=(D, B, 4)))
        made.append(Batch(x, y, torch.arange(D).unsqueeze(1).repeat(1, B)))
    return made


def make(
    name: str,
    /,
    hparams=None,
    kind: Any = "classification",
    D: int = 3,
    optim=None,
    shape=(5,),
    seed=0,
    **network: Any,
):
    """A method in float64 on a small net, with a scale of targets other than 1 for regression."""
    from dgbench.algorithm import build_algorithm
    from dgbench.hparams import Optim
    from dgbench.network import build_network
    from dgbench.task import Task

    torch.manual_seed(seed)
    task = Task(kind, 4)
    if kind == "regression":
        task.shift, task.scale = torch.full((4,), 5.0), torch.tensor([1.0, 2.0, 3.0, 4.0])
    network = {"name": "mlp", "width": 7, **network}
    net = build_network(network.pop("name"), shape, task.num_outputs, **network)
    optim = Optim(lr=0.01) if optim is None else optim
    built = build_algorithm(name, task=task, network=net, num_domains=D, hparams=hparams, optim=optim)
    return built.double()


def train(algorithm, batches):
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(algorithm, Batches(batches))
    return algorithm


def weights_of(algorithm) -> list[Tensor]:
    return [p.detach().clone() for p in algorithm.parameters()]


def assert_weights(algorithm, expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(weights_of(algorithm), [w.detach() for w in expected], rtol=1e-9, atol=1e-9)


def differs(algorithm, expected: Sequence[Tensor], by: float = 1e-4) -> bool:
    return any((a - b).abs().max() > by for a, b in zip(weights_of(algorithm), expected, strict=True))


# --- the mathematics again


class Adam:
    """Kingma and Ba 2015, algorithm 1; weight decay is added to the gradient."""

    def __init__(self, weights: Sequence[Tensor], lr=0.01, betas=(0.9, 0.999), weight_decay=0.0):
        self.weights, self.lr, self.betas, self.weight_decay = weights, lr, betas, weight_decay
        self.restart()

    def restart(self) -> None:
        self.t = 0
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.v = [torch.zeros_like(w) for w in self.weights]

    def step(self, grads: Sequence[Tensor]) -> None:
        self.t += 1
        one, two = self.betas
        for i, (w, g) in enumerate(zip(self.weights, grads, strict=True)):
            g = g + self.weight_decay * w.detach()
            self.m[i] = one * self.m[i] + (1 - one) * g
            self.v[i] = two * self.v[i] + (1 - two) * g**2
            m_hat, v_hat = self.m[i] / (1 - one**self.t), self.v[i] / (1 - two**self.t)
            w.data -= self.lr * m_hat / (v_hat.sqrt() + 1e-8)


def adam_steps(weights, batches, objective: Callable, restart_at: int | None = None, **adam) -> list[Tensor]:
    """Weights after one Adam step per batch on `objective(weights, batch, step)`."""
    weights = [w.clone().requires_grad_() for w in weights]
    optimizer = Adam(weights, **adam)
    for step, batch in enumerate(batches):
        if step == restart_at:
            optimizer.restart()
        optimizer.step(torch.autograd.grad(objective(weights, batch, step), weights))
    return weights


def adversarial_steps(weights, split: int, batches, risks: Callable, lam: Callable, movers: Callable, adam_n, adam_d):
    """Weights after a game: `weights[:split]` minimise task - lam * adversary, the others minimise adversary.

    `risks(network, adversary, batch)` gives task and adversary; of step t, counted from 0, `lam(t)` is the weight, and
    `movers(t)` says who moves: "n", "d" or "nd".
    """
    weights = [w.clone().requires_grad_() for w in weights]
    network, adversary = weights[:split], weights[split:]
    adams = {"n": Adam(network, **adam_n), "d": Adam(adversary, **adam_d)}
    for t, batch in enumerate(batches):
        task, domain = risks(network, adversary, batch)
        grads = {"n": torch.autograd.grad(task - lam(t) * domain, network, retain_graph=True)}
        grads["d"] = torch.autograd.grad(domain, adversary)
        for mover in movers(t):
            adams[mover].step(grads[mover])
    return weights


def reversal(weight: float, num_steps: int | None) -> Callable[[int], float]:
    """Ganin et al. 2016: lambda_p of step t, counted from 0."""
    return lambda t: weight * (2 / (1 + math.exp(-10 * t / num_steps)) - 1) if num_steps else weight


def domainbed_movers(k: int) -> Callable[[int], str]:
    """DomainBed's AbstractDANN: a step is the discriminator's or the network's; its count is raised before use."""
    return lambda t: "d" if (t + 1) % (1 + k) < k else "n"


def mlp(weights: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and outputs of ReLU layers and a linear head, weights [W, b, ..., W, b]."""
    for W, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = (x @ W.T + b).clamp(min=0)
    return x, x @ weights[-2].T + weights[-1]


def example_losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, or squared error against targets scaled as in `make`; (D, B)."""
    if y.ndim == outputs.ndim:
        return ((outputs - (y - 5) / torch.tensor([1.0, 2.0, 3.0, 4.0])) ** 2).mean(-1)
    return torch.logsumexp(outputs, -1) - outputs.gather(-1, y.unsqueeze(-1)).squeeze(-1)


def erm_loss(weights: Sequence[Tensor], batch, step: int = 0) -> Tensor:
    return example_losses(mlp(weights, batch.x)[1], batch.y).mean()


def seed_hash(*args: object) -> int:
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


def domainbed_generator(key: str, hparams_seed: int = 1, trial_seed: int = 0) -> np.random.RandomState:
    """The generator from which DomainBed draws the hyper-parameter `key`."""
    return np.random.RandomState(seed_hash(seed_hash(hparams_seed, trial_seed), key))
