"""The contract of a training method, clause by clause: what it says of itself, one step, one prediction."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import pickle
import re
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithm import Algorithm, Needs
from dgbench.finding import (
    Clause,
    NotApplicable,
    Violation,
    clause,
)
from dgbench.hparams import REGIMES, Optim, draw, facts, filled
from dgbench.workbench import KINDS, NETWORKS, Workbench, inputs, pool

CLAUSES: list[Clause] = []
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Subject:
    """A method, and the means to examine it."""

    cls: type[Algorithm]
    bench: Workbench
    draws: int

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.cls.__name__


@clause(CLAUSES)
def declares(subject: Subject) -> None:
    """`needs`, `version` and `HParams` are set, the latter a dataclass of hyper-parameters."""
    cls, name = subject.cls, subject.name
    if not isinstance(cls.needs, Needs) or not cls.needs.tasks or not set(cls.needs.tasks) <= set(KINDS):
        raise Violation(
            f"{name}.needs is {cls.needs!r}, expected Needs(...) with tasks among {', '.join(KINDS)}. Set it."
        )
    if type(cls.version) is not int or cls.version < 1:
        raise Violation(f"{name}.version is {cls.version!r}, expected an integer from 1. Set it in the class.")
    hparams = getattr(cls, "HParams", None)
    if not (isinstance(hparams, type) and dataclasses.is_dataclass(hparams)):
        raise Violation(f"{name}.HParams is {hparams!r}, expected a dataclass. Decorate it, and name it in the class.")
    for field in dataclasses.fields(hparams):
        if "hparam" not in field.metadata:
            raise Violation(
                f"{name}.HParams.{field.name} is a bare field, expected hparam(default, sampler, meaning), "
                "by_regime(...) or like(...). Write it so."
            )
    for field_name in cls.optim_fields:
        if field_name not in facts(Optim):
            raise Violation(
                f"{name}.optim_fields names {field_name!r}, expected some of {', '.join(facts(Optim))}. Rename it."
            )


@clause(CLAUSES, after=["declares"])
def documented(subject: Subject) -> None:
    """The file, the class and every hyper-parameter say what they are."""
    name = subject.name
    if not (sys.modules[subject.cls.__module__].__doc__ or "").strip():
        raise Violation(f"The file of {name} has no docstring, expected one sentence and a citation. Write it.")
    if not (subject.cls.__dict__.get("__doc__") or "").strip():
        raise Violation(f"{name} has no docstring, expected its objective in one line. Write one.")
    for fact in facts(subject.cls.HParams).values():
        if not fact.doc.strip():
            raise Violation(f"{name}.HParams.{fact.name} has no meaning, expected one. Write it in hparam(...).")


@clause(CLAUSES, after=["declares"])
def draws(subject: Subject) -> None:
    """Defaults and random draws are plain Python, the same for the same seed; seed 0 draws the defaults."""
    hparams = subject.cls.HParams
    for regime in REGIMES:
        default = draw(hparams, 0, regime=regime)
        if default != filled(hparams(), regime):
            raise Violation(
                f"Seed 0 draws {default} in regime {regime}, expected the defaults {filled(hparams(), regime)}. "
                "Leave fields as hparam(...) made them."
            )
        for seed in range(10):
            drawn = draw(hparams, seed, regime=regime)
            for field, value in dataclasses.asdict(drawn).items():
                if not _is_plain(value):
                    raise Violation(
                        f"{subject.name}.HParams.{field} draws {value!r} ({type(value).__name__}), expected a finite "
                        "number, text, bool, None or a list of these. Convert it in its sampler."
                    )
            if draw(hparams, seed, regime=regime) != drawn:
                raise Violation(
                    f"{subject.name}.HParams draws {drawn} for seed {seed}, then something else, expected the same. "
                    "Let every sampler draw from the generator it is handed, and from nothing else."
                )
            json.dumps(dataclasses.asdict(drawn))


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in (int, str, bool, type(None)) or (type(value) is float and math.isfinite(value))


@clause(CLAUSES)
def device_free(subject: Subject) -> None:
    """No device is named in the file: the Trainer places the module."""
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[subject.cls.__module__]))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
        is_name = isinstance(node, ast.Constant) and re.fullmatch(r"(cuda|mps)(:\d+)?", str(node.value))
        if is_call or is_name:
            raise Violation(
                f"Line {getattr(node, 'lineno', '?')} of {subject.cls.__module__} names a device, expected none. "
                "Make tensors like others (x.new_zeros, zeros_like) and keep state in buffers."
            )


@clause(CLAUSES, after=["declares"])
def builds(subject: Subject) -> None:
    """With default hyper-parameters it builds for every kind of task that it names, on every network."""
    for kind in subject.bench.kinds:
        for network in NETWORKS:
            subject.bench.build(kind, network=network)


@clause(CLAUSES, after=["builds"])
def refuses(subject: Subject) -> None:
    """An unmet need is a ValueError at construction that names the class and the need."""
    needs, build = subject.cls.needs, subject.bench.build
    unmet: dict[str, tuple[dict[str, Any], str]] = {
        f"a {kind} task": ({"kind": kind}, kind) for kind in KINDS if kind not in needs.tasks
    }
    if needs.min_domains > 1:
        num = needs.min_domains - 1
        unmet[f"{num} training domains"] = ({"num_domains": num}, "domain")
    if needs.pretrained:
        unmet["random weights"] = ({"pretrained": False}, "pretrained")
    for what, (arguments, word) in unmet.items():
        try:
            build(**arguments)
        except ValueError as error:
            if subject.name in str(error) and word in str(error):
                continue
            got = f"ValueError: {error}"
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
        else:
            got = "no error"
        raise Violation(
            f"{subject.name} with {what} got {got!r}, expected a ValueError that says {subject.name!r} and {word!r}. "
            "Call super().__init__ first: it refuses what `needs` excludes."
        )
    if not unmet:
        raise NotApplicable("It needs nothing that a run could lack.")


@clause(CLAUSES, after=["builds"])
def sampler(subject: Subject) -> None:
    """What it makes of the protocol's indices is picklable and a function of them and the generator, (D, R)."""
    algorithm = subject.bench.build()
    targets, domains = pool(algorithm)
    made = algorithm.make_sampler(targets, domains)
    if made is None:
        raise NotApplicable("It has no sampler of its own.")
    anchors = torch.arange(2 * len(domains.unique())).view(-1, 2)  # (D, 2)
    rows = made(anchors, torch.Generator().manual_seed(0))
    if rows.dtype != torch.int64 or rows.ndim != 2 or rows.min() < 0 or rows.max() >= len(targets):
        raise Violation(
            f"The sampler draws {rows.dtype} of shape {tuple(rows.shape)}, expected int64 (D, R) "
            f"from 0 to {len(targets) - 1}. Return indices into what make_sampler is handed."
        )
    try:
        copy = pickle.loads(pickle.dumps(made))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise Violation(
            f"The sampler cannot be pickled ({error}), expected that it can: workers receive a copy. "
            "Make it a dataclass with __call__, not a lambda."
        ) from error
    again = copy(anchors, torch.Generator().manual_seed(0))
    if not torch.equal(rows, again):
        raise Violation(
            "The sampler draws something else from the same generator, expected the same indices. "
            "Draw from that generator alone, and keep no state."
        )


