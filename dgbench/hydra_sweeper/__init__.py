"""Hydra's way into `dgbench.sweeper`; found by Hydra as `hydra_plugins.dgbench_sweeper`.

Imported at every start of a Hydra application, so it imports nothing heavy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class DGBenchSweeper(Sweeper):
    """Expands `test_domains=each` per dataset, drops what is done, and launches the rest.

    Args:
        command: which application, `train` or `adapt`.
        arguments: the overrides of the command line. They do not pass through Hydra's own composition, which knows
            nothing of keys that only some of the swept methods have.
    """

    def __init__(self, arguments: list[str], command: str = "train"):
        self.command = command
        self.arguments = list(arguments)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher, unless it is Hydra's serial one: then the runs share this process."""
        from hydra.core.plugins import Plugins

        self.launcher: Any = None
        if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )

    def sweep(self, arguments: list[str]) -> Any:
        """Run what is asked for; ends the process."""
        from dgbench.application import run_jobs

        launch = None
        if self.launcher is not None:

            def launch(jobs: Any) -> None:
                for job in self.launcher.launch([list(job) for job in jobs], initial_job_idx=0):
                    if job.return_value is not None:  # raises what the job raised
                        print(job.return_value, file=sys.stderr)

        run_jobs(self.command, [*arguments, *self.arguments], launch)
