"""Counting and seeding the steps: all randomness of a step is a pure function of (seed, step)."""

from __future__ import annotations

import random
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
