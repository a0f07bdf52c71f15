"""Steps in a Trainer: counted, seeded (all randomness of a step is a function of (seed, step)), and without chatter."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dgbench.hparams import seed_hash


class StepClock(pl.Callback):
    """Seeds the generators before each step, counts the step after it, logs what `loss` returned.

    A module's own `on_train_batch_end` would run after every callback's; as a callback this one runs before the
    checkpoint callbacks, which Lightning puts last.
    """

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Make the randomness of the step a function of its number."""
        if pl_module.seed is not None:
            seed_everything(pl_module.seed, pl_module.step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step."""
        step = pl_module.step
        every = trainer.log_every_n_steps  # 0: never
        if trainer.loggers and every > 0 and step % every == 0:
            # Lightning detaches the entry `loss` alone.
            values = {
                f"train/{name}": float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items()
            }
            if pl_module.automatic_optimization and "train/loss" in values:
                # Lightning divides it by the batches that are accumulated, but not its terms.
                values["train/loss"] *= trainer.accumulate_grad_batches
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
        pl_module.steps_done += 1
        pl_module._step = step + 1


def seed_everything(*what: object) -> None:
    """Seed the generators of Python, numpy and torch by hashing what they are for."""
    seed = seed_hash(*what)
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed: while CUDA is unused it stores a stack trace per call, which costs more than a small step.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's remarks on devices and durations are for one training, not for a sweep of thousands."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's own deprecation, raised inside Lightning at every batch transfer.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # Batch norms whose statistics are frozen are in evaluation mode on purpose.
            warnings.filterwarnings("ignore", message="Found .* in eval mode at the start", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
