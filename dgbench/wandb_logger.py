"""What `logger=wandb` sends to Weights & Biases: a copy of what is recorded, which never decides anything.

One W&B run per run or adaptation, of the same id. Its config has the columns of run.json, and as `record` all of it, as
text: numbers that W&B parses come back with other types. The evaluations are its history; `dgbench wandb pull` makes
records of both again.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import wandb
from pytorch_lightning.loggers.logger import Logger

from dgbench.record import FINISHED, RunFolder
from dgbench.wandb_summary import summary

INIT_SECONDS = 30
FINISH_SECONDS = 60
# wandb keeps to these itself, but for its own start and end: where a server fails, its service may linger for minutes.
# Nor does it limit what is passed to that service, which takes less than a millisecond unless the service stands still.
GRACE_SECONDS = 10
# What W&B takes.
MAX_TAG = 64
MAX_GROUP = 128


class WandbLogger(Logger):
    """One W&B run, under the folder of a run or an adaptation; its steps are the run's.

    Whatever goes wrong with it, the run goes on: it is said once per process, that run sends nothing more, and from
    then on W&B keeps its files for `wandb sync` instead of sending them. No call of wandb is waited for without end.
    Lightning's own logger would hand the W&B run of the first run to all that follow in the process.

    Args:
        folder: its run.json says what is sent at the start.
    """

    mode: ClassVar[str | None] = None
    """`offline` once the server failed, so that a sweep waits for it once; `disabled` where even that fails."""

    has_said: ClassVar[bool] = False

    def __init__(self, folder: RunFolder):
        super().__init__()
        self.folder = folder
        self.experiment = self._begin()
        self._sizes: dict[str, int] = {}

    @property
    def name(self) -> str:
        """For messages of Lightning."""
        return "wandb"

    @property
    def version(self) -> str:
        """The run's id."""
        return self.folder.path.name

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """All that decides the numbers was given at the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics by their paths: `split/domain/metric`, and `train/` for what `loss` returns."""
        self._send(functools.partial(self._log, dict(metrics), step))

    def finish(self, is_stopped: bool = False) -> None:
        """Send how it ended, and end the W&B run, so that the next one in this process gets its own.

        Args:
            is_stopped: somebody wants the process to end: wait for the grace only.
        """
        try:
            self._send(self._end, 0 if is_stopped else FINISH_SECONDS)
        except BaseException:  # a signal, in the middle of the wait
            _leave_service()
            raise

    def _log(self, metrics: dict[str, float], step: int | None, run: Any) -> None:
        if not self._sizes and not all(key.startswith("train/") for key in metrics):
            # Known from the first evaluation on: a run that is killed can be read without its end.
            self._sizes = {key: n for line in self.folder.lines() for key, n in line["n"].items()}
            run.config.update({"n": self._sizes}, allow_val_change=True)
        run.log(metrics, step=step)

    def _end(self, run: Any) -> None:
        said = self.folder.read() or {}
        if said.get("kind") == "adapt":
            for line in self.folder.lines():
                for row in _rows(line):
                    run.log(row)
        run.config.update({"record": json.dumps(said)}, allow_val_change=True)
        run.summary.update(summary(self.folder))
        run.finish(exit_code=0 if said.get("status") in FINISHED else 1)
        _refuse_losses(run)

    def _begin(self) -> Any:
        """Open the W&B run, offline where the server is out of reach; None where even that fails."""
        if WandbLogger.mode == "disabled":
            return None
        reasons = []
        for mode in dict.fromkeys((WandbLogger.mode, "offline")):
            try:
                run = _within(INIT_SECONDS, functools.partial(_open, self.folder, mode))
            except BaseException as error:  # the library's own errors have many kinds, and none may stop a run
                _leave_service()
                if not isinstance(error, Exception):  # a signal, in the middle of the wait
                    raise
                reasons.append(error)
            else:
                if reasons:
                    self._give_up(reasons[0], f"What it would get is kept beside each run: {self._remedy}")
                return run
        self._give_up(reasons[0], "Nothing is sent to it or kept for it; the records are whole.", mode="disabled")
        return None

    def _send(self, call: Callable[[Any], Any], seconds: float = 0) -> None:
        if self.experiment is None:
            return
        try:
            _within(seconds, functools.partial(call, self.experiment))
        except Exception as error:  # as above
            self.experiment = None
            _leave_service()
            kept = "What it got of this run, and would get of later ones, is kept beside each"
            self._give_up(error, f"{kept}: {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"send it with wandb sync {self.folder.path.parent}/*/wandb/*run-*"

    @staticmethod
    def _give_up(reason: object, what_is_kept: str, mode: str = "offline") -> None:
        WandbLogger.mode = mode
        if not WandbLogger.has_said:
            WandbLogger.has_said = True
            print(f"W&B is out of reach ({' '.join(str(reason).split())}). {what_is_kept}", file=sys.stderr)


@contextlib.contextmanager
def logged(folder: RunFolder) -> Iterator[WandbLogger]:
    """A logger for the duration of a run or an adaptation.

    An exception that is no `Exception` asks the process to stop, and a scheduler kills it 30 s after it asked: such a
    one is held up for twice `GRACE_SECONDS` at most, to end the W&B run and to leave the service.

    Args:
        folder: with its run.json begun; what that says at the end, of the status too, is what W&B gets.
    """
    logger = WandbLogger(folder)
    try:
        yield logger
    except BaseException as error:
        logger.finish(is_stopped=not isinstance(error, Exception))
        raise
    logger.finish()


def _open(folder: RunFolder, mode: str | None) -> Any:
    if (mode or wandb.setup().settings.mode) == "online" and not _has_key():
        # wandb would ask for it in the middle of a progress bar.
        raise wandb.errors.UsageError("no API key: run wandb login")
    said = folder.read()
    assert said is not None, folder.path
    wanted: dict[str, Any] = {
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "finish_timeout_raises": True,
        "console": "off",
        "silent": True,
        "reinit": "create_new",
    }
    known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    columns = said["columns"]
    tags = [
        *columns["test_domains"].split(),
        *(columns[key] for key in ("algorithm", "dataset", "adapter", "stream") if key in columns),
    ]
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "dgbench"),
        id=said["run_id"],
        name=said["label"],
        # A sweep is what lies in one folder.
        group=(said["group"] or folder.path.resolve().parent.name)[:MAX_GROUP] or None,
        job_type=said["kind"],
        tags=sorted({tag[:MAX_TAG] for tag in tags}),
        dir=folder.path,
        config={**columns, "kind": said["kind"], "identity": said["identity"], "record": json.dumps(said)},
        # A run that starts again takes the place of what was logged under its id.
        resume="allow" if folder.resume_file.exists() else None,
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(**known),
    )
    if said["kind"] == "adapt":
        run.define_metric("position", hidden=True)
        run.define_metric("curve/*", step_metric="position")
        run.define_metric("line", hidden=True, summary="none")
    return run


def _leave_service() -> None:
    """The next run starts a service of its own.

    One that could not open a run holds its id; one that stands still would keep the process from ending.
    """
    with contextlib.suppress(Exception):
        _within(0, wandb.teardown)


def _refuse_losses(run: Any) -> None:
    """What a server refuses for good, wandb tells its log only."""
    log = Path(run.settings.log_internal or os.devnull)
    if log.is_file() and "filestream: fatal error" in log.read_text("utf-8", "replace"):
        raise wandb.errors.CommError("the server refused what was sent")


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a call gives, in a thread that is left behind if it takes longer than that and a grace."""
    answer: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # raised where it is waited for; SystemExit where wandb's service ended badly
            errors.append(error if isinstance(error, Exception) else RuntimeError(f"wandb ended with {error!r}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds + GRACE_SECONDS)
    if errors:
        raise errors[0]
    if not answer:
        raise TimeoutError(f"no answer within {seconds + GRACE_SECONDS} s")
    return answer[0]


def _rows(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One line of an adaptation: the answers to every batch as a curve, then its metrics."""
    yield from _curve(line)
    values = {key: float("nan") if value is None else value for key, value in line["values"].items()}
    yield {**values, "line": json.dumps({key: value for key, value in line.items() if key != "values"})}


def _curve(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What an adapter answered, batch by batch."""
    curve = line.get("curve") or {}
    domain = curve.get("domain")  # corrupted or not, in whatever round; or several, mixed
    for place, n in enumerate(curve.get("n", ())):
        row = {"position": line["position"] + place, f"curve/{domain}/seconds": curve["seconds"][place]}
        if "correct" in curve:
            row[f"curve/{domain}/accuracy"] = curve["correct"][place] / n
        if "squared_error" in curve and (error := curve["squared_error"][place]) is not None:
            row[f"curve/{domain}/rmse"] = math.sqrt(error / n)
        yield row


def _has_key() -> bool:
    # Older versions cannot be told not to ask.
    if "prompt" in inspect.signature(wandb.login).parameters:
        return wandb.login(prompt=False)
    return bool(wandb.api.api_key)
