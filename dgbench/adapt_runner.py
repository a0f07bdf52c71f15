"""One adaptation: a trained run, an adapter and a stream in, rows out."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import dgbench
from dgbench import record
from dgbench.adapt_data import SOURCE_BATCH, SourceData, held_out, streamed
from dgbench.adaptation import Adaptation
from dgbench.adapter import Adapter, build_adapter
from dgbench.loader import Split, evaluation_batches
from dgbench.prediction import open_data, threads
from dgbench.registry import adapters
from dgbench.runner import (
    MAX_FAILURES,
    Outcome,
    attempt,
    device_name,
    interruptible,
    logged_to,
    untouched,
    watch_memory,
)
from dgbench.stream import Visit, make_stream
from dgbench.task import Task
from dgbench.trained import load
from dgbench.visit import MIXED


def execute(adaptation: Adaptation, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Adapt, measure and record; skip what is complete.

    Errors of the adapter or the data end as status `failed` with their reason.

    Args:
        adaptation: what to do.
        progress: told how many batches are done, and of how many.

    Raises:
        RunIsLocked: another process is writing this adaptation.
        CannotWrite: the folder cannot be written.
        Interrupted: SIGINT or SIGTERM; the same command begins it anew.
    """
    folder = adaptation.folder
    folder.create()
    with folder.lock.held(), interruptible():
        if is_done(adaptation):
            return untouched(folder)
        failures = 0 if adaptation.keys.overwrite else (folder.read() or {}).get("failures", 0)
        folder.begin(**_header(adaptation), status="running", failures=failures)
        folder.lines_file.unlink(missing_ok=True)
        with logged_to(adaptation.keys.logger, folder):
            return attempt(folder, adaptation.label, failures, lambda: _adapt(adaptation, progress))


def is_done(adaptation: Adaptation) -> bool:
    """Whether there is nothing left to do: complete, or failed twice."""
    said = None if adaptation.keys.overwrite else adaptation.folder.read()
    if said is None:
        return False
    if said["status"] == "failed":
        return said["failures"] >= MAX_FAILURES and not adaptation.keys.retry
    return said["status"] == "complete"


@dataclass
class _Tally:
    """The answers under the same conditions: of one domain, or of several that are pooled, in one round."""

    outputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    domains: list[Tensor] = field(default_factory=list)
    """Of every example, index among the stream's."""
    batches: list[int] = field(default_factory=list)
    """Examples of every batch."""
    seconds: list[float] = field(default_factory=list)
    first: int = 0
    """Position of its first batch in the stream."""


