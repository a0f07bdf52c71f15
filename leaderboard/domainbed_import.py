"""A sweep made by DomainBed as records of ours, which `dgbench table` then reads by DomainBed's rules."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench import composition
from dgbench.protocol import Protocol
from dgbench.record import SCHEMA, RunFolder, identity_hash
from dgbench.writing import replace_file, writable

from .domainbed_names import Names, algorithm_name, dataset_names
from .domainbed_sweep import DomainBedRun, Sweep, read_sweep

# Folders of a kind that a report names.
SHOWN = 20


@dataclass
class Imported:
    """What an import found and did: ids of runs."""

    sweep: Sweep
    new: list[str] = field(default_factory=list)
    """That were not there."""
    changed: list[str] = field(default_factory=list)
    """That were there with other records or another status: the sweep has grown."""
    same: list[str] = field(default_factory=list)
    """That are as an earlier import left them."""


def import_sweep(sweep_dir: str | Path, out: str | Path) -> Imported:
    """Write the runs of a DomainBed sweep as records of ours; those that are there already are left alone.

    A record's folder is named by what DomainBed takes for one run: its method, test domains and seeds.

    Args:
        sweep_dir: what DomainBed's sweep was given as `--output_dir`.
        out: runs_dir that the records go to.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no sweep.
        CannotWrite: `out` cannot be written.
    """
    made = Imported(read_sweep(Path(sweep_dir)))
    for run_id, run in made.sweep.runs.items():
        folder = RunFolder(Path(out) / run_id)
        known = folder.read()
        is_written = _write(folder, "".join(run.lines).encode(), _said(run_id, run), known)
        (made.same if not is_written else made.new if known is None else made.changed).append(run_id)
    return made


def _write(folder: RunFolder, lines: bytes, said: dict[str, Any], known: dict[str, Any] | None) -> bool:
    """Write what is not there yet; whether there was anything."""
    if known == said and folder.lines_file.is_file() and folder.lines_file.read_bytes() == lines:
        return False
    with writable(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    # A folder is a run as soon as it has a run.json, which therefore comes last.
    replace_file(folder.lines_file, lambda file: file.write(lines))
    folder.begin(**said)
    return True


def _said(run_id: str, run: DomainBedRun) -> dict[str, Any]:
    """What run.json says: nothing that depends on when or where it is written, so that a second import is equal."""
    status = "interrupted" if not run.is_done else "complete" if run.is_finite else "diverged"
    return {
        "schema": SCHEMA,
        "kind": "train",
        "run_id": run_id,
        "label": "",
        "identity": run.identity,
        "columns": _columns(run),
        "status": status,
        "reason": None,
        "group": None,
        "seconds": None,
        "peak_memory": run.peak_memory,
        "package_version": run.identity["protocol"]["name"],
        "domainbed": {"folders": sorted(run.folders), "args": run.args, "hparams": run.hparams},
    }


def _columns(run: DomainBedRun) -> dict[str, Any]:
    """What tables group by."""
    identity, protocol = run.identity, run.identity["protocol"]
    dataset, names = dataset_names(identity["dataset"], run.num_domains)
    tested = [names.domains[env] for env in identity["test_envs"]]
    network = _network(names, run.hparams)
    return {
        "dataset": dataset,
        "data": identity_hash({"source": identity["source"], "dataset": identity["dataset"], "domains": names.domains}),
        "data_seed": -1,
        "dataset_domains": " ".join(names.domains),
        "designated_domains": "",
        "regime": names.regime,
        "score": "accuracy",
        "train_domains": " ".join(name for name in names.domains if name not in tested),
        "val_domains": "",
        "test_domains": " ".join(tested),
        "protocol": protocol["name"],
        "protocol_key": identity_hash(protocol),
        **_reporting(protocol["name"]),
        "network": network,
        "network_key": identity_hash({"network": network}),
        "algorithm": algorithm_name(identity["algorithm"]),
        "averaging": "none",
        "label": "",
        "variant": "",
        "tuned": "",
        # DomainBed matches runs by the seed of the draw, whatever was drawn.
        "hparams": identity_hash({name: identity[name] for name in ("algorithm", "hparams_seed")}),
        "hparams_seed": identity["hparams_seed"],
        "trial_seed": identity["trial_seed"],
        "num_steps": protocol["num_steps"],
        "last_evaluation": max(run.steps) if run.is_done else protocol["num_steps"] - 1,
    }


@functools.cache
def _reporting(preset: str) -> dict[str, Any]:
    return Protocol(**composition.compose([f"protocol={preset}"])["protocol"]).reporting


def _network(names: Names, hparams: dict[str, Any]) -> str:
    if names.network != "resnet":
        return names.network
    return "vit" if hparams.get("vit") else "resnet18" if hparams.get("resnet18") else "resnet50"


def report(made: Imported, sweep_dir: Path, out: Path) -> Iterator[str]:
    """What an import did, and what was odd and how it is treated; a line each."""
    sweep = made.sweep
    found = f"{sweep.num_records} records of {_count(sweep.runs, 'run')} in {sweep_dir}"
    if made.new or made.changed:
        done = f"{len(made.new)} new, {len(made.changed)} changed, {len(made.same)} as they were"
    else:
        done = "nothing new"
    yield f"{found}: {done} in {out}."
    for folders, what in (
        (sweep.unfinished, "unfinished, without the file `done`: DomainBed's protocols use them, others do not"),
        (sweep.torn, "with a line that was cut short: the line is left out, the others count"),
        (sweep.empty, "without a whole record: left out"),
        (sweep.broken, "left out, for a record that is none of DomainBed's; the others count"),
        (
            sweep.repeated,
            "of runs that recorded a step more than once: DomainBed's protocols let both records compete, and pass "
            "over the step in domain_cross_validation where one domain is left out; others take the later one",
        ),
        (
            sweep.shared,
            "that share a run with another, by method, domains and seeds: read as one run, as DomainBed does",
        ),
    ):
        if folders:
            yield f"{_count(folders, 'folder')} {what}: {_listed(folders)}."
    yield f"dgbench table {out} --protocol domainbed_2020 selects and averages as DomainBed does."


def _count(things: Sequence[str] | dict[str, DomainBedRun], noun: str) -> str:
    return f"{len(things)} {noun}{'s' if len(things) != 1 else ''}"


def _listed(folders: Sequence[str]) -> str:
    return ", ".join(folders[:SHOWN]) + (f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else "")
