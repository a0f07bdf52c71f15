"""What the harness's tests share: toy methods, a quiet trainer, domains whose examples are recognisable."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.batch import Batch
from dgbench.dataset import Domain, Items, TensorDomain
from dgbench.hparams import hparam, like, uniform
from dgbench.loader import Split
from dgbench.network import build_network
from dgbench.task import Task

D, B, C = 3, 8, 4


@dataclass(kw_only=True)
class HParams:
    scale: float = hparam(1.0, uniform(0, 1), "factor of the loss")
    lr_other: float | None = like("lr", "another learning rate")


class Automatic(Algorithm):
    HParams = HParams

    def __init__(self, *args):
        super().__init__(*args)
        self.seen: list[Any] = []

    def loss(self, batch):
        value = self.hp.scale * self.domain_risks(batch).mean()
        self.seen.append((self.step, value.item(), torch.rand(()).item(), random.random(), np.random.rand()))
        return {"loss": value, "twice": 2 * value}


class Manual(Automatic):
    """Three optimizer steps per batch, the last with gradients made by hand."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for _ in range(3):
            value = self.domain_risks(batch).mean()
            self.apply_gradients(torch.autograd.grad(value, self.trainable(), allow_unused=True))
        return super().training_step(batch, batch_idx)


class FromStep:
    """Batch `s` from a seed; an iterable that starts where the algorithm stands."""

    def __init__(self, algorithm, end):
        self.algorithm, self.end = algorithm, end

    def __iter__(self):
        for step in range(self.algorithm.step, self.end):
            g = torch.Generator().manual_seed(step)
            x, y = torch.randn(D, B, 5, generator=g), torch.randint(C, (D, B), generator=g)
            yield Batch(x, y, torch.arange(D)[:, None].expand(D, B))


class AtStep(pl.Callback):
    def __init__(self, **actions):
        self.actions = {int(name[1:]): action for name, action in actions.items()}

    def on_train_batch_end(self, trainer, pl_module, *args):
        for action in self.actions.get(pl_module.step, ()):
            action()


class AtStart(pl.Callback):
    def __init__(self, action):
        self.action = action

    def on_train_start(self, trainer, pl_module):
        self.action()


def build(cls: Any = Automatic, **kw: Any):
    torch.manual_seed(kw.pop("weights", 0))
    network = build_network("mlp", (5,), C, width=8, norm="batch", dropout=0.5)
    task = kw.pop("task", Task("classification", C))
    return build_algorithm(cls, task=task, network=network, num_domains=kw.pop("num_domains", D), **kw)


def fit(algorithm, end=5, *callbacks: pl.Callback, **kw: Any):
    quiet = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, **quiet, **kw}
    pl.Trainer(callbacks=list(callbacks), **settings).fit(algorithm, FromStep(algorithm, end))
    return algorithm


def seeded(cls, seed=7, **kw):
    algorithm = build(cls, **kw)
    algorithm.seed = seed
    return algorithm


def snapshot(algorithm):
    optimizers = algorithm.optimizers(use_pl_optimizer=False)
    return copy.deepcopy((algorithm.state_dict(), optimizers.state_dict()["state"]))


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


SIZES = (5, 9, 7)


class LazyDomain(Domain):
    """Reads examples when asked, as an image folder does; augments by noise."""

    def __init__(self, inner: TensorDomain):
        super().__init__(inner.name, inner.targets)
        self.inner = inner

    def __getitems__(self, indices):
        return self.inner.__getitems__(indices)

    def training_items(self, indices):
        x, y = self.inner.__getitems__(indices)
        return Items(x + torch.rand_like(x), y)


def domains(lazy=False, dtype=torch.float32):
    """Example k of domain d has the input (d, k) and the target 100 d + k."""
    made: list[Any] = []
    for d, n in enumerate(SIZES):
        x = torch.stack([torch.full((2 * n,), d), torch.arange(2 * n)], 1).to(dtype)
        domain = TensorDomain(f"d{d}", x, 100 * d + torch.arange(2 * n))
        made.append(LazyDomain(domain) if lazy else domain)
    return made


def splits(lazy=False, **kw):
    """Every other example, from the last to the first."""
    return [Split(d, torch.arange(len(d) - 1, -1, -2)) for d in domains(lazy, **kw)]
