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
import hashlib
import json
import math
import os
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


def find(paths: str | Path | Sequence[str | Path]) -> list[RunFolder]:
    """The runs under folders of runs, or the folders of runs themselves, sorted by path.

    Raises:
        FileNotFoundError: a path that is not there.
    """
    found = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else list(map(Path, paths)):
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder of runs. Name the runs_dir of a sweep, or one run in it.")
        found += [path] if (path / "run.json").is_file() else sorted(p.parent for p in path.glob("*/run.json"))
    return [RunFolder(path) for path in dict.fromkeys(found)]


def read(
    source: str | Path | Sequence[str | Path] | pl.DataFrame, metrics: Collection[str] | None = None
) -> pl.DataFrame:
    """The evaluations of runs in long form, one row per (run, step, weights, split, domain, metric).

    Columns: those of `runs`, then step, weights, split, domain, metric, value (float64, NaN where undefined)
    and n.

    Args:
        source: folders as `find` takes them, or rows of `runs`, of which the columns it has are repeated.
        metrics: the metrics that are wanted; None: all.
    """
    import polars as pl

    of = source if isinstance(source, pl.DataFrame) else runs(source)
    # Few layouts of keys serve thousands of lines: the lines of one layout become arrays at once.
    layouts: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    for run, path in enumerate(of["path"]):
        for line in RunFolder(path).lines():
            layouts.setdefault(tuple(line["values"]), []).append((run, line))
    schema = {"run": pl.Int64, **{name: getattr(pl, kind) for name, kind in _ROW.items()}}
    frames = [pl.DataFrame(schema=schema)]
    for keys, lines in layouts.items():
        wanted = [key for key in keys if metrics is None or key.split("/")[2] in metrics]
        frames.append(pl.DataFrame(_long(wanted, lines), schema=schema))
    rows = pl.concat(frames).sort("run", maintain_order=True)
    return of[rows["run"]].hstack(rows.drop("run"))


def _long(keys: Sequence[str], lines: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    import numpy as np
    import polars as pl

    parts = [key.split("/") for key in keys]
    domains = ["/".join(part[:2]) for part in parts]
    row, column = np.indices((len(lines), len(keys))).reshape(2, -1)
    return {
        "run": np.array([run for run, _ in lines])[row],
        "step": np.array([line["step"] for _, line in lines])[row],
        "weights": pl.Series([line["weights"] for _, line in lines], dtype=pl.String).gather(row),
        **{
            name: pl.Series([part[i] for part in parts], dtype=pl.String).gather(column)
            for i, name in enumerate(("split", "domain", "metric"))
        },
        # null, what JSON has for NaN, becomes NaN again.
        "value": np.array([[line["values"][key] for key in keys] for _, line in lines], float).reshape(-1),
        "n": np.array([[line["n"][name] for name in domains] for _, line in lines], int).reshape(-1),
    }


def kinds(paths: str | Path | Sequence[str | Path]) -> set[str]:
    """What lies in some folders: `train`, runs, and `adapt`, adaptations of such."""
    return {said.get("kind", "train") for folder in find(paths) if (said := folder.read()) is not None}


def runs(paths: str | Path | Sequence[str | Path]) -> pl.DataFrame:
    """One row per trained run: what identifies it, its status and cost.

    A run that lies in two of the folders counts once, by a copy that is finished if there is one.
    """
    import polars as pl

    rows: dict[str, dict[str, Any]] = {}
    for folder in find(paths):
        said = folder.read()
        if said is None or said.get("kind", "train") != "train":
            continue
        if said["schema"] != SCHEMA:
            raise ValueError(
                f"{folder.run_file} has schema {said['schema']}, expected {SCHEMA}: another version of dgbench wrote "
                "it. Name a folder without it, or make the runs again."
            )
        status = folder.status() if said["status"] in ("running", "interrupted") else said["status"]
        cells = {**said["columns"], "run_id": said["run_id"], "status": status, "path": str(folder.path)}
        for key in ("reason", "group", "seconds", "peak_memory", "package_version"):
            cells[key] = said.get(key)
        known = rows.get(said["run_id"])
        if known is None or (known["status"] not in FINISHED and status in FINISHED):
            rows[said["run_id"]] = cells
    schema = {name: getattr(pl, kind) for name, kind in _RUN.items()}
    return pl.DataFrame({name: [cells[name] for cells in rows.values()] for name in _RUN}, schema=schema)


_ROW = {
    "step": "Int64",
    "weights": "String",
    "split": "String",
    "domain": "String",
    "metric": "String",
    "value": "Float64",
    "n": "Int64",
}
_RUN = {
    "run_id": "String",
    "path": "String",
    "status": "String",
    "reason": "String",
    "group": "String",
    "package_version": "String",
    "seconds": "Float64",
    "peak_memory": "Int64",
    "dataset": "String",
    "data": "String",
    "data_seed": "Int64",
    "dataset_domains": "String",
    "designated_domains": "String",
    "regime": "String",
    "score": "String",
    "train_domains": "String",
    "val_domains": "String",
    "test_domains": "String",
    "protocol": "String",
    "protocol_key": "String",
    "error_bar": "String",
    "use_unfinished": "Boolean",
    "oracle_last_record": "Boolean",
    "network": "String",
    "network_key": "String",
    "algorithm": "String",
    "averaging": "String",
    "label": "String",
    "variant": "String",
    "tuned": "String",
    "hparams": "String",
    "hparams_seed": "Int64",
    "trial_seed": "Int64",
    "num_steps": "Int64",
    "last_evaluation": "Int64",
}
