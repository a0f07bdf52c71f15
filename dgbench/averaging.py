"""Averages of the weights over training, evaluated beside the weights themselves.

`averaging=none`, `ema[:decay]`, `sma[:start]` or `swad[:tolerance]`; each composes with every method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.optim.swa_utils import update_bn

from dgbench.algorithm import Algorithm
from dgbench.loader import Batches
from dgbench.loss_valley import LossValley
from dgbench.registry import UnknownName
from dgbench.weight_average import accumulate

# Batches from which the statistics of batch norms are taken anew for averaged weights.
BN_BATCHES = 500


class Averaging(Checkpoint, ABC):
    """Follows the weights after every step. Its state is tensors and primitives, and continues exactly.

    It is a checkpoint callback because Lightning runs those last: the step has been counted by then.

    Args:
        option: what is written after the colon.
    """

    name: ClassVar[str]
    """What rows call these weights."""
    default: ClassVar[float]
    """The option, where none is written."""
    only_at_end: ClassVar[bool] = False
    """Whether the average is defined at the last evaluation only."""
    averages_buffers: ClassVar[bool] = True
    """Whether buffers of floating point, as the statistics of batch norms, are averaged too."""

    def __init__(self, option: float | None = None):
        self.option = self.default if option is None else option
        self.check()
        self.values: list[Tensor] | None = None

    def check(self) -> None:
        """Refuse an option that makes no sense, with a `ValueError`."""

    def tensors(self, algorithm: Algorithm) -> list[Tensor]:
        """The tensors of a method that are averaged, themselves."""
        buffers = [b for b in algorithm.buffers() if b.is_floating_point()] if self.averages_buffers else []
        return [*(p.detach() for p in algorithm.parameters()), *buffers]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take in the weights after a step, which has been counted by now."""
        now = self.tensors(pl_module)
        if self.values is None:
            self.values = [torch.zeros_like(value) for value in now]
        self.update(self.values, now, pl_module.step)

    @abstractmethod
    def update(self, values: list[Tensor], now: list[Tensor], steps_done: int) -> None:
        """Change the average in place.

        Args:
            values: the average.
            now: the weights after the step.
            steps_done: number of steps, this one included.
        """

    def on_held_out_loss(self, step: int, loss: float) -> None:
        """Told at every evaluation: the mean loss of the last weights over the training domains' held-out examples."""

    def average(self) -> list[Tensor]:
        """The average as it is now."""
        assert self.values is not None
        return self.values

    @contextmanager
    def swapped(self, algorithm: Algorithm, batches: Batches) -> Iterator[None]:
        """Inside, the method has the averaged weights; afterwards its own again, bit for bit.

        Args:
            algorithm: the method.
            batches: the run's, from which the statistics of batch norms are taken where these are not averaged.
        """
        saved = {name: value.detach().clone() for name, value in algorithm.state_dict().items()}
        with torch.no_grad():
            for tensor, value in zip(self.tensors(algorithm), self.average(), strict=True):
                tensor.copy_(value)
        try:
            if not self.averages_buffers and not algorithm.network.recipe["freeze_bn"]:
                _refresh_batch_norm(algorithm, batches)
            yield
        finally:
            step = algorithm.step
            algorithm.load_state_dict(saved)
            algorithm.set_step(step)

    def state(self) -> dict[str, Any]:
        """What a continuation needs."""
        return {"values": self.values}

    def load(self, state: dict[str, Any], algorithm: Algorithm) -> None:
        """Continue from a `state`, on the method's device."""
        self.values = _like(state["values"], self.tensors(algorithm))


class EMA(Averaging):
    """Exponential moving average, `d * average + (1 - d) * weights`, d = min(decay, (1 + t) / (10 + t)) after t steps.

    The smaller d of the first steps lets it forget the initial weights.
    """

    name, default = "ema", 0.999

    def check(self) -> None:
        """The decay is a part."""
        if not 0 <= self.option < 1:
            raise ValueError(f"averaging=ema:{self.option:g}, expected a decay from 0 to below 1. Leave ema:0.999.")

    def update(self, values: list[Tensor], now: list[Tensor], steps_done: int) -> None:
        """Step towards the weights."""
        decay = 0 if steps_done == 1 else min(self.option, (1 + steps_done) / (10 + steps_done))
        torch._foreach_lerp_(values, now, 1 - decay)


