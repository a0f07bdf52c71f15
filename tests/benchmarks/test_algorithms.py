"""What a step of each method costs, in units of ERM's on the same network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.clock import quiet_lightning
from dgbench.dataset import TensorDomain
from dgbench.hparams import Optim, facts, filled
from dgbench.loader import Batches, Split
from dgbench.network import build_network
from dgbench.registry import algorithms
from dgbench.task import Task
from tests.algorithms.reference import Batches as Source
from tests.benchmarks.timing import Stopwatch, alternate, ratios, row, show

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore:Found .* in eval mode")]

D, B, SHAPE = 5, 64, (1, 28, 28)
WARM_UP, STEPS, ROUNDS = 2, 6, 3
TARGETS = {"fishr": 1.3, "coral": 1.3, "mmd": 1.3, "sam": 2.2, "fish": 1.6}


class Told(pl.Callback):
    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.watch(batch_idx + 1)


def splits(kind: str) -> list[Split]:
    made = []
    for domain in range(D):
        generator = torch.Generator().manual_seed(domain)
        x = torch.rand(4 * B, *SHAPE, generator=generator)
        y = torch.arange(4 * B) % 10 if kind == "classification" else torch.rand(4 * B, 10, generator=generator)
        made.append(Split(TensorDomain(f"d{domain}", x, y), torch.arange(4 * B)))
    return made


def built(name: str, kind: Any, folder: Path) -> Algorithm:
    """With default hyper-parameters, and from the first step on at what its later steps do."""
    cls, weights = algorithms[name], None
    if cls.needs.pretrained:
        weights = folder / "mnist_cnn.pt"
        torch.save(build_network("mnist_cnn", SHAPE, 10).state_dict(), weights)
    hp = filled(cls.HParams(), "small")
    for field, fact in facts(cls.HParams).items():
        if fact.is_step and getattr(hp, field):
            setattr(hp, field, 1)
    network = build_network("mnist_cnn", SHAPE, 10, weights=weights)
    optim = Optim(batch_size=B, num_steps=1000)
    return build_algorithm(name, task=Task(kind, 10), network=network, num_domains=D, hparams=hp, optim=optim)


def seconds_per_step(name: str, kind: str, folder: Path) -> float:
    algorithm, watch, data = built(name, kind, folder), Stopwatch(WARM_UP, STEPS), splits(kind)
    algorithm.seed = 0
    # In the midst of the run, for what changes over it.
    algorithm.set_step(500)
    targets, owners = torch.cat([s.domain.targets for s in data]), torch.arange(D).repeat_interleave(4 * B)
    batches = Batches(data, B, seed=0, draw=algorithm.make_sampler(targets, owners))
    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    settings: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", **off}
    with quiet_lightning():
        trainer = pl.Trainer(callbacks=[Told(watch)], **settings)
        trainer.fit(algorithm, Source([batches[step] for step in range(watch.total)]))
    return watch.seconds


def test_cost_of_a_step(tmp_path):
    torch.set_num_threads(1)
    rows = []
    for name in algorithms.names():
        cls = algorithms[name]
        kind = cls.needs.tasks[0]
        sides = {side: partial(seconds_per_step, side, kind, tmp_path) for side in ("erm", name)}
        times = alternate(sides, ROUNDS)
        said = "" if cls.cost is None else f"said: {cls.cost:g}"
        target = f"<= {TARGETS[name]:.1f}" if name in TARGETS else said
        rows.append(row(name, ratios(times[name], times["erm"]), "{:.2f}", target))
    show("Time of a step over that of erm's: mnist_cnn, 5 x 64 images of 28 x 28, processor time", *rows)
