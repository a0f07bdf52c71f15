"""What a run trains with: its model, its batches, its Trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.clock import seed_everything
from dgbench.loader import Batches, Split, TrainingLoader
from dgbench.network import build_network
from dgbench.record import RunFolder
from dgbench.registry import algorithms
from dgbench.run import Run
from dgbench.splits import HELD_OUT, make_splits, wanted_splits

# Examples per domain that are read for the statistics of inputs which are not in memory.
STATISTICS_EXAMPLES = 300


def build(run: Run, splits: Mapping[tuple[str, str], Split]) -> Algorithm:
    """The run's algorithm with its initial weights."""
    seed_everything("init", run.seed)
    task = run.data.make_task()
    inside = [splits["in", name] for name in run.domains.train]
    task.fit_scale(torch.cat([s.domain.targets[s.indices] for s in inside]), run.dataset.options.target_scale)
    options = {name: value for name, value in asdict(run.network).items() if name != "name"}
    network = build_network(
        run.network.name, run.dataset.input_shape, task.num_outputs, dropout=run.optim.dropout, **options
    )
    needs = algorithms[run.algorithm].needs
    if needs.metadata and any(split.domain.metadata is None for split in inside):
        raise ValueError(f"{run.algorithm} needs domain metadata, which {run.dataset_name} does not have.")
    sampling = run.protocol.sampling
    domain_rows = sampling not in ("pooled", "merged")
    unmet = needs.unmet(task, len(inside), pretrained=network.pretrained, domain_rows=domain_rows)
    if unmet:
        raise ValueError(f"{run.algorithm} {unmet}.")
    if sampling.startswith("domains:") and int(sampling[8:]) < needs.min_domains:
        raise ValueError(
            f"{run.algorithm} needs at least {needs.min_domains} training domains in a batch, but "
            f"protocol.sampling={sampling}. Take more domains at a time."
        )
    if network.recipe["normalise"] == "data":
        network.normalise.fit(torch.cat([_sampled(split) for split in inside]))
    return build_algorithm(
        run.algorithm,
        task=task,
        network=network,
        num_domains=len(run.domains.train),
        hparams=run.hp,
        optim=run.optim,
        regime=run.dataset.card.regime,
    )


def _sampled(split: Split) -> torch.Tensor:
    """Inputs to take statistics of: all that are in memory, else every n-th, some hundred."""
    every = 1 if split.domain.resident is not None else max(1, len(split) // STATISTICS_EXAMPLES)
    return split.domain.__getitems__(split.indices[::every]).x


def make_loader(
    run: Run, splits: Mapping[tuple[str, str], Split], algorithm: Algorithm, device: torch.device
) -> TrainingLoader:
    """The run's batches, from the algorithm's current step to the last."""
    inside = [splits["in", name] for name in run.domains.train]
    targets = torch.cat([split.domain.targets[split.indices] for split in inside])
    owners = torch.cat([torch.full((len(split),), index) for index, split in enumerate(inside)])
    assert run.optim.batch_size is not None
    assert run.protocol.num_steps is not None
    batches = Batches(
        inside,
        run.optim.batch_size,
        run.seed,
        sampling=run.protocol.sampling,
        replacement=run.protocol.replacement,
        draw=algorithm.make_sampler(targets, owners),
        unlabeled=[splits["uda", name] for name in run.domains.test if ("uda", name) in splits],
        augment=run.protocol.augment,
        device=device,
    )
    return TrainingLoader(batches, algorithm, run.protocol.num_steps, run.keys.workers)


_REFUSALS: dict[str, str | None] = {}


def refusal(run: Run) -> str | None:
    """Why a run would fail before its first step, as its method says it; None if it would not.

    Builds the model to know; runs that share method, data, network and number of training domains share the answer.
    """
    identity = run.identity
    shared = ("dataset", "network", "algorithm", "protocol", "averaging")
    key = json.dumps([[identity[name] for name in shared], len(run.domains.train)], sort_keys=True)
    if key not in _REFUSALS:
        try:
            refuse_unreachable(run, build(run, make_splits(run)))
            _REFUSALS[key] = None
        except ValueError as error:
            _REFUSALS[key] = " ".join(str(error).split())
    return _REFUSALS[key]


def refuse_unreachable(run: Run, algorithm: Algorithm) -> None:
    """Refuse what an average lacks, and what the Trainer cannot do for a method that steps its optimizers itself.

    Raises:
        ValueError: the run asks for it.
    """
    held_out = [name for split, name in wanted_splits(run) if split in HELD_OUT and name in run.domains.train]
    if run.keys.averaging.startswith("swad") and not held_out:
        raise ValueError(
            f"averaging={run.keys.averaging} follows the loss on examples held out of the training domains, but this "
            "run holds none out. Use another averaging, or splits that do."
        )
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


def make_trainer(run: Run, folder: RunFolder, logger: Any) -> pl.Trainer:
    """The Trainer that the run's keys `trainer.*` ask for."""
    options = asdict(run.trainer)
    trainer = pl.Trainer(
        **options,
        max_epochs=1,
        max_steps=-1,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )
    if not torch.cuda.is_available():
        # Lightning turns this on, and then every step of Adam asks the driver for GPUs that are not there.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return trainer
