"""Evaluating a model on splits, and the callback that does it during training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from dgbench.algorithm import Algorithm
from dgbench.averaging import Averaging
from dgbench.clock import seed_everything
from dgbench.dataset import Items
from dgbench.loader import Batches, Split, evaluation_batches
from dgbench.protocol import Domains, Protocol
from dgbench.record import RunFolder, replace_file
from dgbench.task import Task

# Examples per evaluation batch: many for an accelerator; on a CPU, as many as its cache holds activations of.
CPU_BATCH = 128
ACCELERATOR_BATCH = 512


class Evaluator:
    """Evaluates an algorithm on splits of domains.

    Examples in memory are put on the device once; others are read anew at each evaluation.

    Args:
        splits: (split, domain name) to examples.
        device: where the algorithm is.
        workers: processes that read examples which are not in memory.
    """

    def __init__(self, splits: Mapping[tuple[str, str], Split], device: torch.device | str, workers: int = 0):
        self.splits, self.device, self.workers = dict(splits), torch.device(device), workers
        self._resident: dict[tuple[str, str], list[Items]] = {}

    def _batches(self, key: tuple[str, str], batch_size: int) -> Iterable[Items]:
        split = self.splits[key]
        if split.domain.resident is None:
            return evaluation_batches(split, batch_size, self.workers, self.device)
        if key not in self._resident:
            self._resident[key] = list(evaluation_batches(split, batch_size, device=self.device))
        return self._resident[key]

    def __call__(
        self, algorithm: Algorithm, keys: Iterable[tuple[str, str]] | None = None
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Metrics `split/domain/metric` and numbers of examples `split/domain`.

        Args:
            algorithm: the model.
            keys: which (split, domain) to evaluate; all if None.
        """
        values: dict[str, float] = {}
        sizes: dict[str, int] = {}
        batch_size = evaluation_batch_size(algorithm, self.device)
        with evaluation_mode(algorithm):
            for key in self.splits if keys is None else keys:
                answers = [(algorithm(x), y) for x, y in self._batches(key, batch_size)]
                predictions, targets = (torch.cat(tensors) for tensors in zip(*answers, strict=True))
                name = "/".join(key)
                sizes[name] = len(targets)
                metrics = algorithm.task.metrics(predictions, targets)
                values |= {f"{name}/{metric}": value for metric, value in metrics.items()}
        return values, sizes


def evaluation_batch_size(algorithm: Algorithm, device: torch.device) -> int:
    """Examples that are predicted together: what the method needs, else what the device does best."""
    return algorithm.needs.joint_prediction or (CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH)


@contextmanager
def evaluation_mode(algorithm: Algorithm) -> Any:
    """Evaluation mode, no gradients, a generator of its own; afterwards everything is as before."""
    was_training = algorithm.training
    devices = [algorithm.device] if algorithm.device.type == "cuda" else []
    algorithm.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            seed_everything("evaluation")
            yield
    finally:
        algorithm.train(was_training)


def validation_score(values: Mapping[str, float], domains: Domains, task: Task, splits: Iterable[str] = ()) -> float:
    """What `train_validation` maximises: accuracy, or minus RMSE.

    The mean over the validation domains if there are any, else over the official `val` split, else over the training
    domains' `out`; NaN if these were not evaluated.
    """
    if domains.val:
        names = [f"in/{domain}" for domain in domains.val]
    else:
        split = "val" if "val" in splits else "out"
        names = [f"{split}/{domain}" for domain in domains.train]
    scores = [values[key] for name in names if (key := f"{name}/{task.score}") in values]
    return mean_score(scores, task) if len(scores) == len(names) else math.nan


def mean_score(scores: list[float], task: Task) -> float:
    """The mean, higher being better, to 12 digits: equal scores stay equal in whatever order they are summed."""
    mean = task.score_sign * math.fsum(scores) / len(scores)
    return float(f"{mean:.12g}")


def _mean_loss(values: Mapping[str, float], held_out: list[str]) -> float:
    """Mean over (split, domain) of the cross-entropy in nats, or of the squared error; NaN without any."""
    losses = [values[f"{name}/nll"] if f"{name}/nll" in values else values[f"{name}/rmse"] ** 2 for name in held_out]
    return math.fsum(losses) / len(losses) if losses else math.nan


