"""What a sweep asks for before it starts: its runs and images, counted, and its time, from a few steps of each kind.

Nothing is written under `runs_dir`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hydra.core.override_parser.types import Override

from dgbench import composition, devices, expansion, sweeper
from dgbench.averaging import make_averaging
from dgbench.expansion import Job
from dgbench.loader import Split
from dgbench.registry import UnknownName
from dgbench.run import Run
from dgbench.sampling import build_sampler
from dgbench.splits import make_splits, wanted_splits
from dgbench.stopwatch import Timing, measure


@dataclass(frozen=True)
class Work:
    """What is left to do of one run."""

    steps: int
    examples: int
    """Per step."""
    evaluations: int
    evaluated: int
    """Examples per evaluation."""


@dataclass(frozen=True)
class Row:
    """The runs of one method, dataset and network; images and seconds are of those that are left to do."""

    algorithm: str
    dataset: str
    network: str
    runs: int
    done: int
    work: tuple[Work, ...] = ()
    timings: tuple[tuple[int, Timing], ...] = ()
    """Examples per step and what was measured: once, or for two sizes of a batch where runs differ in it."""
    problem: str | None = None
    """Why a run of these cannot be done."""

    @property
    def todo(self) -> int:
        """Runs that are not done."""
        return self.runs - self.done

    @property
    def trained(self) -> int:
        """Training images, each time they are seen."""
        return sum(work.steps * work.examples for work in self.work)

    @property
    def evaluated(self) -> int:
        """Evaluated images, each time they are."""
        return sum(work.evaluations * work.evaluated for work in self.work)

    @cached_property
    def step_seconds(self) -> float:
        """Of all training steps."""
        return sum(work.steps * self._step(work.examples) for work in self.work)

    @cached_property
    def evaluation_seconds(self) -> float:
        """Of all evaluations."""
        return sum(work.evaluations * self._evaluation(work.evaluated) for work in self.work)

    @property
    def seconds(self) -> float:
        """Of all runs, one after the other."""
        start = self.timings[0][1].start if self.timings else 0.0
        return start * len(self.work) + self.step_seconds + self.evaluation_seconds

    @property
    def longest(self) -> float:
        """An upper bound on the seconds of one run."""
        return max((dataclasses.replace(self, work=(work,)).seconds for work in {*self.work}), default=0.0)

    def _step(self, examples: int) -> float:
        (few, first), (many, last) = self.timings[0], self.timings[-1]
        slope = max(0.0, (last.step - first.step) / (many - few)) if many != few else 0.0
        return max(0.0, first.step + slope * (examples - few))

    def _evaluation(self, examples: int) -> float:
        timing = self.timings[0][1]
        return timing.evaluation + timing.example * max(0, examples - timing.num_examples)


@dataclass(frozen=True)
class Plan:
    """What a sweep asks for."""

    rows: tuple[Row, ...]
    workers: int | None
    """Runs at once, if the overrides name the launcher joblib."""

    def total(self, name: str) -> Any:
        """The sum over rows of what they call `name`."""
        return sum(getattr(row, name) for row in self.rows)

    @property
    def seconds_at_once(self) -> float:
        """With all workers, were each as fast as it is alone."""
        longest = max((row.longest for row in self.rows), default=0.0)
        return max(longest, self.total("seconds") / (self.workers or 1))


def plan(arguments: Sequence[str], tell: Callable[[str], None] | None = None) -> Plan:
    """Count a sweep, and time the first steps of the first run of each kind that is left to do.

    Args:
        arguments: overrides as `dgbench train -m` takes them; `-m` itself may stand among them.
        tell: told what is being timed.

    Raises:
        UnknownName: a name or key that does not exist.
        ValueError: an override that cannot be read, or a value that does not fit.
    """
    arguments = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    workers = _workers(composition.parse(arguments))
    jobs = expansion.expand(arguments)
    todo = sweeper.pending(jobs)
    counter, left, rows = _Counter(), {job.run.run_id for job in todo}, []
    taken = devices.taken(todo[0].run.keys.devices, todo[0].run.keys.runs_per_device) if todo else None
    with taken or contextlib.nullcontext():
        for names, runs in _kinds(jobs).items():
            if tell is not None:
                tell(" ".join(names))
            rows.append(_row(names, runs, [run for run in runs if run.run_id in left], counter))
    return Plan(tuple(rows), workers)


def _workers(overrides: Sequence[Override]) -> int | None:
    said = {override.get_key_element(): override.value() for override in overrides if override.is_hydra_override()}
    if said.get("hydra/launcher") != "joblib":
        return None
    number = said.get("hydra.launcher.n_jobs", -1)
    if not isinstance(number, int) or number == 0:
        raise ValueError(f"hydra.launcher.n_jobs={number}, expected a number of workers, or -1 for one per core.")
    return number if number > 0 else max(1, (os.cpu_count() or 1) + 1 + number)


def _kinds(jobs: Sequence[Job]) -> dict[tuple[str, str, str], list[Run]]:
    """The runs by algorithm, dataset and network; options in which runs of the same three differ tell them apart."""
    alike: dict[tuple[str, str, str], list[Run]] = {}
    for job in jobs:
        run = job.run
        alike.setdefault((run.algorithm, run.dataset_name, run.network.name), []).append(run)
    kinds: dict[tuple[str, str, str], list[Run]] = {}
    for (algorithm, dataset, network), runs in alike.items():
        options = [_options(run) for run in runs]
        varied = [key for key in options[0] if len({said[key] for said in options}) > 1]
        for run, said in zip(runs, options, strict=True):
            name = ", ".join([network, *(f"{key}={said[key]}" for key in varied)])
            kinds.setdefault((algorithm, dataset, name), []).append(run)
    return kinds


def _options(run: Run) -> dict[str, str]:
    """What decides the cost of a step beside the method: domains, options of data, network and Trainer."""
    groups: dict[str, Any] = {"dataset": run.dataset.options, "network": run.network, "trainer": run.trainer}
    cost = {
        f"{group}.{key}": str(value)
        for group, options in groups.items()
        for key, value in dataclasses.asdict(options).items()
        if key not in ("name", "data_seed")
    }
    return {"domains": str(len(run.domains.train)), **cost}


def _row(names: tuple[str, str, str], runs: Sequence[Run], todo: Sequence[Run], counter: _Counter) -> Row:
    row = Row(*names, runs=len(runs), done=len(runs) - len(todo))
    try:
        work = tuple(map(counter.work, todo))
        places = _representative([one.examples for one in work])
        timings = tuple((work[place].examples, measure(todo[place])) for place in places)
    except Exception as error:
        # As the runner: whatever ends a run is that run's outcome, and the others go on.
        kind = "" if isinstance(error, ValueError | UnknownName | OSError) else f"{type(error).__name__}: "
        return dataclasses.replace(row, problem=" ".join(f"{kind}{error}".split()))
    return dataclasses.replace(row, work=work, timings=timings)


def _representative(examples: Sequence[int]) -> list[int]:
    """The first run; where batches differ in size, also the one whose batch differs most from that run's."""
    if not examples:
        return []
    farthest = max(range(len(examples)), key=lambda place: abs(examples[place] - examples[0]))
    return [0] if examples[farthest] == examples[0] else [0, farthest]


