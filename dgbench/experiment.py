"""Experiments: a file of stages that train, rank and compare, done by one command that continues where it stopped."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from dgbench import composition, console, expansion
from dgbench.record import RunFolder
from dgbench.registry import UnknownName, algorithms
from dgbench.stages import Stage, TableOptions, find, load

if TYPE_CHECKING:
    from dgbench.expansion import Job


# Where adaptations go, beside the runs that they adapt.
ADAPTED = "adapted"


@dataclass(frozen=True)
class Sweep:
    """What one `dgbench train -m` would do."""

    overrides: tuple[str, ...]
    jobs: tuple[Job, ...]

    @property
    def is_hydras(self) -> bool:
        """Whether it needs Hydra's application, for a launcher say."""
        return any(override.is_hydra_override() for override in composition.parse(self.overrides))


def plan(name: str, changes: Sequence[str] = ()) -> list[tuple[Stage, tuple[Sweep, ...]]]:
    """The stages of an experiment and what each trains, expanded and checked; nothing is run.

    Args:
        name: as `find` takes it.
        changes: overrides that replace a stage's override of the same key, else are added, in every stage that trains.

    Raises:
        ValueError: the file or an override does not fit; the sentence says in which stage.
    """
    path = find(name)
    made = load(path)
    planned: list[tuple[Stage, tuple[Sweep, ...]]] = []
    for number, stage in enumerate(made.stages, 1):
        try:
            _check_names(stage)
            base = [f"runs_dir={composition.literal(f'runs/experiments/{path.stem}')}", *(stage.train or ())]
            sweeps = tuple(map(_expanded, _overrides(stage, base, changes))) if stage.train is not None else ()
            if stage.adapt is not None:
                if not any(before for _, before in planned):
                    raise ValueError("there is nothing to adapt yet. Put a stage that trains before it")
                _check_adapt(stage.adapt)
            if stage.compare:
                _check_baseline(stage.compare.baseline, [sweep for _, before in planned for sweep in before])
        except (UnknownName, ValueError, OSError) as error:
            raise ValueError(f"{path.name}, stage {number} ({stage.kind}): {error}") from error
        planned.append((stage, sweeps))
    return planned


def _check_names(stage: Stage) -> None:
    from dgbench.leaderboard.adaptation import ranks_adaptations
    from dgbench.leaderboard.tables import FORMATS
    from dgbench.selection import selection

    for name in stage.per_algorithm:
        algorithms.place(name)
    if options := stage.table or stage.compare:
        selection(options.criterion)
    if stage.table and stage.table.of == "adapt":
        ranks_adaptations(**stage.table.model_dump(exclude={"of", "metric"}))
    if stage.table and stage.table.format not in FORMATS:
        raise UnknownName("format", stage.table.format, FORMATS)
    if stage.table and stage.table.protocol not in (None, *composition.presets()):
        raise UnknownName("protocol", stage.table.protocol or "", composition.presets())


def _check_adapt(overrides: Sequence[str]) -> None:
    """The names that an adaptation needs; its runs need not be there yet."""
    from dgbench import adaptation

    for chosen in itertools.product(*map(expansion.choices, composition.parse(overrides))):
        adaptation.check(adaptation.compose([f"{key}={text}" for key, text, _ in chosen]))


