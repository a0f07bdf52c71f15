"""Small problems on which the checker builds and trains an algorithm as a run does, in milliseconds."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.batch import Batch
from dgbench.clock import quiet_lightning, seed_everything
from dgbench.dataset import TensorDomain
from dgbench.hparams import Optim, facts
from dgbench.loader import Batches, Split
from dgbench.network import build_network
from dgbench.task import Task

KINDS = ("classification", "regression")
INPUT_SHAPE = (3, 8, 8)
SIZE = 24
BATCH_SIZE = 6
NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"width": 4, "depth": 2, "norm": "batch"},
    "mlp": {"width": 8},
}


class Training(NamedTuple):
    """What a training left behind."""

    outputs: list[dict[str, Any]]
    """What each step logs."""
    changed: set[str]
    """Names of the trainable parameters that some step has changed."""
    saved: bytes
    """A `training_state` as a checkpoint file holds it; empty if none was asked for."""


class Workbench:
    """Builds and trains one method.

    Args:
        cls: the method.
        folder: receives pretrained weights, for the methods that need them.
    """

    def __init__(self, cls: type[Algorithm], folder: Path):
        self.cls, self.folder = cls, folder

    @property
    def kinds(self) -> list[str]:
        """The kinds of task that the method is for."""
        return [kind for kind in KINDS if kind in self.cls.needs.tasks]

    @property
    def num_domains(self) -> int:
        """Training domains, where their number does not matter."""
        return max(2, self.cls.needs.min_domains)

    def build(
        self,
        kind: str | None = None,
        num_domains: int | None = None,
        *,
        hp: Any = None,
        num_steps: int | None = None,
        network: str = "small_cnn",
        norm: str | None = None,
        seed: int = 0,
        pretrained: bool | None = None,
    ) -> Algorithm:
        """The method with initial weights.

        Args:
            kind: of the task; None: the first that it is for.
            num_domains: None: a number that it can do with.
            hp: hyper-parameters, without weight decay of its own; None: the defaults.
            num_steps: length of the run, None: unknown.
            network: a key of `NETWORKS`.
            norm: its normalisation, if another one.
            seed: of the initial weights.
            pretrained: None: if the method needs it.
        """
        seed_everything("init", seed)
        task = _task(kind or self.kinds[0])
        options = {**NETWORKS[network], **({} if norm is None else {"norm": norm})}
        weights = None
        if self.cls.needs.pretrained if pretrained is None else pretrained:
            weights = self.folder / f"{network}.pt"
            torch.save(build_network(network, INPUT_SHAPE, 2, **options).state_dict(), weights)
        return build_algorithm(
            self.cls,
            task=task,
            network=build_network(network, INPUT_SHAPE, task.num_outputs, weights=weights, **options),
            num_domains=self.num_domains if num_domains is None else num_domains,
            hparams=without_weight_decay(self.cls.HParams() if hp is None else hp),
            optim=Optim(weight_decay=0.0, batch_size=BATCH_SIZE, num_steps=num_steps),
        )

    def batches(self, algorithm: Algorithm, steps: Sequence[int], *, pooled: bool = False) -> list[Batch]:
        """The batches of the given steps, with what the method makes of them."""
        splits = _splits(algorithm.task.kind, algorithm.num_domains)
        sampling = "pooled" if pooled else "balanced"
        made = Batches(splits, BATCH_SIZE, seed=0, sampling=sampling, draw=algorithm.make_sampler(*pool(algorithm)))
        return [made[step] for step in steps]

    def train(
        self,
        algorithm: Algorithm,
        steps: Sequence[int],
        *,
        pooled: bool = False,
        save: bool = False,
        resume: bytes | None = None,
    ) -> Training:
        """Train in a Trainer, as a run does.

        Args:
            algorithm: what is trained.
            steps: indices of the steps, not all of them successive.
            pooled: batches of one row in which the domains are mixed.
            save: keep the state after the last step.
            resume: continue this state.
        """
        algorithm.seed = 0
        visits = _Visits(list(steps), save)
        if resume is not None:
            visits.resume = load_state(resume)
            algorithm.load_state_dict(visits.resume["model"])
        batches = self.batches(algorithm, steps, pooled=pooled)
        algorithm.set_step(steps[0])
        with quiet_lightning(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*available but not used")
            trainer = pl.Trainer(
                max_epochs=1,
                max_steps=-1,
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            # As the run does: handed to the Trainer, a checkpoint callback would contradict enable_checkpointing.
            trainer.callbacks.append(visits)  # type: ignore[attr-defined]
            trainer.fit(algorithm, _Stream(batches))
        return Training(visits.outputs, visits.changed, visits.saved)

    def trained(self, kind: str | None = None) -> Algorithm:
        """The method after three steps, in evaluation mode."""
        algorithm = self.build(kind)
        self.train(algorithm, range(3))
        return algorithm.eval()


class _Visits(Checkpoint):
    """Leads through the steps. A checkpoint callback, as the run's own: the step has been counted by then."""

    def __init__(self, steps: list[int], save: bool):
        self.steps, self.save, self.saved = steps, save, b""
        self.resume: dict[str, Any] | None = None
        self.outputs: list[dict[str, Any]] = []
        self.changed: set[str] = set()
        self._before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.resume is not None:
            pl_module.load_optimizers(self.resume)
        self._before = _parameters(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append({name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items()})
        now = _parameters(pl_module)
        self.changed |= {name for name in now if not torch.equal(now[name], self._before[name])}
        self._before = now
        with torch.no_grad():
            pl_module.on_evaluation(math.sin(pl_module.step))
        if batch_idx + 1 < len(self.steps):
            pl_module.set_step(self.steps[batch_idx + 1])
        elif self.save:
            buffer = io.BytesIO()
            torch.save(pl_module.training_state(), buffer)
            self.saved = buffer.getvalue()


class _Stream:
    """An iterable without length, as the run's loader; a list would be taken for several sources."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _parameters(algorithm: Algorithm) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in algorithm.named_parameters() if p.requires_grad}


def _task(kind: Any) -> Task:
    task = Task(kind, 3)
    if kind == "regression":
        task.fit_scale(_targets(kind, 0), "standard")
    return task


def _targets(kind: str, domain: int) -> Tensor:
    generator = torch.Generator().manual_seed(domain)
    if kind == "classification":
        return torch.arange(SIZE).remainder(3)[torch.randperm(SIZE, generator=generator)]
    return 5 + 2 * torch.randn(SIZE, 3, generator=generator)


def _splits(kind: str, num_domains: int) -> list[Split]:
    made = []
    for domain in range(num_domains):
        inputs = torch.rand(SIZE, *INPUT_SHAPE, generator=torch.Generator().manual_seed(domain))
        # Each domain has a brightness of its own, so that methods find something to tell them apart by.
        inputs = inputs * (0.5 + 0.5 * domain / num_domains)
        made.append(Split(TensorDomain(f"d{domain}", inputs, _targets(kind, domain)), torch.arange(SIZE)))
    return made


def pool(algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """Targets of all training examples, and the domain of each."""
    kind, num_domains = algorithm.task.kind, algorithm.num_domains
    targets = torch.cat([_targets(kind, domain) for domain in range(num_domains)])
    return targets, torch.arange(num_domains).repeat_interleave(SIZE)


def inputs(num: int, seed: int = 0) -> Tensor:
    """Images in [0, 1], (N, *input_shape)."""
    return torch.rand(num, *INPUT_SHAPE, generator=torch.Generator().manual_seed(seed))


def without_weight_decay(hp: Any) -> Any:
    """A copy in which every hyper-parameter that is a weight decay is 0."""
    names = [name for name in facts(type(hp)) if "weight_decay" in name]
    return dataclasses.replace(hp, **dict.fromkeys(names, 0.0))


def load_state(saved: bytes) -> dict[str, Any]:
    """A `training_state` from a checkpoint file."""
    return torch.load(io.BytesIO(saved), weights_only=True)


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names under which two states do not hold the same values bit for bit; NaN equals NaN."""
    shared = a.keys() & b.keys()
    return sorted(a.keys() ^ b.keys()) + [name for name in a if name in shared and not _same(a[name], b[name])]


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b) or (a != a and b != b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())
