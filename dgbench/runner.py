"""One run: a resolved configuration in, rows out."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dgbench import record
from dgbench.algorithm import Algorithm
from dgbench.assembly import build, make_loader, make_trainer, refuse_unreachable
from dgbench.averaging import make_averaging
from dgbench.clock import quiet_lightning
from dgbench.description import header
from dgbench.evaluation import Evaluation, Evaluator
from dgbench.network import weights_hash
from dgbench.record import Interrupted, RunFolder
from dgbench.run import Run
from dgbench.splits import make_splits, wanted_splits
from dgbench.writing import CannotWrite, tidy

# A run that failed this often is tried again only with `retry=true`.
MAX_FAILURES = 2


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    status: str
    reason: str | None
    seconds: float
    skipped: bool = False
    """There was nothing left to do."""


def execute(run: Run, progress: Callable[[int], None] | None = None) -> Outcome:
    """Train, evaluate and record one run; continue it if it was interrupted, skip it if it is complete.

    Errors of the method or the data end as status `failed` with their reason, NaN as `diverged`.

    Args:
        run: what to do.
        progress: told the number of steps done.

    Raises:
        RunIsLocked: another process is writing this run.
        CannotWrite: the folder cannot be written.
        Interrupted: SIGINT or SIGTERM; the run can be continued.
    """
    folder = run.folder
    folder.create()
    with folder.lock.held(), interruptible(), contextlib.ExitStack() as ending:
        if is_done(run, folder):
            return untouched(folder)
        tidy(folder.path)
        failures = 0 if run.keys.overwrite else (folder.read() or {}).get("failures", 0)
        # Before anything is deleted: whatever happens from here on, the old results no longer count.
        folder.begin(**header(run), status="running", failures=failures)
        if run.keys.overwrite:
            shutil.rmtree(folder.checkpoints)
            folder.lines_file.unlink(missing_ok=True)
            folder.predictions_file.unlink(missing_ok=True)
            folder.create()
        outcome = attempt(folder, run.label, failures, lambda: _train(run, folder, ending, progress))
        if outcome.status in record.FINISHED:
            folder.resume_file.unlink(missing_ok=True)
        return outcome


def untouched(folder: RunFolder) -> Outcome:
    """How a run ended that is done."""
    said = folder.read() or {}
    return Outcome(folder.path, said["status"], said.get("reason"), said.get("seconds") or 0.0, skipped=True)


def attempt(folder: RunFolder, label: str, failures: int, work: Callable[[], Mapping[str, Any]]) -> Outcome:
    """Do what a folder's run.json has begun to tell of, and record how it ends.

    Args:
        folder: of a run or an adaptation.
        label: what a person calls it.
        failures: how often it failed before.
        work: gives what run.json says in the end, `status` and `reason` among it; an error is its failure.
    """
    started = time.perf_counter()
    try:
        facts = work()
    except Interrupted:
        folder.write(status="interrupted")
        raise
    except CannotWrite:
        raise
    except Exception as error:
        logging.getLogger("dgbench").debug("%s failed", label, exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        folder.write(status="failed", reason=reason, failures=failures + 1)
        return Outcome(folder.path, "failed", reason, time.perf_counter() - started)
    folder.write(**facts, finished=time.time())
    return Outcome(folder.path, facts["status"], facts["reason"], time.perf_counter() - started)


def is_done(run: Run, folder: RunFolder) -> bool:
    """Whether there is nothing left to do: complete with all that is wanted, or failed twice."""
    said = None if run.keys.overwrite else folder.read()
    if said is None:
        return False
    if said["status"] == "failed":
        return said["failures"] >= MAX_FAILURES and not run.keys.retry
    wanted = {"/".join(pair) for pair in wanted_splits(run)}
    return said["status"] in record.FINISHED and wanted <= set(said["evaluated"])


def _train(
    run: Run, folder: RunFolder, ending: contextlib.ExitStack, progress: Callable[[int], None] | None
) -> dict[str, Any]:
    if run.keys.threads:
        torch.set_num_threads(run.keys.threads)
    splits = make_splits(run)
    algorithm = build(run, splits)
    refuse_unreachable(run, algorithm)
    folder.write(
        weights=weights_hash(algorithm.network),
        model={
            "input_shape": list(run.dataset.input_shape),
            "task": {
                "kind": algorithm.task.kind,
                "num_classes": algorithm.task.num_classes,
                "single_logit": algorithm.task.single_logit,
            },
            "num_domains": len(run.domains.train),
            "pretrained": algorithm.network.pretrained,
        },
    )
    algorithm.seed = run.seed
    # What was asked of this run before is asked again: nothing that it said is lost.
    earlier = {(split, name) for line in folder.lines() for split, name in [key.split("/") for key in line["n"]]}
    wanted = list(dict.fromkeys([*wanted_splits(run), *sorted(earlier & splits.keys())]))
    resume = _resume(folder, algorithm, {"/".join(pair) for pair in wanted})
    # The logger ends when the record does: it also tells how that was.
    logger = ending.enter_context(logged_to(run.keys.logger, run.folder))
    with quiet_lightning():
        trainer: Any = make_trainer(run, folder, logger)
        device = trainer.strategy.root_device
        loader = make_loader(run, splits, algorithm, device)
        averaging = make_averaging(run.keys.averaging)
        if averaging is not None:
            trainer.callbacks.append(averaging)
        evaluation = Evaluation(
            Evaluator({pair: splits[pair] for pair in wanted}, device, run.keys.workers),
            algorithm.task,
            run.protocol,
            run.domains,
            folder,
            checkpoints=run.keys.checkpoints,
            averaging=averaging,
            batches=loader.batches,
            resume=resume,
            progress=progress,
        )
        trainer.callbacks.append(evaluation)
        peak_memory = watch_memory(device)
        trainer.fit(algorithm, loader)
    folder.write(
        seconds=evaluation.seconds,
        steps_done=algorithm.step,
        evaluated=sorted("/".join(pair) for pair in wanted),
        peak_memory=peak_memory(),
        hardware={**_hardware(), "device": device_name(device)},
    )
    if evaluation.diverged:
        return {"status": "diverged", "reason": f"The loss was NaN or infinite by step {algorithm.step - 1}."}
    return {"status": "complete", "reason": None}


def logged_to(logger: str, folder: RunFolder) -> Any:
    """A context that gives what is logged to, `none` or `wandb`; it decides nothing."""
    if logger == "none":
        return contextlib.nullcontext(False)
    from dgbench.wandb_logger import logged

    return logged(folder)


def _resume(folder: RunFolder, algorithm: Algorithm, wanted: set[str]) -> dict[str, Any] | None:
    """Load the state of an unfinished run into the algorithm, and cut the rows that came after it."""
    if any(not wanted <= set(line["n"]) for line in folder.lines()):
        # Evaluations that were not wanted then would be missing in the first rows.
        folder.resume_file.unlink(missing_ok=True)
    if not folder.resume_file.exists():
        folder.lines_file.unlink(missing_ok=True)
        folder.keep_weights([])
        return None
    try:
        state = torch.load(folder.resume_file, map_location="cpu", weights_only=True)
        algorithm.load_state_dict(state["algorithm"]["model"])
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        # Damaged from outside: what we write is whole. Start anew.
        logging.getLogger("dgbench").warning("%s cannot be read (%s): the run starts anew.", folder.resume_file, error)
        folder.resume_file.unlink()
        return _resume(folder, algorithm, wanted)
    folder.keep_lines(state["step"] - 1)
    return state


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Interrupted`, wherever the run is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            raise Interrupted(signal.Signals(number).name)
        # A forked process that reads images: Ctrl-C reaches it too, but the run ends it.
        if number == signal.SIGTERM:
            os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hardware() -> dict[str, Any]:
    return {"machine": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()}


def device_name(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def watch_memory(device: torch.device) -> Callable[[], int | None]:
    """Watch memory from here on; what is returned tells the peak since, in bytes: of the device, or of the process.

    A process remembers its peak from its start, and so that of runs before. Linux can be told to forget it; elsewhere
    a peak below that of runs before is not known: None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        before = _process_peak()
        return lambda: peak if (peak := _process_peak()) > before else None
    return _peak_since_forgotten


def _peak_since_forgotten() -> int:
    """What Linux counts anew; `getrusage` keeps what a process inherits from the one that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _process_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
