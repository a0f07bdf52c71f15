"""The contract of a training method, clause by clause: trainings, what they predict, how they go on."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dgbench.algorithm_contract import TOLERANCE, Subject
from dgbench.finding import Clause, NotApplicable, Violation, clause, generators, moved_generators, seed_generators
from dgbench.hparams import draw, facts, filled
from dgbench.workbench import NETWORKS, different, inputs, load_state

CLAUSES: list[Clause] = []
STEPS = range(9)


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
