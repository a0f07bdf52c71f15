"""What `dgbench train` does as a Hydra application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from rich.console import Console

from dgbench import application, composition, config, devices, sweeper

CONFIG = "config"
sweep = sweeper.run_sweep


def prepare(parsed: Sequence[Override], *, composes: bool) -> list[str]:
    """Make the components that are named Hydra's choices.

    Args:
        parsed: the overrides.
        composes: whether Hydra will compose all of them; what does not fit is said in our sentences first.

    Returns:
        The overrides for Hydra.
    """
    algorithm, dataset, _ = (composition.chosen(parsed, group) for group in ("algorithm", "dataset", "protocol"))
    composition.register(algorithm, dataset)
    if composes:
        composition.compose([o.input_line or "" for o in parsed if not o.is_hydra_override()])
    return [override.input_line or "" for override in parsed]


def job(composed: DictConfig) -> str | None:
    """One run."""
    return application.run_job(composed, work, run)


def work(container: Any) -> None:
    """One run of a sweep."""
    from dgbench.runner import execute

    made = config.resolve(container)
    with devices.taken(made.keys.devices, made.keys.runs_per_device):
        execute(made)


def run(container: Any) -> int:
    """One run, shown; the exit code."""
    from dgbench.runner import execute

    made = config.resolve(container)
    console = Console(stderr=True)
    with devices.taken(made.keys.devices, made.keys.runs_per_device), sweeper.progress_bars(console) as progress:
        steps = progress.add_task(made.label, total=made.protocol.num_steps)
        outcome = execute(made, lambda step: progress.update(steps, completed=step))
    said = outcome.status
    if outcome.skipped:
        said = "failed before; retry=true tries again" if said == "failed" else "was complete already"
    console.print(
        f"{made.label}: {said}{f': {outcome.reason}' if outcome.reason else ''}", highlight=False, markup=False
    )
    print(outcome.folder)
    return 1 if outcome.status == "failed" else 0
