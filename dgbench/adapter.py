"""The contract of a test-time adapter."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dgbench import hparams as hparams_
from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.hparams import seed_hash
from dgbench.normalisation import InstanceAwareBatchNorm2d
from dgbench.registry import UnknownName, adapters, algorithms

Source = Iterable[Batch]
"""One un-augmented pass over the training domains' in-splits, which can be made again: batches of D = 1."""

# The layers by which a network normalises, as `network.norm` calls them.
NORMS: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (nn.BatchNorm1d, nn.BatchNorm2d),
    "group": (nn.GroupNorm,),
    "layer": (nn.LayerNorm,),
    "instance_aware": (InstanceAwareBatchNorm2d,),
}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an adapter asks of a model and of the stream; an unmet need is a sentence before the first batch."""

    source: bool = False
    """Reads the training domains' examples, once and before the stream."""
    composite: bool = False
    """Needs a method whose predictions are `classify(features(x))`."""
    tasks: tuple[str, ...] = ("classification",)
    norms: tuple[str, ...] = ()
    """Needs a network that normalises by one of these; empty: any network will do."""
    method: str | None = None
    """Needs a model trained by this method, a name of the registry."""
    images: bool = False
    """Needs inputs (C, H, W)."""

    def unmet(self, algorithm: Algorithm, source: Source | None) -> str | None:
        """The first unmet need as half a sentence, or None."""
        if algorithm.task.kind not in self.tasks:
            return f"works for {' and '.join(self.tasks)}, but the task is {algorithm.task.kind}"
        if self.source and source is None:
            return "reads the source data before the stream; hand it source=..."
        name = type(algorithm).__name__
        if self.method is not None and type(algorithm) is not algorithms[self.method]:
            return f"adapts models trained by {self.method}, got one trained by {name}"
        if self.composite and not algorithm.composite:
            return f"needs predictions that are made from features, which those of {name} are not"
        if self.images and len(algorithm.input_shape) != 3:
            return f"needs images (C, H, W), got inputs of {algorithm.input_shape}"
        if self.norms and not set(self.norms) & set(norms_of(algorithm)):
            return (
                f"needs a network with {' or '.join(self.norms)} normalisation, but {algorithm.network.recipe['name']} "
                f"has {' and '.join(norms_of(algorithm)) or 'none'}; train with network.norm={self.norms[0]}"
            )
        return None


def norms_of(module: nn.Module) -> list[str]:
    """By what a network normalises, as in `NORMS`."""
    return [name for name in NORMS if any(is_norm(part, name) for part in module.modules())]


def is_norm(module: nn.Module, name: str) -> bool:
    """Whether a layer normalises as `name` says, a key of `NORMS`; instance-aware batch norm is no plain one."""
    is_other = name == "batch" and isinstance(module, NORMS["instance_aware"])
    return isinstance(module, NORMS[name]) and not is_other


