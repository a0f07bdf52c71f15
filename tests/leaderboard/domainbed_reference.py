"""DomainBed's selection and tables, spelt out record by record with loops: slow, and easy to hold against the rules.

A record is a line of results.jsonl. A number is kept as Python adds it up, in the order of the environments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# Validation score and test accuracy of one step, or of one draw of hyper-parameters.
Pair = tuple[float, float]


def load(sweep_dir: Path) -> list[Record]:
    """All records, whether their runs are done or not; a line cut short is none."""
    records = []
    for file in sorted(sweep_dir.glob("*/results.jsonl")):
        for line in file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return records


def accuracy(record: Record, env: int, split: str) -> float:
    return record[f"env{env}_{split}_acc"]


def number_of_envs(record: Record) -> int:
    count = 0
    while f"env{count}_out_acc" in record:
        count += 1
    return count


def order(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def best(pairs: list[Pair]) -> Pair | None:
    """The first of the highest validation scores."""
    found = None
    for pair in pairs:
        if found is None or order(pair[0]) > order(found[0]):
            found = pair
    return found


def train_validation(records: list[Record], env: int) -> Pair | None:
    pairs = []
    for record in records:
        if record["args"]["test_envs"] != [env]:
            continue
        total, count = 0.0, 0
        for other in range(number_of_envs(record)):
            if other != env:
                total += accuracy(record, other, "out")
                count += 1
        pairs.append((total / count, accuracy(record, env, "in")))
    return best(pairs)


def domain_cross_validation(records: list[Record], env: int) -> Pair | None:
    pairs = []
    for step in sorted({record["step"] for record in records}):
        singles, held_out, count = [], {}, 0
        for record in records:
            if record["step"] != step:
                continue
            tested = set(record["args"]["test_envs"])
            if tested == {env}:
                singles.append(record)
            elif len(tested) == 2:
                (other,) = tested - {env}
                held_out[other] = accuracy(record, other, "in")
            count = number_of_envs(record)
        if len(singles) != 1 or len(held_out) != count - 1:
            continue
        total = 0.0
        for other in range(count):
            if other != env:
                total += held_out[other]
        pairs.append((total / (count - 1), accuracy(singles[0], env, "in")))
    return best(pairs)


def oracle(records: list[Record], env: int) -> Pair | None:
    last = None
    for record in records:
        if record["args"]["test_envs"] == [env] and (last is None or record["step"] >= last["step"]):
            last = record
    return None if last is None else (accuracy(last, env, "out"), accuracy(last, env, "in"))


CRITERIA: dict[str, Callable[[list[Record], int], Pair | None]] = {
    "train_validation": train_validation,
    "domain_cross_validation": domain_cross_validation,
    "oracle": oracle,
}


def chosen(records: list[Record], criterion: str) -> dict[tuple[str, str, int, int], float]:
    """Test accuracy by dataset, method, environment and trial, where there is one."""
    groups: dict[tuple[str, str, int, int], dict[int, list[Record]]] = {}
    for record in records:
        args = record["args"]
        for env in args["test_envs"]:
            draws = groups.setdefault((args["dataset"], args["algorithm"], env, args["trial_seed"]), {})
            draws.setdefault(args["hparams_seed"], []).append(record)
    values = {}
    for group, draws in groups.items():
        winner = None
        for seed in sorted(draws):
            pair = CRITERIA[criterion](draws[seed], group[2])
            # Of equal draws the one of the largest seed.
            if pair is not None and (winner is None or order(pair[0]) >= order(winner[0])):
                winner = pair
        if winner is not None:
            values[group] = winner[1]
    return values


def mean(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def error(values: list[float]) -> float:
    """Standard error with the divisor n."""
    center, total = mean(values), 0.0
    for value in values:
        total += (value - center) ** 2
    return math.sqrt(total / len(values)) / math.sqrt(len(values))


def cells(records: list[Record], criterion: str) -> dict[tuple[str, str, int], tuple[str, str] | None]:
    """Mean and error over trials in per cent as printed, by dataset, method and environment; None: X."""
    values = chosen(records, criterion)
    found: dict[tuple[str, str, int], tuple[str, str] | None] = {}
    for record in records:
        name = (record["args"]["dataset"], record["args"]["algorithm"])
        for env in range(number_of_envs(record)):
            of_trials = [values[key] for key in sorted(values) if key[:3] == (*name, env)]
            made = (f"{100 * mean(of_trials):.1f}", f"{100 * error(of_trials):.1f}") if of_trials else None
            found[*name, env] = made
    return found


def averages(records: list[Record], criterion: str) -> dict[tuple[str, str], tuple[float, float, float] | None]:
    """By dataset and method, in per cent: the last column of its own table; mean and error of the table of averages."""
    values = chosen(records, criterion)
    found: dict[tuple[str, str], tuple[float, float, float] | None] = {}
    for record in records:
        name = (record["args"]["dataset"], record["args"]["algorithm"])
        trials: dict[int, list[float]] = {}
        envs: dict[int, list[float]] = {}
        for (dataset, algorithm, env, trial), value in sorted(values.items()):
            if (dataset, algorithm) == name:
                trials.setdefault(trial, []).append(value)
                envs.setdefault(env, []).append(value)
        if len(envs) < number_of_envs(record):
            found[name] = None
            continue
        of_trials = [mean(one) for one in trials.values()]
        of_envs = [100 * mean(one) for one in envs.values()]
        found[name] = (mean(of_envs), 100 * mean(of_trials), 100 * error(of_trials))
    return found