def _adapt(adaptation: Adaptation, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    started = time.perf_counter()
    keys, folder = adaptation.keys, adaptation.folder
    algorithm = load(adaptation.trained.path, keys.step, keys.criterion)
    data, _ = open_data(adaptation.trained.path, adaptation.said, None, {}, keys.data_dir)
    device = _device(keys.accelerator)
    algorithm.to(device)
    domains = adaptation.said["identity"]["domains"]
    needs_source = adapters[adaptation.adapter].needs.source
    source = SourceData(adaptation.said, data, domains["train"], device) if needs_source else None
    splits = streamed(adaptation, data)
    peak_memory = watch_memory(device)
    with threads(keys.threads):
        adapter = build_adapter(
            adaptation.adapter, algorithm, hparams=adaptation.hp, source=source, seed=adaptation.seed
        )
        tallies = _follow(adaptation, adapter, splits, device, progress)
        for index, ((name, round_), tally) in enumerate(tallies.items()):
            folder.append(_line(index, name, round_, tally, adapter, list(splits)))
        known = held_out(adaptation.said, data, domains["train"])
        if keys.source_after and known:
            folder.append(_after(len(tallies), adapter, known, device))
    names = adapter.adapted_parameters()
    sizes = {name: p.numel() for name, p in adapter.algorithm.named_parameters()}
    every = [value for tally in tallies.values() for value in tally.seconds]
    return {
        "status": "complete",
        "reason": None,
        "seconds": time.perf_counter() - started,
        "adapted_parameters": {"tensors": len(names), "values": sum(sizes[name] for name in names)},
        "seconds_per_batch": sum(every) / max(1, len(every)),
        "answers": adapter.answers,
        "peak_memory": peak_memory(),
        "hardware": {"machine": platform.machine(), "device": device_name(device)},
    }


def _device(accelerator: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise ValueError("accelerator=gpu, but torch finds no GPU. Leave it auto to adapt on the CPU.")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def _follow(
    adaptation: Adaptation,
    adapter: Adapter,
    splits: Mapping[str, Split],
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[str, int], _Tally]:
    keys = adaptation.keys
    stream = make_stream(adaptation.stream, adaptation.options, splits, adaptation.seed, keys.batch_size)
    num_batches = len(stream)
    tallies: dict[tuple[str, int], _Tally] = {}
    for position, (visit, x, y, domain) in enumerate(stream):
        if visit.resets:
            adapter.reset()
        started = time.perf_counter()
        outputs = adapter.step(x.to(device)).cpu()  # waits for the device
        spent = time.perf_counter() - started
        tally = tallies.setdefault((_name(visit), visit.round), _Tally(first=position))
        tally.outputs.append(outputs)
        tally.targets.append(y.cpu())
        tally.domains.append(domain)
        tally.batches.append(len(y))
        tally.seconds.append(spent)
        if progress is not None:
            progress(position + 1, num_batches)
    return tallies


def _name(visit: Visit) -> str:
    """What rows call a domain, corrupted or not."""
    if visit.corruption is None:
        return visit.domain
    family, severity = visit.corruption
    return f"{visit.domain}_{family}_{severity}"


def _line(
    index: int, name: str, round_: int, tally: _Tally, adapter: Adapter, domains: Sequence[str]
) -> dict[str, Any]:
    outputs, y = torch.cat(tally.outputs), torch.cat(tally.targets)
    values: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for part, rows in _parts(name, torch.cat(tally.domains), domains).items():
        metrics = measured(adapter.task, adapter.output, outputs[rows], y[rows])
        values |= {f"stream/{part}/{metric}": value for metric, value in metrics.items()}
        sizes[f"stream/{part}"] = len(y[rows])
    return {
        "step": index,
        "weights": "adapted",
        "phase": "stream",
        "round": round_,
        "position": tally.first,
        "values": values,
        "n": sizes,
        "curve": {"domain": name, **_curve(tally, adapter, outputs, y)},
    }


def _parts(name: str, domain: Tensor, domains: Sequence[str]) -> dict[str, Tensor]:
    """The examples (N,) bool that a line measures together: where domains are pooled each by itself, and all of them.

    Args:
        name: what rows call what was met.
        domain: (N,) index among the stream's.
        domains: names of these.
    """
    everything = torch.ones_like(domain, dtype=torch.bool)
    if name != MIXED:
        return {name: everything}
    parts = {domains[index]: domain == index for index in domain.unique().tolist()}
    return parts if len(parts) == 1 else {**parts, MIXED: everything}


def _curve(tally: _Tally, adapter: Adapter, outputs: Tensor, y: Tensor) -> dict[str, list]:
    """Of every batch the number of examples, the seconds, and the right answers or the squared errors, summed."""
    curve: dict[str, list] = {"n": tally.batches, "seconds": [round(value, 6) for value in tally.seconds]}
    if adapter.task.is_classification:
        hits = scores_of(adapter.task, adapter.output, outputs).argmax(1) == y
        return {**curve, "correct": [int(part.sum()) for part in hits.split(tally.batches)]}
    errors = (outputs.double() - y.double()).square().mean(1)  # (N,)
    return {**curve, "squared_error": [float(part.sum()) for part in errors.split(tally.batches)]}


def _after(index: int, adapter: Adapter, splits: Mapping[tuple[str, str], Split], device: torch.device) -> dict:
    """What the adapted model knows of the training domains, asked without adapting to them."""
    values: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for (split, domain), part in splits.items():
        answers = [
            (adapter.predict(x).cpu(), y.cpu()) for x, y in evaluation_batches(part, SOURCE_BATCH, device=device)
        ]
        outputs, y = (torch.cat(tensors) for tensors in zip(*answers, strict=True))
        metrics = measured(adapter.task, adapter.output, outputs, y)
        values |= {f"{split}/{domain}/{name}": value for name, value in metrics.items()}
        sizes[f"{split}/{domain}"] = len(y)
    where = {"phase": "source_after", "round": 0, "position": 0}
    return {"step": index, "weights": "adapted", **where, "values": values, "n": sizes}


def scores_of(task: Task, output: str, outputs: Tensor) -> Tensor:
    """What an adapter answered as logits (N, C), or as values.

    Args:
        task: what is predicted.
        output: as the adapter says, logits or probabilities.
        outputs: (N, C), two classes also where the task has a single logit.
    """
    return outputs.clamp_min(1e-12).log() if task.is_classification and output == "probabilities" else outputs


def measured(task: Task, output: str, outputs: Tensor, y: Tensor) -> dict[str, float]:
    """The task's metrics of what an adapter answered; arguments as of `scores_of`, and targets (N,) or (N, C)."""
    scores = scores_of(task, output, outputs)
    # A task with a single logit is measured on it.
    return task.metrics(scores[:, 1:] - scores[:, :1] if task.single_logit else scores, y)


def _header(adaptation: Adaptation) -> dict[str, Any]:
    return {
        "schema": record.SCHEMA,
        "kind": "adapt",
        "run_id": adaptation.run_id,
        "label": adaptation.label,
        "identity": adaptation.identity,
        "config": adaptation.config,
        "columns": adaptation.columns,
        "group": adaptation.keys.group,
        "package_version": dgbench.__version__,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": sys.argv,
        "created": time.time(),
    }
