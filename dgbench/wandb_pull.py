"""Runs on Weights & Biases, as `logger=wandb` sends them, made records again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import wandb

from dgbench.record import FINISHED, SCHEMA, RunFolder
from dgbench.wandb_check import WRONG, OtherVersion, checked_lines, checked_record
from dgbench.writing import replace_file

TIMEOUT_SECONDS = 60
# As W&B has them.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
MAX_REASON = 120  # characters


@dataclass
class Pulled:
    """How many of the runs of a project were written, were as they are there, are no records or were made here."""

    written: int = 0
    unchanged: int = 0
    foreign: int = 0
    """Not sent by dgbench, or not such that tables can be made of it."""
    other_version: int = 0
    """A record of another schema."""
    made_here: int = 0
    """A folder holds that run, and it was not pulled: it stays."""
    first_foreign: str = field(default="", compare=False)
    """The first of the foreign ones, and what is wrong with it."""

    def __str__(self) -> str:
        said = [f"{self.written} runs written", f"{self.unchanged} unchanged"]
        said += [f"{self.made_here} left alone, as they were made here"] if self.made_here else []
        other = f"another version of dgbench made them (expected schema {SCHEMA})"
        said += [f"{self.other_version} left out, as {other}"] if self.other_version else []
        foreign = f"they hold no whole record of dgbench (first {self.first_foreign})"
        said += [f"{self.foreign} left out, as {foreign}"] if self.foreign else []
        return ", ".join(said) + "."


def pull(project: str, out: str | Path, progress: Callable[[int, int], None] | None = None) -> Pulled:
    """Write the runs of a project as folders of runs; what is there already and has not changed is not fetched.

    Args:
        project: `ENTITY/PROJECT`.
        out: the folder that receives them, as a sweep's runs_dir.
        progress: told how many runs are done, and of how many.

    Raises:
        ValueError: the name of the project cannot be read, nothing of that name is there, or it may not be read.
    """
    if len(project.split("/")) != 2 or not all(project.split("/")):
        raise ValueError(f"{project!r} names no project of W&B, expected ENTITY/PROJECT, e.g. my_team/dgbench.")
    made = Pulled()
    try:
        runs = _runs(project)
        for place, run in enumerate(runs):
            _take(run, project, Path(out).expanduser(), made)
            if progress is not None:
                progress(place + 1, len(runs))
    except (wandb.Error, requests.RequestException, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"W&B does not give the runs of {project} ({reason}). Check the name, WANDB_BASE_URL and wandb login; "
            "the same command continues."
        ) from error
    return made


def _runs(project: str) -> Any:
    api = wandb.Api(timeout=TIMEOUT_SECONDS)
    return api.runs(project, lazy=False)


def _take(run: Any, project: str, out: Path, made: Pulled) -> None:
    try:
        said = _record(run)
    except OtherVersion:
        made.other_version += 1
        return
    except WRONG as error:
        _leave_out(run, error, made)
        return
    # A table ranks either kind.
    folder = RunFolder((out / "adapt" if said["kind"] == "adapt" else out) / said["run_id"])
    known = folder.read()
    if known is not None and "pulled" not in known:
        made.made_here += 1
        return
    wanted = {**said, "pulled": project}
    if known == wanted and known["status"] in FINISHED and folder.lines_file.exists():
        made.unchanged += 1
        return
    try:
        text = checked_lines(lines(run.scan_history(use_cache=False), run.config.get("n", {})), said)
    except requests.RequestException:  # some are a ValueError too
        raise
    except WRONG as error:
        _leave_out(run, error, made)
        return
    if known == wanted and folder.lines_file.exists() and folder.lines_file.read_bytes() == text:
        made.unchanged += 1
        return
    folder.create()
    replace_file(folder.lines_file, lambda file: file.write(text))
    folder.begin(**wanted)
    made.written += 1


def _leave_out(run: Any, why: Exception, made: Pulled) -> None:
    made.foreign += 1
    if not made.first_foreign:
        reason = " ".join(str(why).split())
        lacks = f"lacks {reason}" if isinstance(why, KeyError) else reason
        made.first_foreign = f"{str(run.id)[:40]!a}: {lacks[:MAX_REASON]}"


def _record(run: Any) -> dict[str, Any]:
    """The run.json that a run carries.

    Raises:
        OtherVersion: of another schema.
        ValueError: it is none, as may other exceptions of `WRONG` say.
    """
    said = checked_record(json.loads(run.config["record"]), run.id)
    # A run that was killed could not say so.
    return {**said, "status": "interrupted"} if said["status"] == "running" else said


def lines(rows: Iterable[Mapping[str, Any]], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """The lines of evaluations.jsonl that the rows of a history came from.

    Args:
        rows: of the history.
        sizes: examples by `split/domain`.
    """
    made = []
    for row in rows:
        if "line" in row:
            line = json.loads(row["line"])
            made.append({**line, "values": _values(row, line["n"]).get("last", {})})
            continue
        for weights, values in _values(row, sizes).items():
            seen = {"/".join(key.split("/")[:2]) for key in values}
            n = {name: size for name, size in sorted(sizes.items()) if name in seen}
            made.append({"step": row["_step"], "weights": weights, "values": values, "n": n})
    return made


def _values(row: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, dict[str, float | None]]:
    """The metrics `split/domain/metric` in a row, by the weights that they are of; the last ones first."""
    found: dict[str, dict[str, float | None]] = {}
    for key in sorted(row, key=lambda key: (key.count("/"), key)):
        parts = key.split("/")
        weights = "last" if len(parts) == 3 else parts.pop(0)
        if len(parts) == 3 and "/".join(parts[:2]) in sizes:
            found.setdefault(weights, {})["/".join(parts)] = _number(row[key])
    return found


def _number(value: Any) -> float | None:
    if value in NOT_FINITE:
        return None
    if isinstance(value, bool | str):
        raise ValueError(f"{value!a} is no number")
    number = float(value)
    return number if math.isfinite(number) else None
