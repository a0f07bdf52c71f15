"""Many adaptations: which of those that a command asks for are done, and making the rest."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dgbench import adapt_runner
from dgbench.adaptation import Adaptation, expand
from dgbench.lock import RunIsLocked
from dgbench.registry import adapters
from dgbench.sweeper import Report, progress_bars
from dgbench.trained import load


def run(arguments: Sequence[str], *, multirun: bool = True, console: Console | None = None) -> Report:
    """Every adaptation that some overrides ask for and that is not done yet, one after the other.

    Args:
        arguments: overrides in Hydra's grammar.
        multirun: whether a key may have several values; `runs` may always name many.
        console: where progress is shown.

    Raises:
        ValueError: several values without `multirun`.
        CannotWrite: a folder cannot be written.
        Interrupted: SIGINT or SIGTERM; the same command continues.
    """
    console = console or Console(stderr=True)
    started = time.perf_counter()
    every = expand(arguments)
    if not multirun and len({(a.adapter, a.stream, a.keys.seed) for a in every}) > 1:
        raise ValueError("Several values of one key ask for several adaptations of each run. Add -m.")
    every, refused = _possible(every)
    todo = [adaptation for adaptation in every if not adapt_runner.is_done(adaptation)]
    if not todo:
        console.print(f"Nothing to do: {len(every)} of {len(every)} adaptations are done.")
    else:
        console.print(f"{len(todo)} of {len(every)} adaptations to do.")
        _run(todo, console)
    return dataclasses.replace(_report(every, time.perf_counter() - started), refused=refused)


def _possible(every: Sequence[Adaptation]) -> tuple[list[Adaptation], tuple[tuple[str, str], ...]]:
    """The adaptations without those that are refused, if these are to be skipped, and why they are refused."""
    loaded = functools.lru_cache(maxsize=None)(load)
    kept: list[Adaptation] = []
    reasons: dict[str, str] = {}
    for adaptation in every:
        reason = None
        if adaptation.keys.skip_refused and not adapt_runner.is_done(adaptation):
            # Whatever it reads of the source will be there.
            algorithm, source = loaded(adaptation.trained.path, adaptation.keys.step), ()
            reason = adapters[adaptation.adapter].needs.unmet(algorithm, source)
        if reason is None:
            kept.append(adaptation)
        else:
            columns = adaptation.columns
            reasons[f"{adaptation.adapter} on {columns['dataset']}, {columns['network']}"] = reason
    return kept, tuple(reasons.items())


def _run(todo: Sequence[Adaptation], console: Console) -> None:
    with progress_bars(console) as progress:
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
