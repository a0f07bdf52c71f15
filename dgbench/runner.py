"""One run: a resolved configuration in, rows out."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import resource
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import dgbench
from dgbench import record
from dgbench.algorithm import Algorithm, build_algorithm, seed_everything
from dgbench.config import Run, resolve
from dgbench.evaluation import Evaluation, Evaluator, validation_score
from dgbench.loader import Batches, Split, TrainingLoader
from dgbench.network import Network, build_network, weights_hash
from dgbench.protocol import split_indices, split_uda
from dgbench.record import CannotWrite, Interrupted, RunFolder
from dgbench.registry import algorithms
from dgbench.task import Task


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
    with folder.lock(), interruptible():
        if is_done(run, folder):
            said = folder.read() or {}
            return Outcome(folder.path, said["status"], said.get("reason"), said.get("seconds") or 0.0, skipped=True)
        started = time.perf_counter()
        said = folder.read() or {}
        if run.keys.overwrite:
            shutil.rmtree(folder.checkpoints)
            folder.lines_file.unlink(missing_ok=True)
            folder.create()
        attempts = 0 if run.keys.overwrite else said.get("attempts", 0)
        folder.write(**_header(run), status="running", reason=None, attempts=attempts + 1)
        try:
            status, reason = _train(run, folder, progress)
        except Interrupted:
            folder.write(status="interrupted", attempts=attempts)
            raise
        except CannotWrite:
            raise
        except Exception as error:
            logging.getLogger("dgbench").debug("%s failed", run.label, exc_info=True)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            folder.write(status="failed", reason=reason)
            return Outcome(folder.path, "failed", reason, time.perf_counter() - started)
        folder.write(status=status, reason=reason, finished=time.time())
        folder.resume_file.unlink(missing_ok=True)
        return Outcome(folder.path, status, reason, time.perf_counter() - started)


def wanted_splits(run: Run) -> list[tuple[str, str]]:
    """The (split, domain) pairs that the selection criteria read."""
    domains = run.domains
    pairs = [("out", name) for name in domains.train] + [("in", name) for name in domains.val]
    pairs += [(split, name) for name in domains.test for split in ("in", "out")]
    if run.protocol.uda_holdout_fraction > 0:
        pairs += [("uda", name) for name in domains.test]
    return pairs


def is_done(run: Run, folder: RunFolder) -> bool:
    """Whether there is nothing left to do: complete with all that is wanted, or failed twice."""
    if run.keys.overwrite:
        return False
    said = folder.read()
    if said is None:
        return False
    if said["status"] == "failed":
        return said["attempts"] >= 2 and not run.keys.retry
    wanted = {"/".join(pair) for pair in wanted_splits(run)}
    return said["status"] in record.FINISHED and wanted <= set(said["evaluated"])


def make_splits(run: Run) -> dict[tuple[str, str], Split]:
    """All splits of the run's domains, as the protocol says."""
    splits = {}
    fraction, uda_fraction = run.protocol.holdout_fraction, run.protocol.uda_holdout_fraction
    for index, domain in enumerate(run.dataset.domains):
        inside, outside = split_indices(len(domain), fraction, run.keys.trial_seed, index)
        if domain.name in run.domains.test and uda_fraction > 0:
            inside, unlabeled = split_uda(inside, uda_fraction, run.keys.trial_seed, index)
            splits["uda", domain.name] = Split(domain, torch.from_numpy(unlabeled))
        splits["in", domain.name] = Split(domain, torch.from_numpy(inside))
        splits["out", domain.name] = Split(domain, torch.from_numpy(outside))
    for (split, name), part in splits.items():
        if len(part) == 0:
            raise ValueError(
                f"The {split} split of {name} is empty: {len(run.dataset.domains[0])} examples, "
                f"protocol.holdout_fraction={fraction}. Hold out more, or give the domain more examples."
            )
    return splits


def build(run: Run, splits: Mapping[tuple[str, str], Split]) -> Algorithm:
    """The run's algorithm with its initial weights."""
    seed_everything("init", run.seed)
    task = run.dataset.make_task()
    inside = [splits["in", name] for name in run.domains.train]
    if not task.is_classification:
        task.fit_scale(torch.cat([s.domain.targets[s.indices] for s in inside]), run.dataset.options.target_scale)
    options = {name: value for name, value in asdict(run.network).items() if name != "name"}
    network = build_network(
        run.network.name, run.dataset.input_shape, task.num_outputs, dropout=run.optim.dropout, **options
    )
    if len(run.dataset.input_shape) == 1:
        network.normalise.fit(torch.cat([s.domain.__getitems__(s.indices).x for s in inside]))
    return build_algorithm(
        run.algorithm,
        task=task,
        network=network,
        num_domains=len(run.domains.train),
        hparams=run.hp,
        optim=run.optim,
        regime=run.dataset.card.regime,
    )


