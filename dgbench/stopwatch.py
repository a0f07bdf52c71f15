"""What one run costs on this machine, from its first few steps and a small evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dgbench.assembly import build, make_loader, make_trainer, refuse_unreachable
from dgbench.clock import quiet_lightning
from dgbench.evaluation import ACCELERATOR_BATCH, CPU_BATCH, Evaluation, Evaluator
from dgbench.loader import Split
from dgbench.record import RunFolder
from dgbench.run import Run
from dgbench.runner import interruptible
from dgbench.splits import make_splits, wanted_splits
from dgbench.task import Task

# Steps are timed until there are so many and they took so long, or until they took too long; two at least.
STEPS, SECONDS, TOO_LONG = 20, 0.5, 2.0
# Examples that are evaluated: of every split, for what it costs whatever its size; and of the largest in memory.
FEW, MANY = 8, 400


@dataclass(frozen=True)
class Timing:
    """What was measured of one run, in seconds."""

    start: float
    """From nothing to the first batch, and from the last step to the end."""
    step: float
    evaluation: float
    """One evaluation of `num_examples`, with its record and checkpoint."""
    example: float
    """Each further example."""
    num_examples: int


def measure(run: Run) -> Timing:
    """Time a run as the runner would do it, in a temporary folder and without a logger.

    Thread settings and generators are as before afterwards.

    Raises:
        ValueError: the run cannot be built, for an unmet need say, or its loss is NaN or infinite within these steps.
    """
    with _undisturbed(), tempfile.TemporaryDirectory(prefix="dgbench-") as place:
        if run.keys.threads:
            torch.set_num_threads(run.keys.threads)
        watch, _ = _begun(run, Path(place) / "steps", only_start=False)
        # What is done but once per process, such as filling caches, is done by now.
        _, start = _begun(run, Path(place) / "start", only_start=True)
        return dataclasses.replace(watch.timing, start=start)


def _begun(run: Run, place: Path, *, only_start: bool) -> tuple[_Stopwatch, float]:
    """The run until its watch stops it, and the seconds before its first step and after its last."""
    began = time.perf_counter()
    # A copy: data that every run draws anew are drawn anew.
    run = dataclasses.replace(run)
    folder = RunFolder(place)
    folder.create()
    splits = make_splits(run)
    algorithm = build(run, splits)
    refuse_unreachable(run, algorithm)
    algorithm.seed = run.seed
    with quiet_lightning():
        trainer: Any = make_trainer(run, folder, False)
        device = trainer.strategy.root_device
        wanted = {pair: splits[pair] for pair in wanted_splits(run)}
        watch = _Stopwatch(run, wanted, algorithm.task, folder, device, only_start=only_start)
        trainer.callbacks.append(watch)
        trainer.fit(algorithm, make_loader(run, splits, algorithm, device))
    return watch, watch.begun - began + time.perf_counter() - watch.ended


class _Stopwatch(Evaluation):
    """Times the first steps of a run and an evaluation, then ends it.

    Args:
        run: which run.
        splits: those that it evaluates.
        task: names the score.
        folder: a temporary one.
        device: where it trains.
        only_start: end after one step, without an evaluation; only `begun` and `ended` are known then.
    """

    timing: Timing

    def __init__(
        self,
        run: Run,
        splits: Mapping[tuple[str, str], Split],
        task: Task,
        folder: RunFolder,
        device: torch.device,
        *,
        only_start: bool,
    ):
        few = {pair: _some(split, FEW) for pair, split in splits.items()}
        self.num_few = sum(map(len, few.values()))
        pair, largest = max(splits.items(), key=lambda item: len(item[1]))
        batch = CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH
        self.is_read = largest.domain.resident is None
        # Worker processes share an evaluation by batches: one for each.
        many = _some(largest, batch * max(1, run.keys.workers) if self.is_read else MANY)
        self.num_many = len(many)
        self.many = Evaluator({pair: many}, device, run.keys.workers)
        assert run.protocol.num_steps is not None
        # It evaluates after the first step and then no more, so that nothing but steps is timed.
        rarely = dataclasses.replace(run.protocol, evaluate_every=run.protocol.num_steps, evaluate_last=False)
        super().__init__(
            Evaluator(few, device, run.keys.workers),
            task,
            rarely,
            run.domains,
            folder,
            checkpoints=run.keys.checkpoints,
        )
        self.device, self.only_start = device, only_start
        # Readers deliver as many batches at a time as there are of them, and have some ready after an evaluation.
        self.readers = max(1, run.keys.workers) if self.is_read else 1
        self.warm_up = min(2 * self.readers, (run.protocol.num_steps - 1) // 2)
        self.begun = self.ended = 0.0
        self.mark: tuple[int, float] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first batch is there."""
        self.begun = self.begun or time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the time; stop when enough is known."""
        step, now = pl_module.step - 1, time.perf_counter()
        if self.only_start:
            trainer.should_stop = True
        elif self.mark is None:
            self._warm(trainer, pl_module, step, outputs, batch, batch_idx)
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            count, seconds = step - self.mark[0], now - self.mark[1]
            is_enough = count >= 2 and (seconds >= TOO_LONG or (count >= STEPS and seconds >= SECONDS))
            if step == self.last_step or (is_enough and count % self.readers == 0):
                self._finish(trainer, pl_module, (self._now() - self.mark[1]) / count)
        if self.diverged:
            raise ValueError(f"The loss was NaN or infinite by step {step}.")
        self.ended = self._now() if trainer.should_stop else time.perf_counter()

    def _warm(self, trainer: pl.Trainer, pl_module: Any, step: int, *args: Any) -> None:
        alone = self._now() - self.begun
        super().on_train_batch_end(trainer, pl_module, *args)
        if step == self.last_step:
            self._finish(trainer, pl_module, alone)
        elif step >= self.warm_up or time.perf_counter() - self.begun > TOO_LONG:
            self.mark = step, self._now()

    def _finish(self, trainer: pl.Trainer, algorithm: Any, step_seconds: float) -> None:
        with trainer.precision_plugin.forward_context():
            if not self.is_read:
                self.many(algorithm)  # puts on the device what stays there
            few = self._seconds(lambda: self.evaluator(algorithm))
            many = self._seconds(lambda: self.many(algorithm))
        started = self._now()
        self._evaluate(trainer, algorithm, self.last_step, False)
        self._save(algorithm)
        whole = self._now() - started
        # What a split costs whatever its size is in `few` once per split, and in `many` once.
        example = max(0.0, many - few / len(self.evaluator.splits)) / self.num_many
        self.timing = Timing(0.0, step_seconds, whole, example, self.num_few)
        trainer.should_stop = True

    def _seconds(self, what: Callable[[], Any]) -> float:
        started = self._now()
        what()
        return self._now() - started

    def _now(self) -> float:
        """The time when the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _some(split: Split, number: int) -> Split:
    return Split(split.domain, split.indices[:number])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    threads, of_python, of_numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with interruptible(), torch.random.fork_rng(devices=gpus):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(of_python)
        np.random.set_state(of_numpy)