class _Counter:
    """Counts the work of runs; what many of them share is counted once."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def _once(self, key: Any, count: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]

    def work(self, run: Run) -> Work:
        """What is left of a run; partners that a method adds to its batches are not counted."""
        protocol, size = run.protocol, run.optim.batch_size
        assert protocol.num_steps is not None
        assert size is not None
        steps = range(_first_step(run), protocol.num_steps)
        fractions = (protocol.splits, protocol.holdout_fraction, protocol.uda_holdout_fraction)
        key = (id(run.dataset), run.domains, *fractions)
        splits = self._once(key, lambda: _hollow_splits(run))
        inside = [splits["in", name] for name in run.domains.train]

        def draw() -> int:
            sampling, replacement = protocol.sampling, protocol.replacement
            sampler = build_sampler(inside, size, run.seed, sampling=sampling, replacement=replacement)
            return sampler(0, torch.Generator().manual_seed(0)).numel()

        both = (average := make_averaging(run.keys.averaging)) is not None and not average.only_at_end
        schedule = (steps, protocol.evaluate_every, protocol.evaluate_last)
        return Work(
            steps=len(steps),
            examples=self._once((key, size, protocol.sampling, protocol.replacement), draw),
            evaluations=self._once(schedule, lambda: sum(protocol.evaluates_at(s, steps.stop - 1) for s in steps)),
            evaluated=sum(len(splits[pair]) for pair in wanted_splits(run)) * (2 if both else 1),
        )


def _first_step(run: Run) -> int:
    """Where a run continues; its state is saved after each evaluation."""
    folder = run.folder
    if run.keys.overwrite or not folder.resume_file.exists():
        return 0
    return max((line["step"] + 1 for line in folder.lines()), default=0)


def _hollow_splits(run: Run) -> dict[tuple[str, str], Split]:
    """The splits with their lengths, but without their indices, which are many."""
    # Of a copy: data that every run draws anew are not kept.
    splits = make_splits(dataclasses.replace(run))
    return {pair: Split(split.domain, torch.empty(len(split), 0)) for pair, split in splits.items()}
