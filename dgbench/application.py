"""`dgbench train` as a Hydra application: its flags, help, multirun and launchers behave as Hydra's do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dgbench import composition, config, devices, plugins, sweeper
from dgbench.cli import show_report
from dgbench.console import sentences
from dgbench.lock import RunIsLocked
from dgbench.writing import CannotWrite
from hydra_plugins.dgbench_sweeper import DGBenchSweeper


def main(arguments: Sequence[str]) -> int:
    """Run the application.

    Args:
        arguments: the command line after `dgbench train`.

    Returns:
        The exit code.
    """
    asked = get_args_parser().parse_args(list(arguments))
    flags = list(arguments)
    for override in asked.overrides:
        flags.remove(override)
    parsed = composition.parse(asked.overrides)
    algorithm, dataset, _ = (composition.chosen(parsed, group) for group in ("algorithm", "dataset", "protocol"))
    composition.register(algorithm, dataset)
    lines = [override.input_line or "" for override in parsed]
    if asked.multirun and not (asked.cfg or asked.info or asked.help or asked.hydra_help):
        lines = _stashed(parsed)
    elif not asked.help and not asked.hydra_help:
        composition.compose([o.input_line or "" for o in parsed if not o.is_hydra_override()])  # for its sentences
    if DGBenchSweeper.__name__ not in {cls.__name__ for cls in Plugins.instance().discover()}:
        # An editable install has no folder `hydra_plugins` that Hydra could scan.
        Plugins.instance().register(DGBenchSweeper)
    sys.argv = ["dgbench train", *flags, *lines]
    hydra.main(version_base=None, config_path="pkg://dgbench.configs", config_name="config")(run_job)()
    return 0


def _stashed(parsed: Sequence[Any]) -> list[str]:
    """Hydra composes the application's own settings; what a run is made of goes to the sweeper as it is."""
    kept = [o.input_line for o in parsed if o.is_hydra_override()]
    kept += [o.input_line for o in parsed if o.get_key_element() == "runs_dir" and not o.is_sweep_override()]
    stash = [o.input_line for o in parsed if not o.is_hydra_override() and o.get_key_element() != "plugins"]
    # Also those of the environment variable, which another machine does not have.
    stash += [composition.in_effect()] if plugins.in_effect() else []
    return [*kept, f"hydra.sweeper.arguments={composition.literal(stash)}"]


def run_job(composed: DictConfig) -> str | None:
    """One run: in a worker process why it could not be written, if so; on the command line the exit code."""
    from dgbench.runner import execute

    container = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(container, dict)
    if _is_worker():
        try:
            run = config.resolve({str(key): value for key, value in container.items()})
            with devices.taken(run.keys.devices, run.keys.runs_per_device):
                execute(run)
        except (RunIsLocked, CannotWrite) as error:
            # The other runs of the sweep go on; the parent says it.
            return str(error)
        return None
    sys.exit(sentences(lambda: _run_one(container)))


def _is_worker() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _run_one(container: Any) -> int:
    from dgbench.runner import execute

    run = config.resolve(container)
    console = Console(stderr=True)
    with devices.taken(run.keys.devices, run.keys.runs_per_device), sweeper.progress_bars(console) as progress:
        steps = progress.add_task(run.label, total=run.protocol.num_steps)
        outcome = execute(run, lambda step: progress.update(steps, completed=step))
    said = outcome.status
    if outcome.skipped:
        said = "failed before; retry=true tries again" if said == "failed" else "was complete already"
    console.print(
        f"{run.label}: {said}{f': {outcome.reason}' if outcome.reason else ''}", highlight=False, markup=False
    )
    print(outcome.folder)
    return 1 if outcome.status == "failed" else 0


def run_jobs(arguments: Sequence[str], launch: Callable[[Any], Any] | None) -> None:
    """A sweep; ends the process with its exit code."""
    sys.exit(sentences(lambda: show_report(sweeper.run_sweep(arguments, launch))))