class Evaluation(Checkpoint):
    """Evaluates on schedule, appends the row, then writes what a continuation needs.

    It is a checkpoint callback because Lightning runs those last: the step has been counted by then.

    Args:
        evaluator: knows the splits.
        task: names the score.
        protocol: knows the schedule.
        domains: which domains train and validate.
        folder: where rows and checkpoints go.
        checkpoints: `none`, `selected` (the weights `train_validation` chooses, and the last) or `all`.
        averaging: an average of the weights that is evaluated too, and then is what is chosen among and kept.
        batches: the run's, for the average's batch norms.
        resume: the state of an unfinished run, to continue it.
        progress: told the number of steps done after each step.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        protocol: Protocol,
        domains: Domains,
        folder: RunFolder,
        *,
        checkpoints: str = "selected",
        averaging: Averaging | None = None,
        batches: Batches | None = None,
        resume: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ):
        assert protocol.num_steps is not None
        self.evaluator, self.task, self.protocol, self.domains = evaluator, task, protocol, domains
        self.folder, self.checkpoints, self.resume, self.progress = folder, checkpoints, resume, progress
        self.averaging, self.batches = averaging, batches
        self.competing = averaging.name if averaging else "last"
        self.last_step = protocol.num_steps - 1
        self.last_evaluation = protocol.last_evaluation
        self.diverged = False
        self._seconds_before = resume["seconds"] if resume else 0.0
        self._started = time.perf_counter()
        self._finite: Tensor | None = None
        self._unsaved = False
        lines = [line for line in folder.lines() if line["weights"] == self.competing]
        scores = [(self._score(line["values"]), -line["step"]) for line in lines]
        best, negative_step = max(scores, default=(-math.inf, 0))
        self._best = best, -negative_step

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, in all its sittings."""
        return self._seconds_before + time.perf_counter() - self._started

    def _score(self, values: Mapping[str, Any]) -> float:
        known = {key: math.nan if value is None else value for key, value in values.items()}
        score = validation_score(known, self.domains, self.task, {key.split("/")[0] for key in values})
        return -math.inf if math.isnan(score) else score

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Continue the optimizers, which the Trainer has just made."""
        if self.resume is not None:
            pl_module.load_optimizers(self.resume["algorithm"])
            if self.averaging is not None:
                self.averaging.load(self.resume["averaging"], pl_module)
            self.resume = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Evaluate if it is time, or if the loss has become NaN or infinite."""
        step = pl_module.step - 1
        self._watch(outputs)
        due = self.protocol.evaluates_at(step, self.last_step)
        # Reading the flag waits for the device: on a GPU only where an evaluation waits anyway.
        if self._finite is not None and (due or self._finite.device.type == "cpu") and not self._finite:
            self.diverged = trainer.should_stop = True
        if due or self.diverged:
            self._evaluate(trainer, pl_module, step, self.diverged or step == self.last_evaluation)
            self._unsaved = True
        is_over = self.diverged or step == self.last_step
        # Gradients that are being accumulated are in no checkpoint: wait for the update.
        if self._unsaved and (step + 1) % trainer.accumulate_grad_batches == 0 and not is_over:
            self._save(pl_module)
            self._unsaved = False
        if self.progress is not None:
            self.progress(step + 1)

    def _watch(self, outputs: Any) -> None:
        if outputs and "loss" in outputs:
            finite = torch.isfinite(outputs["loss"]).all()
            self._finite = finite if self._finite is None else self._finite & finite

    def _evaluate(self, trainer: pl.Trainer, algorithm: Algorithm, step: int, is_last: bool) -> None:
        values = self._measure(trainer, algorithm, step, "last")
        held_out = [f"{split}/{d}" for split in ("val", "out") for d in self.domains.train]
        held_out = [name for name in held_out if f"{name}/{self.task.score}" in values]
        if self.averaging is None:
            self._keep(algorithm, step, values, is_last)
        else:
            self.averaging.on_held_out_loss(step, _mean_loss(values, held_out))
            if is_last or not self.averaging.only_at_end:
                assert self.batches is not None
                with self.averaging.swapped(algorithm, self.batches):
                    averaged = self._measure(trainer, algorithm, step, self.averaging.name)
                    self._keep(algorithm, step, averaged, is_last)
        if held_out:
            scores = [values[f"{name}/{self.task.score}"] for name in held_out]
            algorithm.on_evaluation(mean_score(scores, self.task))

    def _measure(self, trainer: pl.Trainer, algorithm: Algorithm, step: int, weights: str) -> dict[str, float]:
        """Evaluate, and append the line."""
        with trainer.precision_plugin.forward_context():
            values, sizes = self.evaluator(algorithm)
        self.folder.append({"step": step, "weights": weights, "values": values, "n": sizes})
        prefix = "" if weights == "last" else f"{weights}/"
        for logger in trainer.loggers:
            logger.log_metrics({prefix + key: value for key, value in values.items()}, step=step)
        return values

    def _keep(self, algorithm: Algorithm, step: int, values: Mapping[str, float], is_last: bool) -> None:
        """Keep the weights that were evaluated, if they are the best so far, or the last."""
        score = self._score(values)
        if score > self._best[0]:
            self._best = score, step
        if self.checkpoints == "all" or (self.checkpoints == "selected" and (is_last or self._best[1] == step)):
            state = algorithm.state_dict()
            replace_file(self.folder.weights_file(step), lambda file: torch.save(state, file))
        if is_last and self.checkpoints == "selected":
            self.folder.keep_weights([self._best[1], step])

    def _save(self, algorithm: Algorithm) -> None:
        state = {"step": algorithm.step, "algorithm": algorithm.training_state(), "seconds": self.seconds}
        if self.averaging is not None:
            state["averaging"] = self.averaging.state()
        replace_file(self.folder.resume_file, lambda file: torch.save(state, file))
        if self.checkpoints == "selected":
            self.folder.keep_weights([self._best[1], self.last_evaluation])
