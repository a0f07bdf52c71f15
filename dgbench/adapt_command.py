"""What `dgbench adapt` does as a Hydra application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from dgbench import adapt_sweep, adaptation, application, composition
from dgbench.cli import show_report

CONFIG = "adapt"
sweep = adapt_sweep.run


def prepare(parsed: Sequence[Override], *, composes: bool) -> list[str]:
    """Make the adapters and streams that are named Hydra's choices.

    Args:
        parsed: the overrides.
        composes: whether Hydra will compose all of them; what does not fit is said in our sentences first.

    Returns:
        The overrides for Hydra.

    Raises:
        ValueError: several values where Hydra composes one job.
    """
    for group in adaptation.GROUPS:
        adaptation.register(parsed, group)
    lines = []
    for override in parsed:
        line = override.input_line or ""
        if composes and override.is_sweep_override() and not override.is_hydra_override():
            if override.get_key_element() != "runs":
                raise ValueError(f"{line}: several values ask for several adaptations of each run. Add -m.")
            line = f"runs={composition.literal([str(value) for value in override.sweep_iterator()])}"
        lines.append(line)
    if composes:
        known = zip(parsed, lines, strict=True)
        adaptation.compose([line for override, line in known if not override.is_hydra_override()])
    return lines


def job(composed: DictConfig) -> str | None:
    """The adaptations of some trained runs."""
    return application.run_job(composed, work, run)


def work(container: Any) -> None:
    """The adaptation of a sweep."""
    from dgbench.adapt_runner import execute

    (trained,) = adaptation.trained_runs(container["runs"])
    execute(adaptation.resolve(container, trained))


def run(container: Any) -> int:
    """The adaptations of all trained runs that are named, shown; the exit code."""
    every = [adaptation.resolve(container, trained) for trained in adaptation.trained_runs(container["runs"])]
    return show_report(adapt_sweep.run_all(every))