def _train(run: Run, folder: RunFolder, progress: Callable[[int], None] | None) -> tuple[str, str | None]:
    if run.keys.threads:
        torch.set_num_threads(run.keys.threads)
    splits = make_splits(run)
    algorithm = build(run, splits)
    _refuse_unreachable(run, algorithm)
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
    resume = _resume(folder, algorithm)
    num_steps = run.protocol.num_steps
    assert num_steps is not None
    wanted = wanted_splits(run)
    with _quiet_lightning():
        trainer = _trainer(run, folder)
        device = trainer.strategy.root_device
        evaluation = Evaluation(
            Evaluator({pair: splits[pair] for pair in wanted}, device, run.keys.workers),
            algorithm.task,
            run.protocol,
            run.domains,
            folder,
            checkpoints=run.keys.checkpoints,
            resume=resume,
            progress=progress,
        )
        trainer.callbacks.append(evaluation)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer.fit(algorithm, TrainingLoader(_batches(run, splits, algorithm, device), algorithm, num_steps, run.keys.workers))
    for logger in trainer.loggers:
        logger.finalize("success")
    folder.write(
        seconds=evaluation.seconds,
        steps_done=algorithm.step,
        evaluated=sorted("/".join(pair) for pair in wanted),
        peak_memory=_peak_memory(device),
        hardware={**_hardware(), "device": _device_name(device)},
    )
    if evaluation.diverged:
        return "diverged", f"The loss was NaN or infinite at step {algorithm.step - 1}."
    return "complete", None


def _batches(
    run: Run, splits: Mapping[tuple[str, str], Split], algorithm: Algorithm, device: torch.device
) -> Batches:
    inside = [splits["in", name] for name in run.domains.train]
    targets = torch.cat([split.domain.targets[split.indices] for split in inside])
    owners = torch.cat([torch.full((len(split),), index) for index, split in enumerate(inside)])
    assert run.optim.batch_size is not None
    return Batches(
        inside,
        run.optim.batch_size,
        run.seed,
        draw=algorithm.make_sampler(targets, owners),
        unlabeled=[splits["uda", name] for name in run.domains.test if ("uda", name) in splits],
        augment=run.protocol.augment,
        device=device,
    )


def _refuse_unreachable(run: Run, algorithm: Algorithm) -> None:
    """What the Trainer cannot do for a method that steps its optimizers itself."""
    if algorithm.automatic_optimization:
        return
    options = run.trainer
    for name, asked, why in (
        ("accumulate_grad_batches", options.accumulate_grad_batches != 1, "accumulated"),
        ("gradient_clip_val", options.gradient_clip_val is not None, "clipped"),
        ("precision", options.precision == "16-mixed", "scaled for float16"),
    ):
        if asked:
            raise ValueError(
                f"trainer.{name}={getattr(options, name)} does not reach {run.algorithm}, which makes its gradients "
                f"itself: they would not be {why}. Leave it at its default"
                + (", or use bf16-mixed." if name == "precision" else ".")
            )


