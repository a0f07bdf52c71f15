"""What DomainBed's sweeps leave on disk, read run by run: `*/results.jsonl`, beside it `done`.

Gulrajani and Lopez-Paz (2021), In Search of Lost Domain Generalization, https://arxiv.org/abs/2007.01434: its
repository as of 2020-10 (commit 7df6f06) and of 2024-12 (commit b93c22a), whose records also hold `mem_gb` and more
`args`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from dgbench.record import SCHEMA, identity_hash

from .domainbed_names import dataset_names
from .domainbed_record import SPLITS, Broken, is_number, num_domains, parse

# Of every dataset of DomainBed.
NUM_STEPS = 5001
GIGABYTE = 2**30
# No machine has as many gigabytes.
MEMORY = 2**30
# DomainBed does not say how many examples a split has.
UNKNOWN_SIZE = 0


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

    def take(self, records: Sequence[Mapping[str, Any]], folder: str, is_done: bool) -> None:
        """Take up more records, of one folder and with the same arguments."""
        self.args = records[0]["args"]
        self.folders[folder] = None
        self.is_done |= is_done
        for record in records:
            loss, memory = record.get("loss", 0.0), record.get("mem_gb")
            self.is_finite &= is_number(loss) and math.isfinite(loss)
            if is_number(memory) and 0 <= memory < MEMORY:
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
    broken: list[str] = field(default_factory=list)
    """Folders that were left out, as a record is none of DomainBed's, each with the reason."""

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

    Records of one run that lie in several folders make one run. A folder with a broken record is left out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no sweep.
    """
    if not sweep_dir.is_dir():
        raise FileNotFoundError(f"{sweep_dir} is not a folder. Name the --output_dir of a DomainBed sweep.")
    sweep = Sweep()
    for file in sorted(sweep_dir.glob("*/results.jsonl")):
        try:
            _read_folder(file, sweep)
        except Broken as fault:
            sweep.broken.append(f"{file.parent.name} ({fault})")
    if not sweep.runs:
        what = "only broken records" if sweep.broken else "no record"
        first = f", such as of {sweep.broken[0]}" if sweep.broken else ""
        raise ValueError(
            f"{sweep_dir} has {what} in */results.jsonl{first}. Name the --output_dir of a DomainBed sweep: the folder "
            "that holds one folder per run."
        )
    return sweep


def _read_folder(file: Path, sweep: Sweep) -> None:
    """Take up all records of a folder, or none.

    Raises:
        Broken: one of them is.
    """
    name, is_done = file.parent.name, (file.parent / "done").is_file()
    records, is_torn = _records(file)
    runs: dict[str, DomainBedRun] = {}
    parts: list[tuple[DomainBedRun, list[dict[str, Any]]]] = []
    # Records of one file have the same arguments, but where two runs were sent to one folder.
    for args, of in itertools.groupby(records, itemgetter("args")):
        part, identity = list(of), _identity(args)
        run_id = identity_hash(identity)
        run = sweep.runs.get(run_id) or runs.get(run_id)
        run = run or DomainBedRun(identity, args, part[0].get("hparams", {}), num_domains(part[0]))
        for record in part:
            if (number := num_domains(record)) != run.num_domains:
                raise Broken(
                    f"step {record['step']} has {number} environments, expected {run.num_domains} as the run's first"
                )
        runs[run_id] = run
        parts.append((run, part))
    sweep.runs |= runs
    for run, part in parts:
        run.take(part, name, is_done)
    sweep.num_records += len(records)
    if is_torn:
        sweep.torn.append(name)
    if not records:
        sweep.empty.append(name)
    elif not is_done:
        sweep.unfinished.append(name)


def _records(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """The whole records of a folder, and whether there are others.

    Raises:
        Broken: one is no record of DomainBed.
    """
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                found.append(parse(line))
            except Broken as fault:
                raise Broken(f"line {number}: {fault}") from fault
    whole = [record for record in found if record is not None]
    return whole, len(whole) < len(found)


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
    _, names = dataset_names(record["args"]["dataset"], num_domains(record))
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
