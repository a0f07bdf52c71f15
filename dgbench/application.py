"""`dgbench train` and `dgbench adapt` as Hydra applications: flags, help, multirun and launchers are Hydra's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dgbench import composition, plugins
from dgbench.cli import show_report
from dgbench.console import sentences
from dgbench.lock import RunIsLocked
from dgbench.writing import CannotWrite
from hydra_plugins.dgbench_sweeper import DGBenchSweeper

# Each a module with CONFIG, its file; `prepare`, what Hydra must know before it composes; `job`, what Hydra calls;
# and `sweep`.
COMMANDS = ("train", "adapt")


def main(command: str, arguments: Sequence[str]) -> int:
    """Run an application.

    Args:
        command: of `COMMANDS`.
        arguments: the command line after `dgbench train`.

    Returns:
        The exit code.
    """
    its = _module(command)
    asked = get_args_parser().parse_args(list(arguments))
    flags = list(arguments)
    for override in asked.overrides:
        flags.remove(override)
    parsed = composition.parse(asked.overrides)
    is_sweep = asked.multirun and not (asked.cfg or asked.info or asked.help or asked.hydra_help)
    lines = its.prepare(parsed, composes=not (is_sweep or asked.help or asked.hydra_help))
    if is_sweep:
        lines = _stashed(parsed, command)
    if DGBenchSweeper.__name__ not in {cls.__name__ for cls in Plugins.instance().discover()}:
        # An editable install has no folder `hydra_plugins` that Hydra could scan.
        Plugins.instance().register(DGBenchSweeper)
    sys.argv = [f"dgbench {command}", *flags, *lines]
    hydra.main(version_base=None, config_path="pkg://dgbench.configs", config_name=its.CONFIG)(its.job)()
    return 0


def _module(command: str) -> ModuleType:
    return import_module(f"dgbench.{command}_command")


def _stashed(parsed: Sequence[Any], command: str) -> list[str]:
    """Hydra composes the application's own settings; what a run is made of goes to the sweeper as it is."""
    kept = [o.input_line for o in parsed if o.is_hydra_override()]
    kept += [o.input_line for o in parsed if o.get_key_element() == "runs_dir" and not o.is_sweep_override()]
    stash = [o.input_line for o in parsed if not o.is_hydra_override() and o.get_key_element() != "plugins"]
    # Also those of the environment variable, which another machine does not have.
    stash += [composition.in_effect()] if plugins.in_effect() else []
    return [*kept, f"hydra.sweeper.command={command}", f"hydra.sweeper.arguments={composition.literal(stash)}"]


def run_job(composed: DictConfig, work: Callable[[Any], None], run: Callable[[Any], int]) -> str | None:
    """One job.

    Args:
        composed: its configuration.
        work: does it in a worker process of a sweep.
        run: does it on the command line; gives the exit code, with which the process ends.

    Returns:
        In a worker process why the job could not be written, if so.
    """
    container = OmegaConf.to_container(composed, resolve=True)
    if _is_worker():
        try:
            work(container)
        except (RunIsLocked, CannotWrite) as error:
            # The other jobs of the sweep go on; the parent says it.
            return str(error)
        return None
    sys.exit(sentences(lambda: run(container)))


def _is_worker() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_jobs(command: str, arguments: Sequence[str], launch: Callable[[Any], Any] | None) -> None:
    """A sweep; ends the process with its exit code."""
    sys.exit(sentences(lambda: show_report(_module(command).sweep(arguments, launch))))