def _trainer(run: Run, folder: RunFolder) -> pl.Trainer:
    options = asdict(run.trainer)
    return pl.Trainer(
        **options,
        max_epochs=1,
        max_steps=-1,
        logger=_loggers(run, folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def _loggers(run: Run, folder: RunFolder) -> Any:
    if run.keys.logger == "none":
        return False
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(
        project="dgbench",
        id=run.run_id,
        name=run.label,
        group=run.keys.group,
        save_dir=folder.path,
        config={**run.identity, "label": run.label},
        resume="allow",
    )


def _resume(folder: RunFolder, algorithm: Algorithm) -> dict[str, Any] | None:
    """Load the state of an unfinished run into the algorithm, and cut the rows that came after it."""
    if not folder.resume_file.exists():
        folder.lines_file.unlink(missing_ok=True)
        folder.keep_weights([])
        return None
    state = torch.load(folder.resume_file, map_location="cpu", weights_only=True)
    algorithm.load_state_dict(state["algorithm"]["model"])
    folder.keep_lines(state["step"] - 1)
    return state


def load(run: str | Path, step: int | None = None) -> Algorithm:
    """The trained model of a run, in evaluation mode.

    Args:
        run: the run's folder.
        step: of which evaluation; None: the one that `train_validation` chooses.

    Raises:
        FileNotFoundError: there is no run, or the weights of that step were not kept.
    """
    folder = RunFolder(run)
    said = folder.read()
    if said is None:
        raise FileNotFoundError(f"{run} holds no run.json. Name the folder of one run, as `dgbench status` lists them.")
    if "model" not in said or not folder.lines():
        raise FileNotFoundError(f"{run} has not been evaluated yet; its status is {folder.status()}. Let it finish first.")
    algorithm = _rebuild(said)
    if step is None:
        step = _selected_step(said, folder, algorithm.task)
    file = folder.weights_file(step)
    if not file.exists():
        kept = ", ".join(str(int(f.stem.removeprefix("step_"))) for f in sorted(folder.checkpoints.glob("step_*.pt")))
        raise FileNotFoundError(
            f"{run} keeps no weights of step {step} (kept: {kept or 'none'}). "
            "Run it again with checkpoints=all overwrite=true."
        )
    algorithm.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return algorithm.eval()


def _rebuild(said: Mapping[str, Any]) -> Algorithm:
    identity, model = said["identity"], said["model"]
    task = Task(**model["task"])
    options = {key: value for key, value in identity["network"].items() if key not in ("name", "weights", "compile")}
    network: Network = build_network(
        identity["network"]["name"], tuple(model["input_shape"]), task.num_outputs, **options
    )
    # The weights come from the checkpoint, wherever they came from first.
    network.pretrained = model["pretrained"]
    cls = algorithms[identity["algorithm"]["name"]]
    return build_algorithm(
        cls,
        task=task,
        network=network,
        num_domains=model["num_domains"],
        hparams=cls.HParams(**identity["algorithm"]["hparams"]),
        optim=dgbench.hparams.Optim(**identity["optim"]),
    )


def _selected_step(said: Mapping[str, Any], folder: RunFolder, task: Task) -> int:
    from dgbench.protocol import Domains

    domains = Domains(**{role: tuple(names) for role, names in said["identity"]["domains"].items()})
    best, chosen = -math.inf, -1
    for line in folder.lines():
        values = {key: math.nan if value is None else value for key, value in line["values"].items()}
        score = validation_score(values, domains, task, {key.split("/")[0] for key in values})
        if score > best or chosen < 0:
            best, chosen = score, line["step"]
    return chosen


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Interrupted`, once, wherever the run is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's remarks on devices and durations are for one training, not for a sweep of thousands."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's own deprecation, raised inside Lightning at every batch transfer.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _header(run: Run) -> dict[str, Any]:
    """What run.json says before the first step."""
    return {
        "schema": record.SCHEMA,
        "kind": "train",
        "run_id": run.run_id,
        "label": run.label,
        "identity": run.identity,
        "config": run.config,
        "columns": _columns(run),
        "group": run.keys.group,
        "package_version": dgbench.__version__,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "pytorch-lightning", "numpy", "timm")},
        },
        "hardware": _hardware(),
        "command": sys.argv,
        "created": time.time(),
    }


def _columns(run: Run) -> dict[str, Any]:
    """What tables group by."""
    identity, domains = run.identity, run.domains
    data, network = identity["dataset"], identity["network"]
    return {
        "dataset": run.dataset_name,
        "data": record.identity_hash(data),
        "dataset_domains": " ".join(run.dataset.domain_names),
        "regime": run.dataset.card.regime,
        "score": run.dataset.task.score,
        "train_domains": " ".join(domains.train),
        "val_domains": " ".join(domains.val),
        "test_domains": " ".join(domains.test),
        "protocol": run.protocol.name,
        "protocol_key": record.identity_hash({"protocol": identity["protocol"], "trainer": identity["trainer"]}),
        "network": network["name"],
        "network_key": record.identity_hash(network),
        "algorithm": run.algorithm,
        "averaging": run.keys.averaging,
        "hparams": record.identity_hash({"algorithm": identity["algorithm"], "optim": identity["optim"]}),
        "hparams_seed": run.keys.hparams_seed,
        "trial_seed": run.keys.trial_seed,
        "num_steps": run.protocol.num_steps,
    }


def _hardware() -> dict[str, Any]:
    return {"machine": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device, or of the process for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

