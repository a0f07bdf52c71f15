"""Many runs: which ones a command asks for, which are done, and running the rest.

Hydra composes once per distinct (method, dataset, preset); everything else is set in the composed configuration, so
that thousands of jobs expand in seconds.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dgbench import composition, config, devices, record
from dgbench.lock import RunIsLocked
from dgbench.protocol import DOMAIN_SETS, domain_sets, named_domains
from dgbench.run import Run, open_dataset
from dgbench.selection import selection
from dgbench.writing import replace_file, writable

# Overrides that change which keys there are; the rest only change values.
GROUPS = ("algorithm", "dataset", "protocol")


@dataclass(frozen=True)
class Job:
    """One run that a command asks for."""

    run: Run
    overrides: tuple[str, ...]
    """What a worker process composes it from."""


@dataclass(frozen=True)
class Report:
    """How the runs of a command ended."""

    counts: Mapping[str, int]
    failures: tuple[tuple[str, str], ...]
    """Label and reason of each failed run."""
    seconds: float


def expand(arguments: Sequence[str]) -> list[Job]:
    """The runs that some overrides ask for, each once; `test_domains=each` is expanded per dataset.

    Raises:
        UnknownName: a name or key that does not exist.
        ValueError: an override that cannot be read, or a value that does not fit.
    """
    overrides = [o for o in composition.parse(arguments) if not o.is_hydra_override()]
    # What takes one value is in the composition already, its interpolations resolved.
    swept = {o.get_key_element() for o in overrides if o.is_sweep_override()} - set(GROUPS)
    jobs: dict[str, Job] = {}
    bases: dict[tuple[str, ...], dict[str, Any]] = {}
    for chosen in itertools.product(*map(choices, overrides)):
        lines = [f"{key}={text}" for key, text, _ in chosen]
        groups = tuple(line for line, (key, _, _) in zip(lines, chosen, strict=True) if key in GROUPS)
        if groups not in bases:
            bases[groups] = composition.compose(lines)
        composed = bases[groups]
        for key, _, value in chosen:
            if key in swept:
                composed = _with(composed, key.lstrip("+").split("."), value)
        for train, test in _domain_sets(composed):
            run = config.resolve({**composed, "test_domains": test, "train_domains": train})
            kept = [line for line in lines if not line.startswith(("test_domains=", "train_domains="))]
            kept += [] if train is None else [f"train_domains=[{','.join(map(str, train))}]"]
            jobs.setdefault(run.run_id, Job(run, (*kept, f"test_domains=[{','.join(test)}]")))
    return list(jobs.values())


def choices(override: Override) -> list[tuple[str, str, Any]]:
    """Key, text and value of each value that an override takes."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [(key, override.get_value_element_as_str(), override.value())]
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line}: expected values separated by commas, or range(n).")
    texts = list(override.sweep_string_iterator())
    return [(key, text, composition.parse([f"{key}={text}"])[0].value()) for text in texts]


