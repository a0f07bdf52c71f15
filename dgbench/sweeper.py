"""Many runs: which of those that a command asks for are done, and running the rest."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dgbench import devices, record
from dgbench.description import own_sources
from dgbench.expansion import Job, expand
from dgbench.lock import RunIsLocked
from dgbench.writing import replace_file, writable

Launch = Callable[[Sequence[Sequence[str]]], Any]
"""Runs jobs in other processes, given the overrides of each."""


@dataclass(frozen=True)
class Report:
    """How the runs of a command ended."""

    counts: Mapping[str, int]
    failures: tuple[tuple[str, str], ...]
    """Label and reason of each failed run."""
    seconds: float
    refused: tuple[tuple[str, str], ...] = ()
    """Method and data, and why the method cannot be trained on them: these runs were left out."""


def pending(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are not done."""
    from dgbench.runner import is_done

    return [job for job in jobs if not is_done(job.run, job.run.folder)]


def run_sweep(
    arguments: Sequence[str],
    launch: Launch | None = None,
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
        jobs, refused = _possible(expand(arguments))
        todo = pending(jobs)
    _warn_of_changes(jobs, todo, console)
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
                with watched([job.run.folder for job in todo], progress):
                    launch([job.overrides for job in todo])
    return dataclasses.replace(_report(jobs, time.perf_counter() - started), refused=refused)


def _possible(jobs: Sequence[Job]) -> tuple[list[Job], tuple[tuple[str, str], ...]]:
    """The jobs without those that are refused, if these are to be skipped, and why they are refused."""
    from dgbench.assembly import refusal

    kept, reasons = [], {}
    for job in jobs:
        run = job.run
        reason = refusal(run) if run.keys.skip_refused else None
        if reason is None:
            kept.append(job)
        else:
            reasons[f"{run.keys.label or run.algorithm} on {run.dataset_name}"] = reason
    return kept, tuple(reasons.items())


def _warn_of_changes(jobs: Sequence[Job], todo: Sequence[Job], console: Console) -> None:
    """Say so if runs that count as done were made by another text of the user's own components."""
    left = {job.run.run_id for job in todo}
    changed = set()
    for job in jobs:
        if job.run.run_id not in left and (sources := own_sources(job.run)):
            before = (job.run.folder.read() or {}).get("sources", {})
            names = {"algorithm": job.run.algorithm, "dataset": job.run.dataset_name}
            changed |= {names[kind] for kind, source in sources.items() if before.get(kind) != source}
    if changed:
        console.print(
            f"The files of {', '.join(sorted(changed))} have changed since runs of theirs were made, but not their "
            "version. Raise it if numbers change, or run them again with overwrite=true.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _run_here(todo: Sequence[Job], progress: Progress) -> None:
    from dgbench.runner import execute

    total = progress.add_task("runs", total=len(todo))
    for job in todo:
        steps = progress.add_task(job.run.label, total=job.run.protocol.num_steps)
        try:
            execute(dataclasses.replace(job.run), functools.partial(_completed, progress, steps))
        except RunIsLocked as error:
            progress.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        progress.remove_task(steps)
        progress.advance(total)


def _completed(progress: Progress, task: Any, step: int) -> None:
    progress.update(task, completed=step)


class watched:  # noqa: N801
    """Shows how many of some runs are finished while other processes run them."""

    def __init__(self, todo: Sequence[record.RunFolder], progress: Progress):
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
            near = [folder for folder in near if folder.status() in (None, "running", "interrupted")]
            done = len(self.waiting) - len(near) - len(far)
            self.waiting = near + far
            self.progress.advance(total, done)


def progress_bars(console: Console) -> Progress:
    """Bars with counts, time spent and time left, gone when done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
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
