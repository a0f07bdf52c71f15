"""What `logger=wandb` sends to Weights & Biases: a copy of what is recorded, which never decides anything."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import wandb
from pytorch_lightning.loggers.logger import Logger

from dgbench.run import Run

INIT_SECONDS = 30
FINISH_SECONDS = 300


class WandbLogger(Logger):
    """One wandb run per run, of the same id, under the run's folder; its steps are the run's.

    Lightning's own would hand the wandb run of the first run to all that follow in the process.
    """

    mode: ClassVar[str | None] = None
    """`offline` once the server was out of reach, so that a sweep waits for it once."""

    def __init__(self, run: Run):
        super().__init__()
        self.experiment = _begin(run)

    @property
    def name(self) -> str:
        """For messages of Lightning."""
        return "wandb"

    @property
    def version(self) -> str:
        """The run's id."""
        return self.experiment.id

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """All that decides the numbers was given at the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics by their paths: `split/domain/metric`, and `train/` for what `loss` returns."""
        with contextlib.suppress(wandb.Error):
            self.experiment.log(dict(metrics), step=step)

    def finish(self, exit_code: int) -> None:
        """End the wandb run, so that the next run in this process gets its own."""
        with contextlib.suppress(wandb.Error):
            self.experiment.finish(exit_code=exit_code)


@contextlib.contextmanager
def logged(run: Run) -> Iterator[WandbLogger]:
    """A logger for the duration of a run."""
    logger = WandbLogger(run)
    try:
        yield logger
    except BaseException:
        logger.finish(exit_code=1)
        raise
    logger.finish(exit_code=0)


def _begin(run: Run) -> Any:
    """Open the wandb run, offline where the server is out of reach."""
    try:
        return _open(run, WandbLogger.mode)
    except (wandb.Error, OSError) as error:
        WandbLogger.mode = "offline"
        wandb.teardown()  # it holds the id of the run that it could not open
        reason = " ".join(str(error).split())
        print(
            f"W&B is out of reach ({reason}). What it would get is kept beside each run: send it with "
            f"wandb sync {run.keys.runs_dir}/*/wandb/offline-run-*",
            file=sys.stderr,
        )
        return _open(run, WandbLogger.mode)


def _open(run: Run, mode: str | None) -> Any:
    if (mode or wandb.setup().settings.mode) == "online" and not _has_key():
        # wandb would ask for it in the middle of a progress bar.
        raise wandb.errors.UsageError("no API key: run wandb login")
    wanted: dict[str, Any] = {
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "console": "off",
        "silent": True,
        "reinit": "create_new",
    }
    known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "dgbench"),
        id=run.run_id,
        name=run.label,
        group=run.keys.group,
        dir=run.folder.path,
        config={**run.identity, "label": run.label},
        # A run that starts again takes the place of what was logged under its id.
        resume="allow" if run.folder.resume_file.exists() else None,
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(**known),
    )


def _has_key() -> bool:
    # Older versions cannot be told not to ask.
    if "prompt" in inspect.signature(wandb.login).parameters:
        return wandb.login(prompt=False)
    return bool(wandb.api.api_key)
