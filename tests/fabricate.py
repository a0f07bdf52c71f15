"""Folders of runs as the runner leaves them, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench.record import SCHEMA, RunFolder, identity_hash

# Method, test domain, trials: numbers small enough to average by hand.
NUMBERS = {
    ("erm", "a"): (0.50, 0.60, 0.70),
    ("erm", "b"): (0.80, 0.80, 0.80),
    ("erm", "c_long_name"): (0.20, 0.10, 0.30),
    ("vrex", "a"): (0.60, 0.60, 0.90),
    ("vrex", "b"): (0.90, 0.80, 0.70),
    ("vrex", "c_long_name"): (0.30, 0.30, 0.60),
}
DOMAINS = ("a", "b", "c_long_name")
Line = tuple[int, Mapping[str, float]]


def make_run(
    runs_dir: Path,
    lines: Iterable[Line] = (),
    *,
    domains: Sequence[str] = ("a", "b", "c"),
    test: Sequence[str] = ("a",),
    val: Sequence[str] = (),
    train: Sequence[str] | None = None,
    status: str = "complete",
    version: str = "0.1.0",
    weights: str = "last",
    metric: str | None = None,
    **columns: Any,
) -> str:
    """Write one run; returns its run_id.

    Args:
        runs_dir: where.
        lines: (step, {"split/domain": score}).
        domains: of the dataset.
        test: domains tested on.
        val: domains validated on.
        train: domains trained on; None: the others.
        status: of the run.
        version: of the package.
        weights: of the lines.
        metric: of the lines; None: the score.
        columns: of run.json, instead of the standard ones.
    """
    lines = list(lines)
    rest = [name for name in domains if name not in (*test, *val)]
    said: dict[str, Any] = {
        "dataset": "toy",
        "data": "data0",
        "dataset_domains": " ".join(domains),
        "regime": "small",
        "score": "accuracy",
        "train_domains": " ".join(rest if train is None else train),
        "val_domains": " ".join(val),
        "test_domains": " ".join(test),
        "protocol": "dgbench",
        "protocol_key": "protocol0",
        "error_bar": "n-1",
        "use_unfinished": False,
        "oracle_last_record": False,
        "network": "mlp",
        "network_key": "network0",
        "algorithm": "erm",
        "averaging": "none",
        "label": "",
        "variant": "",
        "tuned": "",
        "hparams_seed": 0,
        "trial_seed": 0,
        "data_seed": -1,
        "designated_domains": "",
        "num_steps": 1 + max([step for step, _ in lines], default=299),
        **columns,
    }
    said.setdefault("last_evaluation", said["num_steps"] - 1)
    said.setdefault("hparams", f"hparams{said['hparams_seed']}")
    run_id = identity_hash(said)
    folder = RunFolder(runs_dir / run_id)
    folder.create()
    folder.write(
        schema=SCHEMA,
        kind="train",
        run_id=run_id,
        columns=said,
        status=status,
        reason="ValueError: no." if status == "failed" else None,
        group=None,
        seconds=1.5,
        peak_memory=1000,
        package_version=version,
    )
    add_lines(folder, lines, metric or said["score"], weights)
    return run_id


def add_lines(folder: RunFolder, lines: Iterable[Line], metric: str = "accuracy", weights: str = "last") -> None:
    """Append evaluations; each score has an `nll` of one minus it at its side."""
    with folder.lines_file.open("a") as file:
        for step, scores in lines:
            values = {}
            for key, score in scores.items():
                values[f"{key}/{metric}"] = None if math.isnan(score) else score
                values[f"{key}/nll"] = None if math.isnan(score) else 1 - score
            n = {key: 100 for key in scores}
            file.write(json.dumps({"step": step, "weights": weights, "values": values, "n": n}) + "\n")


def make_scores(
    test: str, value: float, held_out: float = 0.5, domains: Sequence[str] = ("a", "b", "c"), oracle: float = 0.5
) -> dict[str, float]:
    """Scores of one evaluation: `value` is what is reported, `held_out` and `oracle` are what selects.

    Args:
        test: test domain.
        value: on its `in` split.
        held_out: on the `out` split of each training domain.
        domains: of the dataset.
        oracle: on the test domain's `out` split.
    """
    scores = {f"out/{name}": held_out for name in domains if name != test}
    return {**scores, f"in/{test}": value, f"out/{test}": oracle}


def make_runs(
    runs_dir: Path,
    numbers: Mapping[tuple[str, str], Sequence[float]] = NUMBERS,
    skip: Callable[..., bool] = lambda *cell: False,
    **columns: Any,
) -> Path:
    """Write a run for each of `numbers` of which `skip(algorithm, test domain, trial)` is not true."""
    for (algorithm, test), values in numbers.items():
        for trial, value in enumerate(values):
            if not skip(algorithm, test, trial):
                make_run(
                    runs_dir,
                    [(0, make_scores(test, value, domains=DOMAINS))],
                    domains=DOMAINS,
                    test=[test],
                    **{"algorithm": algorithm, "trial_seed": trial, **columns},
                )
    return runs_dir
