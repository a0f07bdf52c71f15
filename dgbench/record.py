"""A run on disk: its identity and status, its evaluations, its lock, its checkpoints; and how sweeps are read.

    <runs_dir>/<run_id>/
        run.json             identity, configuration, status, versions, hardware, seconds, peak memory
        evaluations.jsonl    one line per evaluation
        checkpoints/         resume.pt while running, step_<step>.pt (weights) for the steps that are kept
        run.lock             host, process, heartbeat

Whatever is written is either appended and synced (a line) or written aside and renamed, so that a process killed at
any moment leaves a run that can be continued.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.lock import RunLock
from dgbench.writing import replace_file, writable

if TYPE_CHECKING:
    import polars as pl

SCHEMA = 2
STATUSES = ("running", "interrupted", "complete", "failed", "diverged")
FINISHED = ("complete", "diverged")


class Interrupted(BaseException):
    """The user or the system asked the run to stop. No subclass of KeyboardInterrupt, which Lightning swallows."""


def identity_hash(identity: Mapping[str, Any]) -> str:
    """The run's name: a hash of everything that decides its numbers."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class Recorded(ABC):
    """What has an identity, which decides its numbers: its name and its folder follow."""

    keys: Any

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers."""

    @functools.cached_property
    def run_id(self) -> str:
        """The name of the folder of its results."""
        return identity_hash(self.identity)

    @property
    def folder(self) -> RunFolder:
        """Where its results are, or will be."""
        return RunFolder(Path(self.keys.runs_dir).expanduser() / self.run_id)


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.run_file = self.path / "run.json"
        self.lines_file = self.path / "evaluations.jsonl"
        self.predictions_file = self.path / "predictions.parquet"
        self.lock = RunLock(self.path / "run.lock")
        self.checkpoints = self.path / "checkpoints"

    def create(self) -> None:
        """Make the folder.

        Raises:
            CannotWrite: the place cannot be written.
        """
        with writable(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any] | None:
        """What run.json says, or None if there is none."""
        try:
            said = json.loads(self.run_file.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except json.JSONDecodeError:
            said = None
        if not isinstance(said, dict) or not {"run_id", "status"} <= said.keys():
            raise ValueError(f"{self.run_file} is no record of a run. Delete that folder, or name another.")
        return said

    def write(self, **changes: Any) -> None:
        """Change fields of run.json."""
        self.begin(**{**(self.read() or {}), **changes})

    def begin(self, **said: Any) -> None:
        """Write run.json anew.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        text = json.dumps(_finite(said), indent=1, sort_keys=True) + "\n"
        replace_file(self.run_file, lambda file: file.write(text.encode("utf-8")))

    def status(self) -> str | None:
        """One of `STATUSES`, or None if there is no run here."""
        said = self.read()
        if said is None:
            return None
        if said["status"] in ("running", "interrupted"):
            return "running" if self.is_locked() else "interrupted"
        return said["status"]

    def lines(self) -> list[dict[str, Any]]:
        """The evaluations; a last line torn by a kill is left out."""
        return read_lines(self.lines_file)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one evaluation; it is on the disk when this returns."""
        self.lock.confirm()
        text = json.dumps(_finite(line)) + "\n"
        with writable(self.path), open(self.lines_file, "ab") as file:
            before = file.tell()
            try:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # A full disk may have taken half the line: take it back.
                with contextlib.suppress(OSError):
                    os.truncate(self.lines_file, before)
                raise

    def keep_lines(self, last_step: int) -> None:
        """Cut the evaluations after `last_step`, and a torn last line."""
        if self.lines_file.exists():
            text = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= last_step)
            replace_file(self.lines_file, lambda file: file.write(text.encode("utf-8")))

    def weights_file(self, step: int) -> Path:
        """Where the weights after the evaluation at `step` are kept."""
        return self.checkpoints / f"step_{step:06d}.pt"

    @property
    def resume_file(self) -> Path:
        """Where the state of an unfinished run is kept."""
        return self.checkpoints / "resume.pt"

    def keep_weights(self, steps: Iterable[int]) -> None:
        """Delete the weights of all other steps."""
        kept = {self.weights_file(step) for step in steps}
        for file in self.checkpoints.glob("step_*.pt"):
            if file not in kept:
                file.unlink()

    def is_locked(self) -> bool:
        """Whether a live process holds the lock."""
        return self.lock.is_held()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an evaluations.jsonl, without a torn last one."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    # Whole lines end in a newline; what follows the last one was torn by a kill.
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def folders(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """The runs under folders of runs, or the folders of runs themselves, sorted by path.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    found: list[str] = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else list(map(Path, paths)):
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder of runs. Name the runs_dir of a sweep, or one run in it.")
        if (path / "run.json").is_file():
            found.append(str(path))
        else:
            # Of thousands, strings: a `Path` takes ten times as long to make.
            before = str(path / "x")[:-1]
            found += [before + name for name in sorted(os.listdir(path)) if os.path.isfile(f"{before}{name}/run.json")]
    return list(dict.fromkeys(found))


def find(paths: str | Path | Sequence[str | Path]) -> list[RunFolder]:
    """The runs that `folders` names.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    return [RunFolder(path) for path in folders(paths)]


def kinds(paths: str | Path | Sequence[str | Path]) -> set[str]:
    """What lies in some folders: `train`, runs, and `adapt`, adaptations of such."""
    from dgbench import reading

    return reading.kinds(paths)


def runs(paths: str | Path | Sequence[str | Path]) -> pl.DataFrame:
    """One row per trained run: what identifies it, its status and cost.

    A run that lies in two of the folders counts once, by a copy that is finished if there is one.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a run.json that is none of this version's.
    """
    from dgbench import reading

    return reading.runs(paths)


def read(
    source: str | Path | Sequence[str | Path] | pl.DataFrame, metrics: Collection[str] | None = None
) -> pl.DataFrame:
    """The evaluations of runs in long form, one row per (run, step, weights, split, domain, metric).

    Columns: those of `runs`, then step, weights, split, domain, metric, value (float64, NaN where undefined)
    and n. Each run's rows are in the order of its evaluations.

    Args:
        source: folders as `folders` takes them, or rows of `runs`, of which the columns it has are repeated.
        metrics: the metrics that are wanted; None: all.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a file that is none of this version's.
    """
    from dgbench import reading

    return reading.read(source, metrics)
