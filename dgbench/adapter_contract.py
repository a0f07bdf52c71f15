"""The contract of a test-time adapter, clause by clause."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgbench import algorithm_contract
from dgbench.adapter import NORMS, Adapter, Needs, Source, build_adapter
from dgbench.adapter_state import state_of
from dgbench.algorithm import Algorithm
from dgbench.batch import Batch
from dgbench.finding import Clause, NotApplicable, Violation, clause
from dgbench.hparams import draw
from dgbench.registry import algorithms
from dgbench.workbench import KINDS, Workbench, different, inputs, pool

CLAUSES: list[Clause] = []
# More images than adapters that collect some wait for.
BATCH, BATCHES = 12, 6


@dataclass(kw_only=True)
class _None:
    """No hyper-parameters."""


class _Mean(Algorithm):
    """Minimises the mean loss: any model will do."""

    HParams = _None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.domain_risks(batch).mean()}


@dataclass(frozen=True)
class Subject:
    """An adapter, and the means to examine it.

    Args:
        cls: the adapter.
        folder: for the files that a method may need.
        draws: how many random draws of hyper-parameters are tried.
    """

    cls: type[Adapter]
    folder: Path
    draws: int

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.cls.__name__

    def model(self, norm: str = "batch", kind: str = "classification") -> Algorithm:
        """A model with a normalisation, trained for a few steps."""
        method = self.cls.needs.method
        bench = Workbench(algorithms[method] if method else _Mean, self.folder)
        # Layer norm of maps is group norm with one group; of vectors it is its own.
        algorithm = bench.build(kind, network="mlp" if norm == "layer" else "small_cnn", norm=norm)
        bench.train(algorithm, range(3))
        return algorithm.eval()

    def models(self) -> Iterator[tuple[str, Algorithm]]:
        """A model of every normalisation that it adapts, and of every kind of task."""
        for kind in self.cls.needs.tasks:
            for norm in self.cls.needs.norms or NORMS:
                if norm == "layer" and self.cls.needs.images:
                    continue
                yield f"{kind}, network.norm={norm}", self.model(norm, kind)

    def build(self, algorithm: Algorithm, hp: Any = None, seed: int = 0) -> Adapter:
        """The adapter, with the source data if it reads them."""
        source = _source(algorithm) if self.cls.needs.source else None
        return build_adapter(self.cls, algorithm, hparams=hp, source=source, seed=seed)


# What a component says of itself is held to the same clauses, whatever kind it is of.
CLAUSES += [c for c in algorithm_contract.CLAUSES if c.name in ("documented", "draws", "device_free")]


@clause(CLAUSES)
def states(subject: Subject) -> None:
    """`needs`, `version`, `output` and `answers` are set as the contract has them."""
    cls, name = subject.cls, subject.name
    if not isinstance(cls.needs, Needs) or not cls.needs.tasks or not set(cls.needs.tasks) <= set(KINDS):
        raise Violation(f"{name}.needs is {cls.needs!r}, expected dgbench.adapter.Needs(...) with tasks. Set it.")
    for field, known in (("output", ("logits", "probabilities")), ("answers", ("before", "after"))):
        if getattr(cls, field) not in known:
            raise Violation(f"{name}.{field} is {getattr(cls, field)!r}, expected one of {', '.join(known)}. Set it.")
    if type(cls.version) is not int or cls.version < 1:
        raise Violation(f"{name}.version is {cls.version!r}, expected an integer from 1. Set it in the class.")


@clause(CLAUSES, after=["states"])
def adapts(subject: Subject) -> None:
    """On every network that it takes it answers (N, C) finite values, with default and random hyper-parameters."""
    for label, algorithm in subject.models():
        for seed in range(subject.draws + 1):
            hp = draw(subject.cls.HParams, seed)
            adapter = subject.build(algorithm, hp)
            for x in _stream():
                _check_answer(adapter, adapter.step(x), len(x), f"{label}, {hp}")
            _check_finite(adapter, f"{label}, {hp}")


@clause(CLAUSES, after=["adapts"])
def resets(subject: Subject) -> None:
    """`reset` brings back every tensor bit for bit, and the same stream gives the same answers again (T1)."""
    for label, algorithm in subject.models():
        adapter = subject.build(algorithm)
        start, first = state_of(adapter), [adapter.step(x) for x in _stream()]
        adapter.reset()
        if changed := different(state_of(adapter), start):
            raise Violation(
                f"After reset, {changed[0]} of {subject.name} is not what it was ({label}), expected the state after "
                "construction. Keep all state in attributes of the adapter."
            )
        again = [adapter.step(x) for x in _stream()]
        other = [subject.build(algorithm).step(x) for x in _stream()][:1]
        if any(not torch.equal(a, b) for a, b in zip([*first, first[0]], [*again, *other], strict=True)):
            raise Violation(
                f"{subject.name} answers the same stream otherwise the second time ({label}), expected the same "
                "answers. Draw randomness in `prepare` and `adapt` alone, from torch's global generator."
            )


@clause(CLAUSES, after=["adapts"])
def predicts_without_trace(subject: Subject) -> None:
    """`predict` changes no state whatever, and neither its own later answers nor those of `step` (T2)."""
    for label, algorithm in subject.models():
        adapter, undisturbed = subject.build(algorithm), subject.build(algorithm)
        first, second, *_ = _stream()
        adapter.step(first)
        undisturbed.step(first)
        before, answer = state_of(adapter), adapter.predict(second)
        _check_answer(adapter, answer, len(second), label)
        changed = different(state_of(adapter), before)
        if changed or not torch.equal(adapter.predict(second), answer):
            raise Violation(
                f"predict of {subject.name} changes {changed[0] if changed else 'its own answer'} ({label}), expected "
                "that it changes nothing. Do in `answer` only what leaves no trace."
            )
        if not torch.equal(adapter.step(second), undisturbed.step(second)):
            raise Violation(
                f"step of {subject.name} answers otherwise after predict ({label}), expected the same. Keep no state "
                "outside the adapter."
            )


@clause(CLAUSES, after=["adapts"])
def falls_back(subject: Subject) -> None:
    """With its update disabled as `baseline` says, it answers as the adapter that `baseline` names (T3)."""
    baseline = subject.cls.baseline
    if baseline is None:
        raise NotApplicable("It names no baseline.")
    num_compared, refusal = 0, ""
    for label, algorithm in subject.models():
        adapter = subject.build(algorithm, dict(baseline.disabled))
        try:
            other = baseline.build(algorithm, _source(algorithm))
        except ValueError as error:
            refusal = str(error)
            continue
        for x in _stream():
            got, expected = _probabilities(adapter, adapter.step(x)), _probabilities(other, other.step(x))
            if not torch.allclose(got, expected, atol=1e-5):
                gap = float((got - expected).abs().max())
                raise Violation(
                    f"{subject.name} with {dict(baseline.disabled)} differs from {baseline.name} by {gap:.2g} "
                    f"({label}), expected the same answers. Mend the update, or `baseline`."
                )
        num_compared += 1
    if num_compared == 0:
        raise Violation(f"{baseline.name} takes no model of {subject.name}'s, expected one that does: {refusal}")


@clause(CLAUSES, after=["adapts"])
def takes_one(subject: Subject) -> None:
    """A batch of one works (T5)."""
    for label, algorithm in subject.models():
        adapter = subject.build(algorithm)
        for x in inputs(3).split(1):
            _check_answer(adapter, adapter.step(x), 1, f"{label}, a batch of one")
        _check_finite(adapter, f"{label}, a batch of one")


@clause(CLAUSES, after=["adapts"])
def stays_finite(subject: Subject) -> None:
    """Constant inputs, NaN pixels and images without any selection never put a NaN into weights or answers (T6)."""
    for label, algorithm in subject.models():
        adapter = subject.build(algorithm)
        broken = inputs(BATCH)
        broken[2, 0, 0, 0] = torch.nan
        for what, x in (
            ("constant images", torch.full_like(broken, 0.5)),
            ("an image with a NaN pixel", broken),
            ("equal images", inputs(1).expand(BATCH, -1, -1, -1).clone()),
        ):
            adapter.reset()
            for _ in range(BATCHES):
                _check_answer(adapter, adapter.step(x), len(x), f"{label}, {what}")
            _check_finite(adapter, f"{label}, {what}")
        before = state_of(adapter)
        _check_answer(adapter, adapter.step(torch.full_like(broken, torch.nan)), BATCH, f"{label}, NaN images")
        if changed := [name for name in different(state_of(adapter), before) if name != "steps"]:
            raise Violation(
                f"{changed[0]} of {subject.name} changes on images of nothing but NaN ({label}), expected no change. "
                "Let `step` of the base class do its work."
            )


@clause(CLAUSES, after=["adapts"])
def leaves_the_model(subject: Subject) -> None:
    """The trained model that was handed in is not changed (T7)."""
    algorithm = subject.model((subject.cls.needs.norms or tuple(NORMS))[0], subject.cls.needs.tasks[0])
    before, grads = copy.deepcopy(algorithm.state_dict()), [p.requires_grad for p in algorithm.parameters()]
    adapter = subject.build(algorithm)
    for x in _stream():
        adapter.step(x)
    adapter.reset()
    changed = different(dict(algorithm.state_dict()), dict(before))
    if changed or grads != [p.requires_grad for p in algorithm.parameters()]:
        raise Violation(
            f"{subject.name} changes {changed[0] if changed else 'requires_grad'} of the model it was handed, "
            "expected that it adapts its copy. Work on self.algorithm."
        )


@clause(CLAUSES, after=["adapts"])
def names_what_it_adapts(subject: Subject) -> None:
    """No parameter of the model changes that `adapted_parameters` does not name."""
    for label, algorithm in subject.models():
        adapter = subject.build(algorithm)
        named, known = set(adapter.adapted_parameters()), dict(adapter.algorithm.named_parameters())
        if missing := sorted(named - known.keys()):
            raise Violation(f"{missing[0]} is no parameter of the model ({label}), expected one. Name what changes.")
        before = {name: p.detach().clone() for name, p in known.items()}
        for x in _stream():
            adapter.step(x)
        after = dict(adapter.algorithm.named_parameters())
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if undeclared := sorted(changed - named):
            raise Violation(
                f"{subject.name} changes {undeclared[0]} ({label}), which adapted_parameters leaves out, expected it "
                "there. Require gradients of what is adapted."
            )


def _stream() -> list[Tensor]:
    """Some batches of images, in [0, 1]."""
    return list(inputs(BATCH * BATCHES).split(BATCH))


def _source(algorithm: Algorithm) -> Source:
    targets, domains = pool(algorithm)
    x = inputs(len(targets), seed=1)
    chunks = zip(x.split(10), targets.split(10), domains.split(10), strict=True)
    return [Batch(*(part.unsqueeze(0) for part in chunk)) for chunk in chunks]


def _probabilities(adapter: Adapter, outputs: Tensor) -> Tensor:
    is_logits = adapter.task.is_classification and adapter.output == "logits"
    return outputs.softmax(1) if is_logits else outputs


def _check_answer(adapter: Adapter, outputs: Tensor, num: int, where: str) -> None:
    name = type(adapter).__name__
    expected = (num, 2 if adapter.task.single_logit else adapter.task.num_classes)
    if tuple(outputs.shape) != expected or outputs.requires_grad:
        raise Violation(
            f"{name} answers {tuple(outputs.shape)}{' with a graph' if outputs.requires_grad else ''} ({where}), "
            f"expected {expected} without. Return one row per example."
        )
    if not outputs.isfinite().all():
        raise Violation(f"{name} answers NaN or infinity ({where}), expected finite values. Bound the update.")
    if adapter.output == "probabilities" and adapter.task.is_classification:
        total = outputs.sum(1)
        if outputs.min() < 0 or (total - 1).abs().max() > 1e-2:
            raise Violation(
                f"The probabilities of {name} sum to {float(total[0]):.4g} ({where}), expected 1. Normalise them, or "
                "set output='logits'."
            )


def _check_finite(adapter: Adapter, where: str) -> None:
    for name, value in state_of(adapter).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.isnan().any():
            raise Violation(
                f"{name} of {type(adapter).__name__} becomes NaN ({where}), expected finite values. Skip updates that "
                "nothing supports."
            )
