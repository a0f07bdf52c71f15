"""Folders as DomainBed's sweep leaves them, without training."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench.protocol import seed_hash

Score = Callable[[random.Random], float]
Test = Sequence[int]
STEPS = (0, 300, 600, 900)
ENVS = {"PACS": 4, "ColoredMNIST": 3}
METHODS = ("ERM", "VREx", "Mine")


def records(
    dataset: str,
    algorithm: str,
    test: Test,
    draw: int,
    trial: int,
    *,
    envs: int,
    year: int,
    score: Score,
    steps: Iterable[int] = STEPS,
) -> list[dict[str, Any]]:
    """The records of one run, with the keys of 2020 or of 2024 and random accuracies."""
    seed = seed_hash(dataset, algorithm, list(test), draw, trial)
    args: dict[str, Any] = {"dataset": dataset, "algorithm": algorithm, "test_envs": list(test), "hparams_seed": draw}
    args |= {"trial_seed": trial, "seed": seed, "steps": None, "checkpoint_freq": None, "holdout_fraction": 0.2}
    args |= {"data_dir": "/data", "output_dir": "sweep/run", "hparams": None, "skip_model_save": False}
    if year == 2024:
        args |= {"task": "domain_generalization", "uda_holdout_fraction": 0, "save_model_every_checkpoint": False}
    rng, made = random.Random(seed), []
    for step in steps:
        accuracies = {f"env{i}_{split}_acc": score(rng) for i in range(envs) for split in ("in", "out")}
        usual = {"args": args, "hparams": {"lr": 1e-3}, "step": step, "epoch": step / 100, "step_time": 0.1}
        made.append({**usual, **accuracies, "loss": rng.random()} | ({"mem_gb": 1.5} if year == 2024 else {}))
    return made


def write(folder: Path, lines: Iterable[Mapping[str, Any]], *, done: bool = True, torn: bool = False) -> Path:
    """Write results.jsonl, and `done`; torn: the last line was cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text[: -len(text.splitlines()[-1]) // 2] if torn else text)
    if done:
        (folder / "done").write_text("done")
    return folder


def two_digits(rng: random.Random) -> float:
    """An accuracy; sums of such tie often, and often but for the last bit."""
    return rng.randrange(101) / 100


def make_sweep(sweep_dir: Path, trouble: float) -> Path:
    """All single and pair runs of three methods on two datasets; of a part `trouble` each something is wrong."""
    rng = random.Random(1)
    for number, of in enumerate(every_run()):
        kinds = [kind for kind in ("missing", "unfinished", "torn", "again", "nan") if rng.random() < trouble]
        of["year"] = 2024 if of["dataset"] == "PACS" else 2020
        lines = records(**of, score=two_digits)
        if "nan" in kinds:
            start = rng.choice((0, 2))
            broken = [{k: math.nan if k.endswith("_acc") else v for k, v in one.items()} for one in lines[start:]]
            lines[start:] = broken
        if "unfinished" in kinds:
            lines = lines[: rng.randrange(1, 4)]
        if "again" in kinds:
            lines += records(**of, score=lambda _: two_digits(rng))[: rng.randrange(1, 5)]
        if "missing" not in kinds:
            write(sweep_dir / f"run{number:03d}", lines, done="unfinished" not in kinds, torn="torn" in kinds)
    return sweep_dir


def every_run() -> list[dict[str, Any]]:
    """What `records` takes, but for the year and the scores: four draws in three trials."""
    return [
        {"dataset": dataset, "algorithm": algorithm, "test": test, "draw": draw, "trial": trial, "envs": envs}
        for dataset, envs in ENVS.items()
        for algorithm, draw, trial in itertools.product(METHODS, range(4), range(3))
        for number in (1, 2)
        for test in itertools.combinations(range(envs), number)
    ]
