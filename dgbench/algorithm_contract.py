"""The contract of a training method, clause by clause."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import pickle
import re
import sys
from collections.abc import Iterator
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
    generators,
    moved_generators,
    seed_generators,
)
from dgbench.hparams import REGIMES, Optim, draw, facts, filled
from dgbench.workbench import KINDS, NETWORKS, Workbench, different, inputs, load_state, pool

CLAUSES: list[Clause] = []
STEPS = range(9)
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
    """The class, its module and its hyper-parameters say what they are; `needs` and `version` are set."""
    cls, name = subject.cls, subject.name
    if not (cls.__dict__.get("__doc__") or "").strip():
        raise Violation(f"{name} has no docstring, expected its objective in one line. Write one.")
    if not (sys.modules[cls.__module__].__doc__ or "").strip():
        raise Violation(f"The file of {name} has no docstring, expected one sentence and a citation. Write it.")
    if not isinstance(cls.needs, Needs) or not cls.needs.tasks or not set(cls.needs.tasks) <= set(KINDS):
        raise Violation(
            f"{name}.needs is {cls.needs!r}, expected Needs(...) with tasks among {', '.join(KINDS)}. "
            "Set it in the class."
        )
    if type(cls.version) is not int or cls.version < 1:
        raise Violation(f"{name}.version is {cls.version!r}, expected an integer from 1. Set it in the class.")
    hparams = getattr(cls, "HParams", None)
    if not (isinstance(hparams, type) and dataclasses.is_dataclass(hparams)):
        raise Violation(f"{name}.HParams is {hparams!r}, expected a dataclass. Decorate it, and name it here.")
    for field in dataclasses.fields(hparams):
        said = field.metadata.get("hparam")
        if said is None or not said["doc"].strip():
            raise Violation(
                f"{name}.HParams.{field.name} has no {'facts' if said is None else 'meaning'}, expected "
                f'hparam(default, sampler, "meaning"), by_regime(...) or like(...). Write it so.'
            )
    for field_name in cls.optim_fields:
        if field_name not in facts(Optim):
            raise Violation(
                f"{name}.optim_fields names {field_name!r}, expected some of {', '.join(facts(Optim))}. Rename it."
            )


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
    """A sampler of its own is picklable and a function of the generator: indices (D, R) of training examples."""
    algorithm = subject.bench.build()
    targets, domains = pool(algorithm)
    made = algorithm.make_sampler(targets, domains)
    if made is None:
        raise NotApplicable("It has no sampler of its own.")
    rows = made(torch.Generator().manual_seed(0))
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
    again = copy(torch.Generator().manual_seed(0))
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


@clause(CLAUSES, after=["shape", "loss"])
def independent(subject: Subject) -> None:
    """The prediction of an example does not depend on the others, unless `needs.joint_prediction` says so."""
    if subject.cls.needs.joint_prediction:
        raise NotApplicable(f"It says joint_prediction = {subject.cls.needs.joint_prediction}.")
    algorithm, x = subject.bench.trained(), inputs(6)
    others = torch.cat([x[:1], 1 - inputs(5, seed=1)])
    with torch.no_grad():
        together = algorithm(x)
        gaps = {
            "alone": (together - torch.cat([algorithm(row) for row in x.split(1)])).abs().max(),
            "among others": (together - algorithm(others))[0].abs().max(),
        }
    for how, gap in gaps.items():
        if not gap < TOLERANCE * (1 + together.abs().max()):
            raise Violation(
                f"The prediction of an example {how} differs by {gap:.2g}, expected the same. Take no statistics of "
                "the batch in evaluation, or say needs = Needs(joint_prediction=n)."
            )


@clause(CLAUSES, after=["shape", "loss"])
def evaluation_pure(subject: Subject) -> None:
    """`forward` in evaluation mode changes no state, draws no global random numbers, and repeats itself."""
    algorithm, x = subject.bench.trained(), inputs(6)
    before, rng = {name: value.clone() for name, value in algorithm.state_dict().items()}, generators()
    with torch.no_grad():
        first, second = algorithm(x), algorithm(x)
    changed = different(before, algorithm.state_dict())
    changed += [f"the generator of {name}" for name in moved_generators(rng)]
    changed += [f"the mode of {name or 'itself'}" for name, m in algorithm.named_modules() if m.training]
    if not torch.equal(first, second):
        changed.append("its own answer")
    if changed:
        raise Violation(f"forward changes {', '.join(changed)}, expected nothing. Move that into the training step.")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train."""

    kind: str
    num_domains: int
    label: str = "default hyper-parameters"
    hp: Any
    num_steps: int | None = None
    network: str = "small_cnn"
    pooled: bool = False

    def __str__(self) -> str:
        rows = ", rows of mixed domains" if self.pooled else ""
        return f"{self.kind}, {self.num_domains} training domains{rows}, {self.label}, num_steps={self.num_steps}"


