"""The command that makes runs like a recorded one, into the folder where that one was found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dgbench.composition import command
from dgbench.record import RunFolder
from dgbench.registry import VARIABLE, algorithms, datasets


def recorded(path: str | Path) -> dict[str, Any] | None:
    """What a run says, the runs_dir of its `config` being the folder that it lies in now; None without a `config`.

    Args:
        path: the run, as it was found.
    """
    said = RunFolder(path).read() or {}
    # It may have been made by another process or on another machine.
    here = {"runs_dir": str(_above(Path(path)))}
    return {**said, "config": {**said["config"], **here}} if said.get("config") else None


def make_command(config: Mapping[str, Any], leave_out: Collection[str] = (), **changes: Any) -> str:
    """As `dgbench.composition.command`, of a record that may come from others.

    Args:
        config: as a run records it.
        leave_out: keys, also `group.key`, that the caller writes.
        changes: keys with other values.

    Raises:
        ValueError: the command would not find the run's method or data.
        UnknownName: nor its preset.
    """
    for group, registry in (("algorithm", algorithms), ("dataset", datasets)):
        name = config[group]["name"]
        if not config.get("plugins") and name not in registry:
            raise ValueError(
                f"The {group} {name!r} is not known here, and its runs name no plugin: the commands that make them "
                f"need the one that holds it. Name that in {VARIABLE}."
            )
    kept = {key: value for key, value in config.items() if key not in leave_out}
    kept["dataset"] = {key: value for key, value in config["dataset"].items() if f"dataset.{key}" not in leave_out}
    return command(kept, **changes)


def _above(path: Path) -> Path:
    # The parent of `.` would be `.` again, that of `..` too.
    return path / ".." if path.name in ("", "..") else path.parent