def _with(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with one value changed; what lies off the path is shared, as copying all of it for each run is slow."""
    first, *rest = path
    return {**node, first: _with(node[first], rest, value) if rest else value}


def _domain_sets(composed: Mapping[str, Any]) -> list[tuple[list[str | int] | None, list[str]]]:
    """Training domains (None: those that are left) and test domains of each run."""
    node = dict(composed["dataset"])
    dataset = open_dataset(node.pop("name"), composed["data_dir"], node)
    names, wanted, trained = dataset.domain_names, composed["test_domains"], composed["train_domains"]
    if wanted == "each_train" and trained:
        raise ValueError(
            f"test_domains=each_train trains on one domain after the other, but train_domains={trained} names them. "
            "Leave one of the two out."
        )
    if wanted in DOMAIN_SETS:
        taken = named_domains([*(composed["val_domains"] or []), *(trained or [])], names, "val_domains")
        names = tuple(name for name in names if name not in taken)
    sets = domain_sets(wanted, names, ((), ()) if trained else dataset.designated)
    criteria = composed["criteria"]
    if criteria and not isinstance(criteria, str):
        needs_pairs = any(selection(name).needs_pairs for name in criteria)
        if wanted == "pairs" and not needs_pairs:
            raise ValueError(
                f"test_domains=pairs serves domain_cross_validation, which criteria=[{','.join(criteria)}] leaves out. "
                "Name it there, or use test_domains=each."
            )
        if wanted == "each" and needs_pairs and len(sets) > 1:
            sets += domain_sets("pairs", names)
    return [(trained if train is None else [*train], test) for train, test in sets]


def pending(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are not done."""
    from dgbench.runner import is_done

    return [job for job in jobs if not is_done(job.run, job.run.folder)]


def run_sweep(
    arguments: Sequence[str],
    launch: Callable[[Sequence[Sequence[str]]], Any] | None = None,
    console: Console | None = None,
) -> Report:
    """Everything that some overrides ask for and that is not done yet.

    Args:
        arguments: overrides in Hydra's grammar, with several values per key.
        launch: runs the jobs, given the overrides of each; None: in this process, one after the other.
        console: where progress is shown.

    Raises:
        CannotWrite: a folder cannot be written.
        Interrupted: SIGINT or SIGTERM; the same command continues.
    """
    console = console or Console(stderr=True)
    started = time.perf_counter()
    with console.status("Expanding the sweep"):
        jobs = expand(arguments)
        todo = pending(jobs)
    if not todo:
        failed = sum(job.run.folder.status() == "failed" for job in jobs)
        also = f", {failed} failed before (retry=true tries them again)" if failed else ""
        console.print(f"Nothing to do: {len(jobs) - failed} of {len(jobs)} runs are done{also}.")
    else:
        for runs_dir in {job.run.keys.runs_dir for job in jobs}:
            _write_plan(
                Path(runs_dir).expanduser(),
                [job for job in jobs if job.run.keys.runs_dir == runs_dir],
                arguments,
            )
        console.print(f"{len(todo)} of {len(jobs)} runs to do.")
        with progress_bars(console) as progress:
            if launch is None:
                with devices.taken(todo[0].run.keys.devices, todo[0].run.keys.runs_per_device):
                    _run_here(todo, progress)
            else:
                with _watched(todo, progress):
                    launch([job.overrides for job in todo])
    return _report(jobs, time.perf_counter() - started)


def _run_here(todo: Sequence[Job], progress: Progress) -> None:
    from dgbench.runner import execute

    total = progress.add_task("runs", total=len(todo))
    for job in todo:
        steps = progress.add_task(job.run.label, total=job.run.protocol.num_steps)
        try:
            execute(job.run, functools.partial(_completed, progress, steps))
        except RunIsLocked as error:
            progress.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        progress.remove_task(steps)
        progress.advance(total)


def _completed(progress: Progress, task: Any, step: int) -> None:
    progress.update(task, completed=step)


class _watched:  # noqa: N801
    """Shows how many of some runs are finished while other processes run them."""

    def __init__(self, todo: Sequence[Job], progress: Progress):
        self.waiting, self.progress = list(todo), progress
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        total = self.progress.add_task("runs", total=len(self.waiting))
        is_last_look = False
        while not is_last_look:
            is_last_look = self.stop.wait(2.0)
            # Launchers start jobs in order: the first few that are not finished are the ones to look at.
            near, far = self.waiting[:256], self.waiting[256:]
            near = [job for job in near if job.run.folder.status() in (None, "running", "interrupted")]
            done = len(self.waiting) - len(near) - len(far)
            self.waiting = near + far
            self.progress.advance(total, done)


def progress_bars(console: Console) -> Progress:
    """Bars with counts, time spent and time left, gone when done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=4,
    )


def _report(jobs: Sequence[Job], seconds: float) -> Report:
    counts: Counter[str] = Counter()
    failures = []
    for job in jobs:
        folder = job.run.folder
        status = folder.status() or "not started"
        counts[status] += 1
        if status in ("failed", "diverged"):
            failures.append((job.run.label, (folder.read() or {}).get("reason") or ""))
    return Report(counts, tuple(failures), seconds)


def _write_plan(runs_dir: Path, jobs: Sequence[Job], arguments: Sequence[str]) -> None:
    """What was asked for, so that `status` knows what is still missing."""
    plan = {
        "arguments": list(arguments),
        "runs": {job.run.run_id: [job.run.dataset_name, job.run.algorithm, job.run.label] for job in jobs},
    }
    folder = runs_dir / "sweeps"
    with writable(runs_dir):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plan, indent=0)
    name = record.identity_hash(plan["runs"])  # type: ignore[arg-type]
    replace_file(folder / f"{name}.json", lambda file: file.write(text.encode("utf-8")))


def status(paths: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """How far the sweeps in some folders are.

    Returns:
        `counts` of runs by status; how many were `planned`, are `left` and `not started`; `failures` with their
        reasons; `seconds_left` by the mean time of runs of the same data and method, NaN before there is one.
    """
    roots = [Path(paths)] if isinstance(paths, str | Path) else list(map(Path, paths))
    statuses: dict[str, str | None] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    failures = []
    for folder in record.find(roots):
        said = folder.read() or {}
        statuses[folder.path.name] = folder.status()
        if said["status"] in ("failed", "diverged"):
            failures.append((said["label"], said["reason"]))
        if said.get("seconds"):
            columns = said["columns"]
            seconds.setdefault((columns["dataset"], columns["algorithm"]), []).append(said["seconds"])
    planned: dict[str, list[str]] = {}
    for root in roots:
        for plan in sorted((root / "sweeps").glob("*.json")):
            planned |= json.loads(plan.read_text("utf-8"))["runs"]
    missing = [run_id for run_id in planned if run_id not in statuses]
    left = [facts for run_id, facts in planned.items() if statuses.get(run_id) in (None, "running", "interrupted")]
    every = [value for values in seconds.values() for value in values]
    total = 0.0
    for dataset, algorithm, _ in left:
        known = seconds.get((dataset, algorithm), every)
        total += sum(known) / len(known) if known else float("nan")
    counts = Counter(str(value) for value in statuses.values())
    return {
        "counts": {name: counts[name] for name in record.STATUSES if counts[name]},
        "not started": len(missing),
        "planned": len(planned),
        "left": len(left),
        "failures": failures,
        "seconds_left": total / max(1, counts["running"]),
    }
