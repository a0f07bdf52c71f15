"""Trained models: from a run's folder back to an algorithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dgbench.algorithm import Algorithm, build_algorithm
from dgbench.averaging import weights_name
from dgbench.evaluation import validation_score
from dgbench.hparams import Optim
from dgbench.network import Network, build_network
from dgbench.protocol import Domains
from dgbench.record import RunFolder, read
from dgbench.registry import algorithms
from dgbench.selection import selection
from dgbench.task import Task

DEFAULT = "train_validation"
"""The criterion by which weights are kept."""


def load(run: str | Path, step: int | None = None, criterion: str = DEFAULT) -> Algorithm:
    """The trained model of a run, in evaluation mode.

    Args:
        run: the run's folder.
        step: of which evaluation; None: the one that `criterion` chooses.
        criterion: chooses among the run's evaluations; `train_validation` takes the last where nothing was held out.

    Raises:
        FileNotFoundError: there is no run, or the weights of that step were not kept.
        UnknownName: there is no criterion of that name.
        ValueError: another program made the run, or the criterion chooses no step of it, or several.
    """
    folder = RunFolder(run)
    said = folder.read()
    if said is None:
        raise FileNotFoundError(f"{run} holds no run.json. Name the folder of one run, RUNS_DIR/RUN_ID.")
    if "config" not in said:
        raise ValueError(f"{run} is a record of another program and has no weights. Name a run that dgbench made.")
    # Only the weights that compete are kept.
    lines = [line for line in folder.lines() if line["weights"] == weights_name(said["identity"]["averaging"])]
    if "model" not in said or not lines:
        raise FileNotFoundError(
            f"{run} has not been evaluated yet; its status is {folder.status()}. Let it finish first."
        )
    algorithm = _rebuild(said)
    if step is None:
        step = _selected_step(said, lines, algorithm.task) if criterion == DEFAULT else _chosen_step(folder, criterion)
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
    # Weights and input statistics come from the checkpoint, wherever they came from first.
    left_out = ("name", "weights", "normalise", "compile")
    options = {key: value for key, value in identity["network"].items() if key not in left_out}
    network: Network = build_network(
        identity["network"]["name"], tuple(model["input_shape"]), task.num_outputs, **options
    )
    network.pretrained = model["pretrained"]
    network.recipe |= {"normalise": identity["network"]["normalise"], "weights": identity["network"]["weights"]}
    cls = algorithms[identity["algorithm"]["name"]]
    return build_algorithm(
        cls,
        task=task,
        network=network,
        num_domains=model["num_domains"],
        hparams=cls.HParams(**identity["algorithm"]["hparams"]),
        optim=Optim(**identity["optim"]),
    )


def _chosen_step(folder: RunFolder, criterion: str) -> int:
    """The step that a criterion chooses of this run alone, for all its test domains."""
    chosen = selection(criterion).choose(read(folder.path))
    if len(steps := chosen["step"].unique().sort()) == 1:
        return steps[0]
    said = ", ".join(f"{row['step']} for {row['test_domain']}" for row in chosen.iter_rows(named=True))
    raise ValueError(
        f"criterion={criterion} chooses {said or 'no step'} of the run {folder.path.name}, expected one step. "
        "Name another criterion, or a step."
    )


def _selected_step(said: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], task: Task) -> int:
    domains = Domains(**{role: tuple(names) for role, names in said["identity"]["domains"].items()})
    scores = []
    for line in lines:
        values = {key: math.nan if value is None else value for key, value in line["values"].items()}
        scores.append(validation_score(values, domains, task, {key.split("/")[0] for key in values}))
    if all(map(math.isnan, scores)):  # nothing was held out to choose by
        return lines[-1]["step"]
    best = max(score for score in scores if not math.isnan(score))
    return lines[scores.index(best)]["step"]