class SMA(Averaging):
    """Simple moving average: the mean of the weights after step `start - 1` and after all later ones.

    Arpit, Wang, Zhou, Xiong. Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
    Generalization. NeurIPS 2022. https://arxiv.org/abs/2110.10832
    """

    name, default = "sma", 100

    def check(self) -> None:
        """The start counts steps."""
        if self.option < 1 or self.option != int(self.option):
            raise ValueError(f"averaging=sma:{self.option:g}, expected a number of steps from 1. Leave sma:100.")

    def update(self, values: list[Tensor], now: list[Tensor], steps_done: int) -> None:
        """Before `start`, the weights themselves."""
        accumulate(values, now, max(0, steps_done - int(self.option) + 1))


class SWAD(Averaging):
    """Stochastic weight averaging densely, over the valley of the held-out loss.

    Cha, Chun, Lee, Cho, Park, Lee, Park. SWAD: Domain Generalization by Seeking Flat Minima. NeurIPS 2021.
    https://arxiv.org/abs/2102.08604

    Between two evaluations the weights after every step are averaged to a segment, which `LossValley` takes or leaves.
    Statistics of batch norms that are not frozen are taken anew from the run's first batches.
    """

    name, default, only_at_end, averages_buffers = "swad", 0.3, True, False

    def __init__(self, option: float | None = None):
        super().__init__(option)
        self.count = 0
        self.valley = LossValley(tolerance=self.option)

    def check(self) -> None:
        """The tolerance is a share of the loss."""
        if not self.option >= 0:
            raise ValueError(
                f"averaging=swad:{self.option:g}, expected a tolerance of 0 or more, as a share of the loss. "
                "Leave swad:0.3."
            )

    def update(self, values: list[Tensor], now: list[Tensor], steps_done: int) -> None:
        """Extend the segment."""
        accumulate(values, now, self.count)
        self.count += 1

    def on_held_out_loss(self, step: int, loss: float) -> None:
        """Close the segment."""
        assert self.values is not None
        self.valley.add(step, loss, [value.to("cpu", copy=True) for value in self.values])
        self.count = 0

    def average(self) -> list[Tensor]:
        """The average of the valley, if training ended here."""
        return self.valley.result()

    def state(self) -> dict[str, Any]:
        """What a continuation needs."""
        return {**super().state(), "count": self.count, "valley": vars(self.valley)}

    def load(self, state: dict[str, Any], algorithm: Algorithm) -> None:
        """Continue from a `state`."""
        super().load(state, algorithm)
        self.count = state["count"]
        vars(self.valley).update(state["valley"])


def _refresh_batch_norm(algorithm: Algorithm, batches: Batches) -> None:
    num = min(BN_BATCHES, algorithm.step)
    inputs = (batches[step].x.flatten(0, 1).to(algorithm.device) for step in range(num))
    with torch.random.fork_rng([algorithm.device] if algorithm.device.type == "cuda" else []):
        update_bn(inputs, algorithm)


def _like(values: list[Tensor] | None, tensors: list[Tensor]) -> list[Tensor] | None:
    if values is None:
        return None
    return [value.to(tensor.device) for value, tensor in zip(values, tensors, strict=True)]


AVERAGINGS: dict[str, type[Averaging]] = {cls.name: cls for cls in (EMA, SMA, SWAD)}


def weights_name(averaging: str) -> str:
    """What rows call the weights that compete for a run.

    >>> weights_name("none"), weights_name("ema:0.99")
    ('last', 'ema')
    """
    return "last" if averaging == "none" else averaging.partition(":")[0]


def make_averaging(text: str) -> Averaging | None:
    """From what a user wrote; None for `none`.

    Raises:
        UnknownName: no such averaging.
        ValueError: an option that is no number, or makes no sense.
    """
    name, colon, option = text.partition(":")
    if text == "none":
        return None
    if name not in AVERAGINGS:
        raise UnknownName("value of averaging", name, ["none", *AVERAGINGS])
    cls = AVERAGINGS[name]
    try:
        number = float(option) if colon else None
    except ValueError as error:
        raise ValueError(
            f"averaging={text}, expected a number after the colon. Write averaging={name}:{cls.default:g}."
        ) from error
    return cls(number)
