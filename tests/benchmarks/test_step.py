"""What a step costs beyond the computation that a hand-written loop also does."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn

from dgbench import assembly, composition, config, runner, wandb_logger
from dgbench.clock import quiet_lightning
from dgbench.dataset import as_float
from dgbench.run import Run
from dgbench.splits import make_splits
from tests.benchmarks.timing import Stopwatch, alternate, differences, in_ms, processor_time, ratios, row, seconds, show

pytestmark = pytest.mark.bench

Side = Callable[[], float]


class Memory(Logger):
    """A logger that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines.append((step, dict(metrics)))


@pytest.fixture(autouse=True)
def logging_on(monkeypatch):
    @contextlib.contextmanager
    def logged(run: Run) -> Iterator[Logger]:
        yield Memory()

    # A stand-in for wandb, which would cost a process.
    monkeypatch.setattr(wandb_logger, "logged", logged)


def resolved(num_steps: int, *overrides: str) -> Run:
    keys = ["algorithm=erm", "test_domains=[0]", "optim.batch_size=64", "trainer.accelerator=cpu", "logger=wandb"]
    keys += ["threads=1", f"protocol.num_steps={num_steps}", "protocol.evaluate_every=1000000", "overwrite=true"]
    return config.resolve(composition.compose([*keys, *overrides]))


def dgbench_side(warm_up: int, steps: int, *overrides: str) -> Side:
    def measure() -> float:
        watch = Stopwatch(warm_up, steps)
        outcome = runner.execute(resolved(watch.total, *overrides), watch)
        assert outcome.status == "complete", outcome.reason
        return watch.seconds

    return measure


class Data:
    """A run's network and its training examples, drawn from and gathered in the fastest way."""

    def __init__(self, run: Run):
        splits = make_splits(run)
        inside = [splits["in", name] for name in run.domains.train]
        self.network = assembly.build(run, splits).network
        parts = [(split.domain.resident, split.indices) for split in inside]
        self.x, self.y = (torch.cat([tensors[i][rows] for tensors, rows in parts if tensors]) for i in (0, 1))
        self.sizes = [len(split) for split in inside]

    def batch(self) -> tuple[Tensor, Tensor]:
        rows, start = [], 0
        for size in self.sizes:
            rows.append(torch.randint(start, start + size, (64,)))
            start += size
        chosen = torch.cat(rows)
        return as_float(self.x.index_select(0, chosen)), self.y.index_select(0, chosen)


def hand_side(warm_up: int, steps: int, *overrides: str) -> Side:
    def measure() -> float:
        watch = Stopwatch(warm_up, steps)
        data = Data(resolved(watch.total, *overrides))
        step = hand_step(data)
        with untouched_by_lightning():
            for done in range(1, watch.total):
                step()
                watch(done)
        return watch.seconds

    return measure


def hand_step(data: Data) -> Callable[[], None]:
    optimizer = torch.optim.Adam(data.network.parameters(), lr=1e-3)

    def step() -> None:
        x, y = data.batch()
        optimizer.zero_grad()
        F.cross_entropy(data.network(x), y).backward()
        optimizer.step()

    return step


@contextlib.contextmanager
def untouched_by_lightning() -> Iterator[None]:
    """The hand-written loop pays for nothing that Lightning switches on in a process."""
    # Adam looks for a GPU at each step, which is slow in this way on a machine without one.
    slow_look = os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        if slow_look is not None:
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = slow_look


class Plain(pl.LightningModule):
    """The hand-written loop's step, as Lightning wants it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Told(pl.Callback):
    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.watch(batch_idx + 1)


def lightning_side(warm_up: int, steps: int, *overrides: str) -> Side:
    def measure() -> float:
        watch = Stopwatch(warm_up, steps)
        data = Data(resolved(watch.total, *overrides))
        off = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
        settings: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "deterministic": True, **off}
        with quiet_lightning():
            trainer = pl.Trainer(logger=Memory(), callbacks=[Told(watch)], **settings)
            trainer.fit(Plain(data.network), (data.batch() for _ in range(watch.total)))
        return watch.seconds

    return measure


def test_step_overhead(tmp_path):
    job = 50, 250, "dataset=digits_rot", f"runs_dir={tmp_path}"
    sides = {"hand": hand_side(*job), "lightning": lightning_side(*job), "dgbench": dgbench_side(*job)}
    times = {name: in_ms(values) for name, values in alternate(sides, rounds=11).items()}
    show(
        "A step of erm on digits_rot, mlp, 5 x 64, a logger attached, processor time",
        row("a hand-written loop", times["hand"], "{:.2f} ms"),
        row("the same step in a bare Lightning Trainer", times["lightning"], "{:.2f} ms"),
        row("dgbench", times["dgbench"], "{:.2f} ms"),
        row("overhead of dgbench", differences(times["dgbench"], times["hand"]), "{:.2f} ms", "<= 1.50 ms"),
        row("  of which not Lightning's", differences(times["dgbench"], times["lightning"]), "{:.2f} ms"),
    )


def write_images(folder: Path, num: int = 600) -> None:
    """Random images as MNIST's files: 28 x 28, a hundred for each of the six angles."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", num * 5 // 6), ("t10k", num // 6)):
        images = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        header = struct.pack(">4i", 2051, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        digits = rng.integers(10, size=n, dtype=np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + digits.tobytes())


def test_step_ratio(tmp_path):
    write_images(tmp_path / "MNIST" / "raw")
    turns = Turns(12)
    keys = "dataset=rotated_mnist", f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}", "checkpoints=none"
    run = resolved(turns.total, *keys)
    turns.hand = hand_step(Data(run))
    outcome = runner.execute(run, turns)
    assert outcome.status == "complete", outcome.reason
    own, hand = in_ms(turns.own), in_ms(turns.by_hand)
    show(
        "A step of erm on 5 x 64 images of 28 x 28, mnist_cnn, a logger attached, processor time",
        row("a hand-written loop", hand, "{:.0f} ms"),
        row("dgbench", own, "{:.0f} ms"),
        row("ratio", ratios(own, hand), "{:.3f}", "<= 1.050"),
    )


class Turns:
    """Takes a step by hand after each of a run's own; the first two and the last, which evaluates, do not count."""

    hand: Callable[[], None]

    def __init__(self, pairs: int):
        self.total = pairs + 3
        self.own: list[float] = []
        self.by_hand: list[float] = []
        self._left = 0.0

    def __call__(self, done: int) -> None:
        own = processor_time() - self._left
        with untouched_by_lightning():
            by_hand = seconds(self.hand, processor_time)
        if 2 < done < self.total:
            self.own.append(own)
            self.by_hand.append(by_hand)
        self._left = processor_time()
