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

from dgbench import adapt_runner, composition
from dgbench.adaptation import Adaptation, expand
from dgbench.algorithm import Algorithm
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
    swept = [o.input_line for o in composition.parse(arguments) if o.is_sweep_override()]
    if not multirun and (several := [line for line in swept if not str(line).startswith("runs=")]):
        raise ValueError(f"{several[0]}: several values ask for several adaptations of each run. Add -m.")
    every = expand(arguments)
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
    # One model at a time: all of them may not fit into memory.
    loaded = functools.lru_cache(maxsize=1)(load)
    refused: dict[str, str] = {}
    for adaptation in sorted(every, key=lambda a: str(a.trained.path)):
        if not adaptation.keys.skip_refused or adapt_runner.is_done(adaptation):
            continue
        # A model that is not there fails by itself, with its reason.
        with contextlib.suppress(FileNotFoundError):
            algorithm = loaded(adaptation.trained.path, adaptation.keys.step)
            if reason := _refusal(adaptation, algorithm):
                refused[adaptation.run_id] = reason
    reasons = {
        f"{a.adapter} on {a.columns['dataset']}, {a.columns['network']}": refused[a.run_id]
        for a in every
        if a.run_id in refused
    }
    return [a for a in every if a.run_id not in refused], tuple(reasons.items())


def _refusal(adaptation: Adaptation, algorithm: Algorithm) -> str | None:
    needs, given = adapters[adaptation.adapter].needs, adaptation.keys.batch_size
    if given < needs.batch_size:
        return f"needs batches of at least {needs.batch_size} examples, got batch_size={given}"
    return needs.unmet(algorithm, ())  # whatever it reads of the source will be there


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
