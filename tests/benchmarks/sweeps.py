"""Folders of thousands of runs as the runner leaves them, without training."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgbench import expansion
from dgbench.description import header
from dgbench.record import identity_hash

ALGORITHMS = ("erm", "irm", "vrex", "coral", "mmd", "dann", "mixup", "sam", "fish", "sd")
DATASETS = ("digits_color", "digits_style")
DOMAINS = ("north", "east", "south", "west")
METRICS = ("accuracy", "correct", "macro_accuracy", "nll", "ece")
STEPS = tuple(range(0, 5001, 300))
DRAWS, TRIALS = 20, 3
# One domain left out, or two: what `test_domains=each,pairs` of four domains asks for.
LEFT_OUT = [(name,) for name in DOMAINS] + list(itertools.combinations(DOMAINS, 2))
RUNS = len(ALGORITHMS) * len(DATASETS) * DRAWS * TRIALS * len(LEFT_OUT)


def make_sweep(runs_dir: Path, num_runs: int = RUNS, num_lines: int | None = None) -> int:
    """Write complete runs of methods on datasets of four domains, single and in pairs, draws and trials.

    Numbers are drawn; files are as large as those of training, and dated an hour ago as if it were over.

    Args:
        runs_dir: where.
        num_runs: so many; the grid has `RUNS`.
        num_lines: evaluations in all; None: at each of `STEPS`.

    Returns:
        How many evaluations were written.
    """
    job, *_ = expansion.expand(["dataset=digits_color", "protocol=domainbed_2020", f"runs_dir={runs_dir}"])
    said, rng, written = header(job.run), random.Random(0), 0
    grid = itertools.product(ALGORITHMS, DATASETS, range(DRAWS), range(TRIALS), LEFT_OUT)
    for place, cell in enumerate(itertools.islice(grid, num_runs)):
        steps = STEPS
        if num_lines is not None:
            steps = steps[: num_lines * (place + 1) // num_runs - num_lines * place // num_runs]
        _write(runs_dir, _described(said, *cell), list(_lines(rng, cell[-1], steps)))
        written += len(steps)
    return written


def _described(
    said: dict[str, Any], algorithm: str, dataset: str, draw: int, trial: int, test: tuple[str, ...]
) -> dict[str, Any]:
    said = copy.copy(said)
    train = [name for name in DOMAINS if name not in test]
    said["columns"] = {
        **said["columns"],
        "algorithm": algorithm,
        "dataset": dataset,
        "data": f"data of {dataset}",
        "data_seed": -1,
        "hparams": identity_hash({"algorithm": algorithm, "draw": draw}),
        "hparams_seed": draw,
        "trial_seed": trial,
        "dataset_domains": " ".join(DOMAINS),
        "train_domains": " ".join(train),
        "val_domains": "",
        "test_domains": " ".join(test),
        "num_steps": STEPS[-1] + 1,
        "last_evaluation": STEPS[-1],
    }
    config = {**said["config"], "algorithm": {"name": algorithm}, "dataset": {"name": dataset}}
    said["config"] = {**config, "hparams_seed": draw, "trial_seed": trial, "test_domains": "+".join(test)}
    said["run_id"] = identity_hash(said["columns"])
    said |= {"status": "complete", "reason": None, "seconds": 300.5, "peak_memory": 900_000_000}
    return said


def _lines(rng: random.Random, test: tuple[str, ...], steps: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    # Pairs of domains are left out for cross-validation, which looks at nothing else.
    places = [f"in/{name}" for name in test]
    if len(test) == 1:
        places += [f"out/{name}" for name in DOMAINS]
    for step in steps:
        values = {f"{place}/{metric}": rng.random() for place in places for metric in METRICS}
        yield {"step": step, "weights": "last", "values": values, "n": dict.fromkeys(places, 400)}


def _write(runs_dir: Path, said: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    folder = runs_dir / said["run_id"]
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    past = time.time() - 3600
    for name in ("run.json", "evaluations.jsonl"):
        os.utime(folder / name, (past, past))
