"""What DomainBed's sweeps leave on disk, read run by run: `*/results.jsonl`, beside it `done`.

Gulrajani and Lopez-Paz (2021), In Search of Lost Domain Generalization, https://arxiv.org/abs/2007.01434: its
repository as of 2020-10 (commit 7df6f06) and of 2024-12 (commit b93c22a), whose records also hold `mem_gb` and more
`args`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench.record import SCHEMA, identity_hash

from .domainbed_names import dataset_names

# Of every dataset of DomainBed.
NUM_STEPS = 5001
GIGABYTE = 2**30
# DomainBed does not say how many examples a split has.
UNKNOWN_SIZE = 0
SPLITS = ("in", "out")
_ARGUMENTS = {"dataset": str, "algorithm": str, "test_envs": list, "hparams_seed": int, "trial_seed": int}


@dataclass
class DomainBedRun:
    """What DomainBed takes for one run: one method, its test domains, draw of hyper-parameters and trial."""

    identity: dict[str, Any]
    args: dict[str, Any]
    hparams: dict[str, Any]
    num_domains: int
    folders: dict[str, None] = field(default_factory=dict)
    """Where its records lie, in order."""
    steps: list[int] = field(default_factory=list)
    """Of its records, in order."""
    lines: list[str] = field(default_factory=list)
    """Its records as lines of evaluations.jsonl."""
    is_done: bool = False
    is_finite: bool = True
    """Whether all its losses are numbers."""
    peak_memory: int | None = None
    """Bytes."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take up one more record."""
        loss, memory = record.get("loss", 0.0), record.get("mem_gb")
        self.is_finite &= isinstance(loss, int | float) and math.isfinite(loss)
        if isinstance(memory, int | float):
            self.peak_memory = max(self.peak_memory or 0, round(memory * GIGABYTE))
        self.steps.append(record["step"])
        self.lines.append(json.dumps(_line(record)) + "\n")


@dataclass
class Sweep:
    """The runs of a sweep by id, and what is odd about it. Folders are named below the sweep's."""

    runs: dict[str, DomainBedRun] = field(default_factory=dict)
    num_records: int = 0
    unfinished: list[str] = field(default_factory=list)
    """Folders with records and without the file `done`."""
    torn: list[str] = field(default_factory=list)
    """Folders with a line that was cut short."""
    empty: list[str] = field(default_factory=list)
    """Folders without a whole record."""

    @property
    def shared(self) -> list[str]:
        """Folders that hold the same run as another."""
        runs = [run for run in self.runs.values() if len(run.folders) > 1]
        return list(dict.fromkeys(name for run in runs for name in run.folders))

    @property
    def repeated(self) -> list[str]:
        """Folders of runs that recorded a step more than once."""
        runs = [run for run in self.runs.values() if len(set(run.steps)) < len(run.steps)]
        return list(dict.fromkeys(name for run in runs for name in run.folders))


def read_sweep(sweep_dir: Path) -> Sweep:
    """Read a sweep, in the order of its folders' names.

    Records of one run that lie in several folders make one run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no sweep, or a line that is whole and no record of DomainBed.
    """
    if not sweep_dir.is_dir():
        raise FileNotFoundError(f"{sweep_dir} is not a folder. Name the --output_dir of a DomainBed sweep.")
    sweep = Sweep()
    for file in sorted(sweep_dir.glob("*/results.jsonl")):
        before = sweep.num_records
        is_done = (file.parent / "done").is_file()
        _read_folder(file, is_done, sweep)
        if sweep.num_records == before:
            sweep.empty.append(file.parent.name)
        elif not is_done:
            sweep.unfinished.append(file.parent.name)
    if not sweep.runs:
        raise ValueError(
            f"{sweep_dir} has no record in */results.jsonl. Name the --output_dir of a DomainBed sweep: the folder "
            "that holds one folder per run."
        )
    return sweep


def _read_folder(file: Path, is_done: bool, sweep: Sweep) -> None:
    run: DomainBedRun | None = None
    for record in _records(file, sweep):
        # Records of one file have the same arguments, but where two runs were sent to one folder.
        if run is None or record["args"] != run.args:
            identity = _identity(record["args"])
            run = sweep.runs.setdefault(
                identity_hash(identity),
                DomainBedRun(identity, record["args"], record.get("hparams", {}), _num_domains(record)),
            )
            run.args = record["args"]
            run.folders[file.parent.name] = None
            run.is_done |= is_done
        run.add(record)
        sweep.num_records += 1


def _records(file: Path, sweep: Sweep) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            # Where a job was killed; in the middle of a file, if it was started again.
            if file.parent.name not in sweep.torn[-1:]:
                sweep.torn.append(file.parent.name)
            continue
        if lacking := _lacking(record):
            raise ValueError(
                f"{file}, line {number}: no record of DomainBed, it lacks {lacking}. Move that folder out of the "
                "sweep, or name another sweep."
            )
        yield record


def _lacking(record: Any) -> str:
    """What a record needs and does not have, or nothing."""
    if not isinstance(record, dict) or not isinstance(args := record.get("args"), dict):
        return "args"
    if lacking := [name for name, kind in _ARGUMENTS.items() if not isinstance(args.get(name), kind)]:
        return f"args.{lacking[0]}"
    if not isinstance(record.get("step"), int):
        return "step"
    number = _num_domains(record)
    keys = [f"env{i}_{split}_acc" for i in range(max(1, number)) for split in SPLITS]
    if lacking := [key for key in keys if not isinstance(record.get(key), int | float)]:
        return lacking[0]
    tested = args["test_envs"]
    is_known = bool(tested) and all(isinstance(env, int) and 0 <= env < number for env in tested)
    return "" if is_known else f"args.test_envs among 0 to {number - 1}"


def _num_domains(record: Mapping[str, Any]) -> int:
    number = 0
    while f"env{number}_out_acc" in record:
        number += 1
    return number


def _identity(args: Mapping[str, Any]) -> dict[str, Any]:
    """What decides to which run a record belongs: as in DomainBed neither paths nor values of hyper-parameters."""
    return {
        "schema": SCHEMA,
        "source": "DomainBed",
        "dataset": args["dataset"],
        "algorithm": args["algorithm"],
        "test_envs": sorted(set(args["test_envs"])),
        "hparams_seed": args["hparams_seed"],
        "trial_seed": args["trial_seed"],
        "protocol": {
            # `--task` came after the published table of 2020.
            "name": "domainbed_2024" if "task" in args else "domainbed_2020",
            "num_steps": args.get("steps") or NUM_STEPS,
            "evaluate_every": args.get("checkpoint_freq"),
            "holdout_fraction": args.get("holdout_fraction"),
            "uda_holdout_fraction": args.get("uda_holdout_fraction"),
        },
    }


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a line of evaluations.jsonl."""
    _, names = dataset_names(record["args"]["dataset"], _num_domains(record))
    values = {
        f"{split}/{domain}": record[f"env{i}_{split}_acc"] for i, domain in enumerate(names.domains) for split in SPLITS
    }
    # Unlabelled splits are numbered among themselves.
    for i, env in enumerate(sorted(set(record["args"]["test_envs"]))):
        if (score := record.get(f"env{i}_uda_acc")) is not None:
            values[f"uda/{names.domains[env]}"] = score
    return {
        "step": record["step"],
        "weights": "last",
        "values": {f"{key}/accuracy": value if math.isfinite(value) else None for key, value in values.items()},
        "n": dict.fromkeys(values, UNKNOWN_SIZE),
    }
