"""Many adaptations: which of those that a command asks for are done, and making the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dgbench import adapt_runner
from dgbench.adaptation import Adaptation, expand
from dgbench.lock import RunIsLocked
from dgbench.registry import adapters
from dgbench.sweeper import Launch, Report, progress_bars, watched
from dgbench.trained import load


def run(arguments: Sequence[str], launch: Launch | None = None, console: Console | None = None) -> Report:
    """Every adaptation that some overrides ask for and that is not done yet; as `sweeper.run_sweep` of runs."""
    return run_all(expand(arguments), launch, console)


def run_all(every: Sequence[Adaptation], launch: Launch | None = None, console: Console | None = None) -> Report:
    """Those of some adaptations that are not done yet; arguments as of `run`."""
    console = console or Console(stderr=True)
    started = time.perf_counter()
    every, refused = _possible(every)
    todo = [adaptation for adaptation in every if not adapt_runner.is_done(adaptation)]
    if not todo:
        console.print(f"Nothing to do: {len(every)} of {len(every)} adaptations are done.")
    else:
        console.print(f"{len(todo)} of {len(every)} adaptations to do.")
        with progress_bars(console) as progress:
            if launch is None:
                _run_here(todo, progress)
            else:
                with watched([adaptation.folder for adaptation in todo], progress):
                    launch([adaptation.overrides for adaptation in todo])
    return dataclasses.replace(_report(every, time.perf_counter() - started), refused=refused)


def _possible(every: Sequence[Adaptation]) -> tuple[list[Adaptation], tuple[tuple[str, str], ...]]:
    """The adaptations without those that are refused, if these are to be skipped, and why they are refused."""
    # One model at a time: all of them may not fit into memory.
    loaded = functools.lru_cache(maxsize=1)(load)
    refused: dict[str, str] = {}
    for adaptation in sorted(every, key=lambda a: str(a.trained.path)):
        if not adaptation.keys.skip_refused or adapt_runner.is_done(adaptation):
            continue
        # A model that is not there, or not the one of the criterion, fails by itself, with its reason.
        with contextlib.suppress(FileNotFoundError, ValueError):
            algorithm = loaded(adaptation.trained.path, adaptation.keys.step, adaptation.keys.criterion)
            # Whatever it reads of the source will be there.
            if reason := adapters[adaptation.adapter].needs.unmet(algorithm, ()):
                refused[adaptation.run_id] = reason
    reasons = {
        f"{a.adapter} on {a.columns['dataset']}, {a.columns['network']}": refused[a.run_id]
        for a in every
        if a.run_id in refused
    }
    return [a for a in every if a.run_id not in refused], tuple(reasons.items())


def _run_here(todo: Sequence[Adaptation], progress: Progress) -> None:
    total = progress.add_task("adaptations", total=len(todo))
    for adaptation in todo:
        batches = progress.add_task(adaptation.label, total=None)

        def said(done: int, of: int, batches=batches) -> None:
            progress.update(batches, completed=done, total=of)

        try:
            adapt_runner.execute(adaptation, said)
        except RunIsLocked as error:
            progress.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        progress.remove_task(batches)
        progress.advance(total)


def _report(every: Sequence[Adaptation], seconds: float) -> Report:
    counts: Counter[str] = Counter()
    failures = []
    for adaptation in every:
        status = adaptation.folder.status() or "not started"
        counts[status] += 1
        if status == "failed":
            failures.append((adaptation.label, str((adaptation.folder.read() or {}).get("reason"))))
    return Report(counts, tuple(failures), seconds)


def adapt(**keys: object) -> Report:
    """Adaptations, as `dgbench adapt -m` with the same keys; a list means several values.

    Args:
        keys: e.g. `runs="runs/erm", adapter=["tent", "t3a"], stream="online", batch_size=64`.
    """
    from dgbench.api import overrides_of

    runs = keys.pop("runs", None)
    named = [] if runs is None else [f"runs=[{','.join(map(repr, map(str, _listed(runs))))}]"]
    return run([*named, *overrides_of(keys, sweep=True)])


def _listed(runs: object) -> list[object]:
    return [runs] if isinstance(runs, str | Path) else list(runs)  # type: ignore[call-overload]