@dataclass(frozen=True)
class Baseline:
    """What an adapter equals with its update disabled."""

    name: str
    """Another adapter, of the registry."""
    disabled: Mapping[str, Any]
    """The adapter's own hyper-parameters that disable its update."""
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Those of the other adapter."""

    def build(self, algorithm: Algorithm, source: Source | None = None) -> Adapter:
        """The other adapter, or `source` where it adapts batch norms alone and the model has none."""
        changes_nothing = adapters[self.name].needs.norms == ("batch",) and "batch" not in norms_of(algorithm)
        name, hparams = ("source", None) if changes_nothing else (self.name, dict(self.hparams))
        return build_adapter(name, algorithm, hparams=hparams, source=source)


class Adapter(nn.Module):
    """Adapts a trained model, which it owns, to an unlabelled stream. Made by `build_adapter`.

    A subclass says in `prepare` which state it has, and in `adapt` what it does with a batch. All attributes are state:
    `reset` brings each of them back. Randomness is torch's, seeded by (seed, number of the step).

    Args:
        algorithm: the model, in evaluation mode; no parameter requires gradients.
        hp: the adapter's hyper-parameters.
        source: the training examples, if there are any to read.
        seed: of all randomness.

    Raises:
        ValueError: a need of the adapter is not met.
    """

    HParams: ClassVar[type]
    needs: ClassVar[Needs] = Needs()
    version: ClassVar[int] = 1
    """Raised when the numbers change."""
    output: ClassVar[Literal["logits", "probabilities"]] = "logits"
    """What `step` and `predict` return of a classification; regressed values are in original units."""
    answers: ClassVar[Literal["before", "after"]] = "before"
    """Whether the answer to a batch is made before that batch's update, or after it."""
    baseline: ClassVar[Baseline | None] = None
    """What it equals with its update disabled, if that is another adapter."""

    if TYPE_CHECKING:
        # State is whatever `prepare` makes; a module's attributes are otherwise taken for tensors and modules.
        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, algorithm: Algorithm, hp: Any, source: Source | None, seed: int):
        super().__init__()
        unmet = self.needs.unmet(algorithm, source)
        if unmet:
            raise ValueError(f"{type(self).__name__} {unmet}.")
        self.algorithm, self.task, self.hp, self.seed = algorithm, algorithm.task, hp, seed
        self.steps = 0
        with self._own_randomness():
            self.prepare(source)
        self._start: dict[str, Any] = copy.deepcopy(self.__dict__)

    def prepare(self, source: Source | None) -> None:
        """Make the state: parameters that require gradients, optimizers, memories, copies of the model."""

    def adapt(self, x: Tensor) -> Tensor:
        """Answer a batch and learn from it, (N, C).

        Args:
            x: finite inputs, (N, *input_shape), at least one.
        """
        raise TypeError(f"{type(self).__name__} does not say what to do with a batch: define adapt(x).")

    def answer(self, x: Tensor) -> Tensor:
        """The answer of the model as it is now, which learns nothing from it, (N, C)."""
        return self.logits(x)

    def step(self, x: Tensor) -> Tensor:
        """Predict and adapt on one batch, (N, C).

        An example with pixels that are NaN or infinite is answered by equal scores, and nothing is learned from it.

        Args:
            x: inputs, (N, *input_shape).
        """
        with self._own_randomness(), torch.enable_grad():
            outputs = self._on_finite(self.adapt, x)
        self.steps += 1
        return outputs

    def predict(self, x: Tensor) -> Tensor:
        """Predict without adapting, (N, C); changes no state whatever."""
        with self._own_randomness(), torch.no_grad():
            return self._on_finite(self.answer, x)

    def reset(self) -> None:
        """Return to the state after construction, bit for bit."""
        start = self._start
        self.__dict__.clear()
        self.__dict__.update(copy.deepcopy(start), _start=start)

    def adapted_parameters(self) -> list[str]:
        """Names of the model's parameters that adapting changes."""
        return [name for name, p in self.algorithm.named_parameters() if p.requires_grad]

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits, of two classes also where its task has a single one, or regressed values; (N, C)."""
        return self.two_classes(self.algorithm(x))

    def two_classes(self, outputs: Tensor) -> Tensor:
        """Outputs (N, 1) of a task with a single logit as logits of both classes, (N, 2); others as they are."""
        return torch.cat([torch.zeros_like(outputs), outputs], dim=-1) if self.task.single_logit else outputs

    def descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """One step on a loss; none if it is not finite, or depends on nothing that is adapted."""
        optimizer.zero_grad()
        if loss.requires_grad and bool(loss.isfinite()):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def _on_finite(self, answer: Any, x: Tensor) -> Tensor:
        is_finite = x.flatten(1).isfinite().all(1)  # (N,)
        if bool(is_finite.all()):
            return answer(x).detach()
        width = 2 if self.task.single_logit else self.task.num_classes
        outputs = self.algorithm.task.decode(x.new_zeros(len(x), width))
        if self.output == "probabilities":
            outputs = outputs + 1 / width
        if bool(is_finite.any()):
            outputs[is_finite] = answer(x[is_finite]).detach().to(outputs)
        return outputs

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        device = self.algorithm.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_hash("adapt", self.seed, self.steps))
            yield


class Constant:
    """Holds what never changes, such as a large memory of the source: copies of an adapter share it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: Any) -> Constant:
        return self


def build_adapter(
    name: str | type[Adapter],
    algorithm: Algorithm,
    *,
    hparams: Any = None,
    source: Source | None = None,
    seed: int = 0,
) -> Adapter:
    """An adapter of a copy of a trained model, on the model's device.

    Args:
        name: a name of the registry, or the class itself.
        algorithm: the trained model; it is left as it is.
        hparams: instance of the adapter's `HParams`, or a mapping of some of its fields; the rest are defaults.
        source: batches of the training domains' in-splits, for adapters that read them.
        seed: of all randomness of the adapter.

    Raises:
        UnknownName: no such adapter, or no such hyper-parameter.
        ValueError: an unmet need, or a hyper-parameter that is not finite.
    """
    cls = adapters[name] if isinstance(name, str) else name
    if hparams is None or isinstance(hparams, Mapping):
        known = [f.name for f in dataclasses.fields(cls.HParams)]
        for key in hparams or {}:
            if key not in known:
                raise UnknownName(f"hyper-parameter of {cls.__name__}", key, known)
        hparams = cls.HParams(**(hparams or {}))
    hparams_.check_finite(hparams, "adapter.")
    return cls(_copied(algorithm), hparams_.filled(hparams, "small"), source, seed)


def _copied(algorithm: Algorithm) -> Algorithm:
    """A copy in evaluation mode, without gradients and without the Trainer that it was trained in."""
    trainer, best = algorithm._trainer, algorithm._best
    algorithm._trainer = algorithm._best = None
    try:
        copied = copy.deepcopy(algorithm)
    finally:
        algorithm._trainer, algorithm._best = trainer, best
    return copied.eval().requires_grad_(False)
