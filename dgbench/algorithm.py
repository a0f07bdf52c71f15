"""The contract of a training method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dgbench import hparams as hparams_
from dgbench.batch import Batch
from dgbench.clock import StepClock
from dgbench.hparams import Optim
from dgbench.network import Network
from dgbench.registry import UnknownName, algorithms
from dgbench.task import Task

Draw = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method asks of the run; an unmet need is a sentence before step 0."""

    domain_labels: bool = False
    """Reads `Batch.domain`."""
    domain_rows: bool = False
    """Needs one row of the batch per training domain."""
    min_domains: int = 1
    """Fewest training domains."""
    tasks: tuple[str, ...] = ("classification", "regression")
    pretrained: bool = False
    """Needs pretrained weights."""
    metadata: bool = False
    """Needs domain metadata."""
    single_process: bool = False
    """Cannot be spread over several devices."""
    evaluation: bool = False
    """Its update depends on the value handed to `on_evaluation`."""
    joint_prediction: int = 0
    """A prediction depends on a batch of this many examples of one domain; 0: on its own example alone."""

    def unmet(self, task: Task, num_domains: int, *, pretrained: bool, domain_rows: bool = True) -> str | None:
        """The first unmet need as half a sentence, or None."""
        if task.kind not in self.tasks:
            return f"works for {' and '.join(self.tasks)}, but the task is {task.kind}"
        if num_domains < self.min_domains:
            return f"needs at least {self.min_domains} training domains, got {num_domains}"
        if self.pretrained and not pretrained:
            return "needs pretrained weights, got random ones; name them with network.weights"
        if self.domain_rows and not domain_rows:
            return "needs one row of the batch per training domain; use protocol.sampling=balanced"
        return None