def _overrides(stage: Stage, base: Sequence[str], changes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if not stage.per_algorithm:
        yield replaced(base, changes)
        return
    if "algorithm" in map(Override.get_key_element, composition.parse([*base, *changes])):
        raise ValueError(
            f"algorithm=... does not go with per_algorithm, which names {', '.join(stage.per_algorithm)}. "
            "Leave one of the two out."
        )
    for name, own in stage.per_algorithm.items():
        yield replaced(base, [f"algorithm={name}", *own], changes)


def replaced(*several: Sequence[str]) -> tuple[str, ...]:
    """Overrides one after the other, where a later one of the same key takes the place of an earlier one.

    >>> replaced(["optim.lr=1", "network=mlp"], ["trial_seed=2", "optim.lr=3"])
    ('optim.lr=3', 'network.name=mlp', 'trial_seed=2')
    """
    made: dict[str, str] = {}
    for overrides in several:
        made |= {o.get_key_element(): o.input_line or "" for o in composition.parse(overrides)}
    return tuple(made.values())


def _expanded(overrides: tuple[str, ...]) -> Sweep:

    # Hyper-parameters that an earlier stage is to choose are not there yet; they change no number of runs.
    known = [line for line in overrides if not line.startswith("hparams_from=")]
    return Sweep(overrides, tuple(expansion.expand(known)))


def _check_baseline(baseline: str, sweeps: Sequence[Sweep]) -> None:
    from dgbench.leaderboard.aggregate import method_name

    if any(line.startswith("hparams_from=") for sweep in sweeps for line in sweep.overrides):
        return  # The names of tuned methods are known when they are there.
    runs = [job.run for sweep in sweeps for job in sweep.jobs]
    known = dict.fromkeys(method_name(run.algorithm, run.keys.averaging, run.keys.label or "", "", "") for run in runs)
    if baseline not in known:
        raise UnknownName("baseline", baseline, known)


def run(name: str, changes: Sequence[str] = (), *, only_plan: bool = False) -> int:
    """Do what is left of an experiment.

    Args:
        name: as `find` takes it.
        changes: as `plan` takes them.
        only_plan: stop after the plan is printed.

    Returns:
        The exit code: 1 if runs failed.
    """
    stages = plan(name, changes)
    for number, (stage, sweeps) in enumerate(stages, 1):
        console.out.print(f"{number}. {_in_words(stage, sweeps)}", highlight=False, markup=False)
    if only_plan:
        return 0
    runs_dirs: list[str] = []
    before: list[Sweep] = []
    code = 0
    for number, (stage, sweeps) in enumerate(stages, 1):
        console.out.print(f"\n{number}. {stage.kind}", style="bold", highlight=False)
        runs_dirs = sorted({*runs_dirs, *(job.run.keys.runs_dir for sweep in sweeps for job in sweep.jobs)})
        if stage.adapt is not None:
            launchers = [line for line in changes if line.lstrip("+").startswith("hydra")]
            code = max(code, _adapt([*stage.adapt, *launchers], _made(before), runs_dirs))
        elif stage.train is None:
            _show(stage, runs_dirs)
        for sweep in sweeps:
            ended = _train(sweep)
            # Otherwise it was stopped, or an error was said.
            if ended and not _has_failed_runs(sweep):
                return ended
            code = max(code, ended)
        before += sweeps
    return code


def _folders(sweep: Sweep) -> list[RunFolder]:
    # Expanded again: by now all hyper-parameters are known, and with them the names of the runs.
    return [job.run.folder for job in expansion.expand(sweep.overrides)]


def _has_failed_runs(sweep: Sweep) -> bool:
    return any(folder.status() == "failed" for folder in _folders(sweep))


def _made(sweeps: Sequence[Sweep]) -> list[str]:
    """The runs of some stages, without those that later stages put beside them."""
    return [str(folder.path) for sweep in sweeps for folder in _folders(sweep) if folder.status()]


def _in_words(stage: Stage, sweeps: Sequence[Sweep]) -> str:
    if options := stage.table or stage.compare:
        said = options.model_dump(exclude_unset=True)
        return f"{stage.kind}: {', '.join(f'{key} {value}' for key, value in said.items()) or 'as usual'}"
    if stage.adapt is not None:
        return f"adapt: {' '.join(stage.adapt)}"
    runs = [job.run for sweep in sweeps for job in sweep.jobs]
    methods = dict.fromkeys(run.keys.label or run.algorithm for run in runs)
    data = dict.fromkeys(run.dataset_name for run in runs)
    return f"train: {len(runs)} runs, {', '.join(methods)} on {', '.join(data)}"


def _show(stage: Stage, runs_dirs: Sequence[str]) -> None:
    from dgbench.leaderboard import tables
    from dgbench.leaderboard.adaptation import adaptations
    from dgbench.leaderboard.compare import compare

    paths = [Path(runs_dir).expanduser() for runs_dir in runs_dirs]
    made: Any
    if stage.table and stage.table.of == "adapt":
        made = adaptations(_adapted(runs_dirs), stage.table.metric)
    elif stage.compare:
        made = compare(paths, **stage.compare.model_dump())
    else:
        made = tables.table(paths, **(stage.table or TableOptions()).model_dump(exclude={"of"}))
    if isinstance(made, str):
        sys.stdout.write(made if made.endswith("\n") else made + "\n")
    else:
        console.out.print(made)


def _adapt(overrides: Sequence[str], runs: Sequence[str], runs_dirs: Sequence[str]) -> int:
    """Adapt some runs; the exit code."""
    from dgbench import adapt_sweep, cli

    into = composition.literal(_adapted(runs_dirs))
    arguments = [f"runs={composition.literal(runs)}", f"runs_dir={into}", *overrides]
    if any(override.is_hydra_override() for override in composition.parse(arguments)):
        return _launched("adapt", arguments)
    return cli.show_report(adapt_sweep.run(arguments))


def _adapted(runs_dirs: Sequence[str]) -> str:
    return str(Path(runs_dirs[0]).expanduser() / ADAPTED)


def _train(sweep: Sweep) -> int:
    """One sweep; its exit code."""
    from dgbench import cli, sweeper

    if sweep.is_hydras:
        return _launched("train", sweep.overrides)
    return cli.show_report(sweeper.run_sweep(sweep.overrides))


def _launched(command: str, overrides: Sequence[str]) -> int:
    """A sweep as Hydra's application; its exit code."""
    from dgbench import application

    arguments = sys.argv
    try:
        return application.main(command, ["-m", *overrides])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = arguments