def _cases(subject: Subject) -> Iterator[Case]:
    needs, hparams = subject.cls.needs, subject.cls.HParams
    numbers = [num for num in (1, 2, 5) if num >= needs.min_domains] or [needs.min_domains]
    default = filled(hparams(), "small")
    known = facts(hparams)
    presets = {preset for fact in known.values() for preset in fact.presets}
    for kind in subject.bench.kinds:
        for num in numbers:
            yield Case(kind=kind, num_domains=num, hp=default)
            yield Case(kind=kind, num_domains=num, hp=default, num_steps=len(STEPS), network="mlp")
        for preset in sorted(presets):
            values = {name: fact.presets[preset] for name, fact in known.items() if preset in fact.presets}
            hp = dataclasses.replace(default, **values)
            yield Case(kind=kind, num_domains=numbers[-1], label=f"preset {preset}", hp=hp)
        for seed in range(1, subject.draws + 1 if known else 1):
            yield Case(
                kind=kind,
                num_domains=numbers[seed % len(numbers)],
                label=f"hparams_seed={seed}",
                hp=draw(hparams, seed, regime="small"),
                num_steps=(None, len(STEPS))[seed % 2],
                network=list(NETWORKS)[seed // 2 % 2],
            )
        if not needs.domain_rows:
            yield Case(kind=kind, num_domains=numbers[-1], hp=default, pooled=True)


@clause(CLAUSES, after=["draws", "loss"])
def trains(subject: Subject) -> None:
    """Every trainable parameter changes at some step, and stays finite, however it is used."""
    for case in _cases(subject):
        try:
            algorithm = subject.bench.build(
                case.kind, case.num_domains, hp=case.hp, num_steps=case.num_steps, network=case.network
            )
        except ValueError as error:
            # A number of domains may be refused beyond what `needs` can say.
            if subject.name in str(error) and case.hp == filled(type(case.hp)(), "small"):
                continue
            raise
        try:
            training = subject.bench.train(algorithm, _steps(case.hp), pooled=case.pooled)
        except Exception as error:
            text = " ".join(str(error).split())
            raise Violation(
                f"Training raises {type(error).__name__}: {text} ({case}), expected no error. "
                f"If it cannot be used so, say so in `needs`, or refuse in __init__: {subject.name} needs ..."
            ) from error
        for name, parameter in algorithm.named_parameters():
            if not parameter.isfinite().all():
                raise Violation(f"{name} becomes NaN or infinite ({case}), expected finite values. Bound the loss.")
            if parameter.requires_grad and name not in training.changed:
                raise Violation(
                    f"{name} never changes ({case}), expected every trainable parameter to. Use it in the loss, "
                    "give it to an optimizer, or set requires_grad_(False)."
                )


def _steps(hp: Any) -> list[int]:
    """The first steps, and both sides of each step at which the method changes what it does."""
    turns = {getattr(hp, name) for name, fact in facts(type(hp)).items() if fact.is_step}
    return sorted({*STEPS, *(step for turn in turns for step in (turn - 1, turn) if step >= 0)})


@clause(CLAUSES, after=["loss"])
def deterministic(subject: Subject) -> None:
    """The same seed gives the same losses and weights bit for bit, wherever the global generators are."""
    results = []
    for scramble in (1, 2):
        algorithm = subject.bench.build()
        seed_generators(scramble)
        training = subject.bench.train(algorithm, range(4))
        results.append(({str(i): row for i, row in enumerate(training.outputs)}, algorithm.state_dict()))
    _compare(
        results[0],
        results[1],
        "A second training with the same seed",
        "Draw only in training steps, from the "
        "global generators, which are seeded before each; a generator of one's own starts at a fixed seed.",
    )


def _compare(a: tuple[dict, dict], b: tuple[dict, dict], what: str, remedy: str) -> None:
    rows = [f"step {i}" for i in a[0] if different(a[0][i], b[0][i])]
    weights = different(a[1], b[1])
    if rows or weights:
        first = rows[0] if rows else f"{weights[0]} after the last step"
        raise Violation(f"{what} differs at {first}, expected equality bit for bit. {remedy}")


@clause(CLAUSES, after=["shape", "loss"])
def round_trip(subject: Subject) -> None:
    """A checkpoint holds tensors and primitives, and a fresh object that loads it predicts the same."""
    algorithm, x = subject.bench.build(), inputs(6)
    saved = subject.bench.train(algorithm, range(4), save=True).saved
    try:
        state = load_state(saved)
    except pickle.UnpicklingError as error:
        text = str(error).split("\n")[0]
        raise Violation(
            f"training_state() does not load with weights_only=True ({text}), expected tensors and primitives. "
            "Keep what must survive in buffers."
        ) from error
    fresh = subject.bench.build(seed=1)
    fresh.load_state_dict(state["model"])
    with torch.no_grad():
        same = torch.equal(algorithm.eval()(x), fresh.eval()(x))
    if not same:
        raise Violation(
            "A fresh object with the same state_dict predicts otherwise, expected the same bit for bit. "
            "Keep what predictions depend on in parameters or buffers."
        )


@clause(CLAUSES, after=["deterministic", "round_trip"])
def resumes(subject: Subject) -> None:
    """Three steps, a checkpoint and three steps of a fresh object are six steps, bit for bit."""
    bench = subject.bench
    straight = bench.build()
    expected = bench.train(straight, range(6)).outputs[3:]
    saved = bench.train(bench.build(), range(3), save=True).saved
    fresh = bench.build(seed=1)
    got = bench.train(fresh, range(3, 6), resume=saved).outputs
    _compare(
        ({str(3 + i): row for i, row in enumerate(expected)}, straight.state_dict()),
        ({str(3 + i): row for i, row in enumerate(got)}, fresh.state_dict()),
        "A training continued from a checkpoint",
        "Keep what later steps depend on in buffers, an inner optimizer's state included.",
    )