class Algorithm(pl.LightningModule):
    """An update rule. Most methods override only `loss`.

    The constructor is the whole story: it needs no files, no configuration and no Trainer. What must survive a
    checkpoint is a parameter or a buffer.

    Args:
        task: what is predicted.
        network: the network to train.
        num_domains: number of training domains.
        optim: how the weights are updated.
        hp: the method's own hyper-parameters.

    Raises:
        ValueError: a need of the method is not met.
    """

    HParams: ClassVar[type]
    needs: ClassVar[Needs] = Needs()
    version: ClassVar[int] = 1
    """Raised when the numbers change."""
    cost: ClassVar[float | None] = None
    """Time of a step in units of ERM's on the same network, as `make bench` measures it; None: not measured."""
    composite: ClassVar[bool] = True
    """Whether `forward(x) == classify(features(x))`."""
    optim_fields: ClassVar[Mapping[str, Any]] = {}
    """Fields of `Optim` that this method draws otherwise."""

    steps_done: Tensor

    def __init__(self, task: Task, network: Network, num_domains: int, optim: Optim, hp: Any):
        super().__init__()
        unmet = self.needs.unmet(task, num_domains, pretrained=network.pretrained)
        if unmet:
            raise ValueError(f"{type(self).__name__} {unmet}.")
        self.task, self.network, self.num_domains, self.optim, self.hp = task, network, num_domains, optim, hp
        self.seed: int | None = None
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        self._step = 0
        self._best: dict[str, Any] | None = None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The entry `loss` is minimised; every entry is logged."""
        raise TypeError(f"{type(self).__name__} does not say what to minimise: define loss(batch).")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One update. Override for several passes or optimizers, with `automatic_optimization = False`."""
        return self.loss(batch)

    def make_sampler(self, targets: Tensor, domains: Tensor) -> Draw | None:
        """What the method makes of the examples that the protocol draws: partners for them, or others in their place.

        Args:
            targets: of the concatenated training in-splits, (N,) or (N, C).
            domains: index among the training domains, (N,).

        Returns:
            A picklable function from the protocol's indices into the concatenated training in-splits, (D, B), and a
            generator, to the indices that are trained on, (D, R); None to train on the protocol's.
        """
        return None

    def on_evaluation(self, value: float) -> None:
        """Told after each evaluation, before the checkpoint: the score on training domains, higher is better."""

    def configure_optimizers(self) -> Any:
        """One optimizer over all trainable parameters."""
        return self.make_optimizer(self.trainable())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an example that the method is handed, channels first; override where its network sees something else."""
        return self.network.input_shape

    @property
    def step(self) -> int:
        """Index of the current step, counted from 0: the number of batches that have been trained on."""
        return self._step

    def outputs(self, batch: Batch) -> Tensor:
        """The network's answer in the task's inner scale for a whole batch in one pass, (D, B, C)."""
        D, B = batch.x.shape[:2]
        return self.network(batch.x.flatten(0, 1)).unflatten(0, (D, B))

    def domain_risks(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """Mean loss of each training domain, (D,).

        Args:
            batch: the examples.
            outputs: what the network answered, (D, B, C); computed if None.
        """
        outputs = self.outputs(batch) if outputs is None else outputs
        D, B = outputs.shape[:2]
        return self.task.losses(outputs.flatten(0, 1), batch.y.flatten(0, 1)).view(D, B).mean(1)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that are trained, in order."""
        return [p for p in self.parameters() if p.requires_grad]

    def make_optimizer(self, parameters: Any, **changes: Any) -> torch.optim.Optimizer:
        """The optimizer that `optim` names, over `parameters` (or parameter groups).

        Args:
            parameters: what it updates.
            changes: arguments of the optimizer that replace those of `optim`.

        Raises:
            UnknownName: `optim.optimizer` is none of adam, adamw and sgd.
        """
        kinds: dict[str, Any] = {
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "sgd": lambda params, **kw: torch.optim.SGD(params, momentum=0.9, **kw),
        }
        if self.optim.optimizer not in kinds:
            raise UnknownName("optimizer", self.optim.optimizer, kinds)
        arguments = {"lr": self.optim.lr, "weight_decay": self.optim.weight_decay, **changes}
        return kinds[self.optim.optimizer](parameters, **arguments)

    def apply_gradients(self, grads: Sequence[Tensor | None]) -> None:
        """One optimizer step with hand-made gradients, one per trainable parameter; manual optimization only."""
        optimizer: Any = self.optimizers()
        for parameter, grad in zip(self.trainable(), grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()

    def reset_optimizer(self, lr: float | None = None) -> None:
        """Forget the optimizer's state, as penalty methods do where the objective jumps.

        Args:
            lr: a new learning rate, if it changes too.
        """
        for optimizer in _optimizers(self):
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] if lr is None else lr

    def keep_best(self) -> None:
        """Remember parameters, buffers and optimizer state as they are now."""
        self._best = {
            "model": {name: value.detach().clone() for name, value in self.state_dict().items()},
            "optimizers": [_cloned(optimizer.state_dict()) for optimizer in _optimizers(self)],
        }

    def restore_best(self) -> None:
        """Return to what `keep_best` remembered, then forget it; the step goes on. With nothing kept, do nothing."""
        if self._best is None:
            return
        step = self.step
        self.load_state_dict(self._best["model"])
        for optimizer, state in zip(_optimizers(self), self._best["optimizers"], strict=True):
            optimizer.load_state_dict(_cloned(state))
        self._best = None
        self.set_step(step)

    def features(self, x: Tensor) -> Tensor:
        """Features of inputs (N, *input_shape), (N, F)."""
        return self.network.features(x)

    def classify(self, features: Tensor) -> Tensor:
        """Prediction from features (N, F), (N, C)."""
        return self.task.decode(self.network.head(features))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or values in original units, (N, C)."""
        return self.task.decode(self.network(x))

    def configure_callbacks(self) -> list[pl.Callback]:
        """The clock that counts and seeds the steps, in any Trainer."""
        return [StepClock()]

    def set_step(self, step: int) -> None:
        """Continue as if `step` batches had been trained on."""
        self._step = step
        self.steps_done.fill_(step)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        # A Python copy of the buffer: reading the step must not wait for the device.
        self._step = int(self.steps_done)

    def training_state(self) -> dict[str, Any]:
        """Everything an exact continuation needs, as tensors and primitives."""
        return {
            "model": self.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in _optimizers(self)],
            "best": self._best,
        }

    def load_optimizers(self, state: Mapping[str, Any]) -> None:
        """Continue the optimizers of a `training_state`, once the Trainer has made them."""
        for optimizer, saved in zip(_optimizers(self), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._best = state["best"]


def _optimizers(algorithm: Algorithm) -> list[torch.optim.Optimizer]:
    found = algorithm.optimizers(use_pl_optimizer=False)
    return found if isinstance(found, list) else [found]


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cloned(item) for item in value]
    return value


def build_algorithm(
    name: str | type[Algorithm],
    *,
    task: Task,
    network: Network,
    num_domains: int,
    hparams: Any = None,
    optim: Optim | None = None,
    regime: str = "small",
) -> Algorithm:
    """A method ready to train in any `pl.Trainer` on any iterable of `Batch`.

    Args:
        name: a name of the registry, or the class itself.
        task: what is predicted.
        network: the network to train.
        num_domains: number of training domains.
        hparams: instance of the method's `HParams`, or a mapping of some of its fields; the rest are defaults.
        optim: how the weights are updated; fields left None are the defaults of `regime`.
        regime: small, large or domain_net.

    Raises:
        UnknownName: no such method.
        ValueError: an unknown hyper-parameter, or an unmet need.
    """
    cls = algorithms[name] if isinstance(name, str) else name
    if hparams is None or isinstance(hparams, Mapping):
        known = [f.name for f in dataclasses.fields(cls.HParams)]
        for key in hparams or {}:
            if key not in known:
                raise UnknownName(f"hyper-parameter of {cls.__name__}", key, known)
        hparams = cls.HParams(**(hparams or {}))
    hp = hparams_.filled(hparams, regime)
    return cls(task, network, num_domains, hparams_.filled(optim or Optim(), regime, cls.optim_fields), hp)