@clause(CLAUSES, after=["builds", "sampler"])
def loss(subject: Subject) -> None:
    """A step returns a dict of scalar tensors, whose entry `loss` is finite."""
    for kind in subject.bench.kinds:
        algorithm = subject.bench.build(kind)
        returned = _spied(algorithm)
        try:
            subject.bench.train(algorithm, [0])
        except Exception:
            # What was returned explains more than what the Trainer makes of it.
            if returned:
                _check_outputs(returned[0], kind)
            raise
        _check_outputs(returned[0], kind)


def _spied(algorithm: Algorithm) -> list[Any]:
    returned: list[Any] = []
    training_step = algorithm.training_step

    def spy(batch: Any, batch_idx: int) -> Any:
        returned.append(training_step(batch, batch_idx))
        return returned[-1]

    algorithm.training_step = spy  # type: ignore[method-assign]
    return returned


def _check_outputs(outputs: Any, kind: str) -> None:
    if not isinstance(outputs, dict) or "loss" not in outputs:
        got = f"the keys {', '.join(outputs)}" if isinstance(outputs, dict) else type(outputs).__name__
        raise Violation(f'A step on {kind} returns {got}, expected a dict with "loss". Return {{"loss": ...}}.')
    for name, value in outputs.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise Violation(f"The entry {name!r} on {kind} is {got}, expected a tensor (). Take its mean.")
    if not outputs["loss"].isfinite():
        raise Violation(
            f"The loss on {kind} is {outputs['loss'].item()} at step 0, expected a finite number. "
            "Look for a logarithm or a division at 0."
        )


@clause(CLAUSES, after=["builds"])
def shape(subject: Subject) -> None:
    """`forward` answers (N, C), finite, for any number of examples."""
    for kind in subject.bench.kinds:
        algorithm = subject.bench.build(kind).eval()
        for num in (6, 1):
            with torch.no_grad():
                got = algorithm(inputs(num))
            expected = (num, algorithm.task.num_outputs)
            if got.shape != expected or not got.is_floating_point() or not got.isfinite().all():
                raise Violation(
                    f"forward on {kind} answers {got.dtype} of shape {tuple(got.shape)} for {num} examples, "
                    f"expected finite floats {expected}. Return one row per example."
                )


@clause(CLAUSES, after=["shape"])
def composite(subject: Subject) -> None:
    """`forward(x)` is `classify(features(x))`, unless `composite = False` says otherwise."""
    if not subject.cls.composite:
        raise NotApplicable("It says composite = False.")
    for kind in subject.bench.kinds:
        algorithm, x = subject.bench.build(kind).eval(), inputs(6)
        with torch.no_grad():
            features = algorithm.features(x)
            gap = (algorithm(x) - algorithm.classify(features)).abs().max()
        if features.ndim != 2 or not gap < TOLERANCE:
            raise Violation(
                f"classify(features(x)) on {kind} differs from forward(x) by {gap:.2g}, features of shape "
                f"{tuple(features.shape)}, expected the same from (N, F). Override all three, or say composite = False."
            )
