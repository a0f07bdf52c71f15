"""Submissions as their files say them, without runs: what the page is made of, in numbers of one's own choice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dgbench.leaderboard.submission import Submission

DOMAINS = {
    "digits_rot": ("rot0", "rot15", "rot30", "rot45", "rot60", "rot75"),
    "digits_color": ("plus90", "plus80", "minus90"),
    "digits_style": ("plain", "inverted", "thin", "thick", "blur", "noise"),
    "texture_patches": ("plain", "gamma", "blur", "zoom", "noise", "lowcon"),
}
CRITERIA = ("train_validation", "oracle", "last_step")
Values = Mapping[str, np.ndarray]
"""Per dataset (trials, domains), NaN where a run diverged."""


def values(mean: float, seed: int, datasets: Sequence[str] = tuple(DOMAINS), trials: int = 3) -> dict[str, np.ndarray]:
    """Numbers around a mean; a dataset, a domain and a trial each have their part in them."""
    made = {}
    for place, dataset in enumerate(datasets):
        shared = np.random.default_rng(place)
        own = np.random.default_rng([seed, place])
        base = shared.normal(0, 0.05, (1, len(DOMAINS[dataset]))) + shared.normal(0, 0.01, (trials, 1)) - 0.05 * place
        made[dataset] = np.clip(mean + base + own.normal(0, 0.008, base.shape), 0, 1).round(4)
    return made


def submission(
    name: str,
    of: Values | Mapping[str, Values],
    *,
    algorithm: str | None = None,
    suite: tuple[str, int] | None = ("embedded", 1),
    changes: Mapping[str, Any] | None = None,
    **others: Any,
) -> Submission:
    """A submission that says such values.

    Args:
        name: of the method.
        of: values, for all criteria; or by criterion.
        algorithm: its name; None: `name`.
        suite: what it claims.
        changes: fields of every dataset, or of its `protocol` as `protocol.x`.
        others: fields of `method`, or `contact`, `created`.
    """
    by_criterion = of if all(isinstance(one, Mapping) for one in of.values()) else dict.fromkeys(CRITERIA, of)
    said: dict[str, Any] = {
        "schema_version": "1.0",
        "created": others.pop("created", "2026-01-31T12:00:00Z"),
        "contact": others.pop("contact", "someone@example.org"),
        "suite": None if suite is None else {"name": suite[0], "version": suite[1]},
        "protocol": {
            "name": "dgbench",
            "error_bar": "n-1",
            "use_unfinished": False,
            "oracle_last_record": False,
            "literal": False,
        },
        "method": {
            "name": name,
            "algorithm": algorithm or name,
            "version": 1,
            "averaging": "none",
            "label": "",
            "paper": None,
            "code": None,
            "summary": "",
            "source": None,
            **others,
        },
        "datasets": [_data(dataset, changes or {}) for dataset in next(iter(by_criterion.values()))],
        "hparams": [{"algorithm": {"penalty_weight": 0.5}, "optim": {"lr": 0.001, "batch_size": 16}}],
        "environments": [{"versions": {"dgbench": "0.1.0", "python": "3.11.7", "torch": "2.6.0"}, "hardware": {}}],
        "results": [
            result
            for criterion, own in by_criterion.items()
            for result in _results(criterion, own)  # type: ignore[arg-type]
        ],
        "aggregates": [
            one
            for criterion, own in by_criterion.items()
            for one in _aggregates(criterion, own)  # type: ignore[arg-type]
        ],
        "payload": {"encoding": "base64(zstd(json))", "size": 0, "data": "AAAA"},
        "supersedes": None,
        "checksum": "0" * 64,
    }
    return Submission.model_validate_json(json.dumps(said))


def _data(dataset: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    protocol = {"num_steps": 500, "holdout_fraction": 0.2, "sampling": "balanced"}
    made = {
        "name": dataset,
        "version": 1,
        "options": {},
        "fingerprints": {"-1": "0123456789abcdef"},
        "domains": list(DOMAINS[dataset]),
        "designated_domains": [],
        "score": "accuracy",
        "regime": "small",
        "protocol": protocol,
        "trainer": {"precision": "32-true"},
        "network": {"name": "mlp" if dataset == "digits_rot" else "small_cnn", "width": 16},
    }
    for key, value in changes.items():
        if key.startswith("protocol."):
            protocol[key.removeprefix("protocol.")] = value
        else:
            made[key] = value
    return made


def _results(criterion: str, of: Values) -> list[dict[str, Any]]:
    return [
        {
            "criterion": criterion,
            "dataset": dataset,
            "test_domain": domain,
            "trial_seed": trial,
            "data_seed": -1,
            "run_id": "0123456789abcdef",
            "step": 499,
            "selection_value": 0.9,
            "value": None if math.isnan(numbers[trial, column]) else float(numbers[trial, column]),
            "n": 400,
        }
        for dataset, numbers in of.items()
        for column, domain in enumerate(DOMAINS[dataset])
        for trial in range(len(numbers))
    ]


def _aggregates(criterion: str, of: Values) -> list[dict[str, Any]]:
    return [
        {
            "criterion": criterion,
            "dataset": dataset,
            "column": column,
            "mean": None if np.isnan(numbers).any() else float(numbers.mean()),
            "se": None
            if len(numbers) < 2 or np.isnan(numbers).any()
            else float(numbers.std(ddof=1) / len(numbers) ** 0.5),
            "num_trials": int(np.isfinite(numbers).sum()),
            "expected_trials": len(numbers),
        }
        for dataset, table in of.items()
        for column, numbers in [*zip(DOMAINS[dataset], table.T, strict=True), ("Average", table.mean(axis=1))]
    ]


METHODS = {
    "erm": 0.80, "vrex": 0.81, "coral": 0.805, "mixup": 0.79, "dann": 0.74, "sam": 0.815,
    "irm": 0.76, "group_dro": 0.795, "mldg": 0.80, "fishr": 0.81, "rsc": 0.78, "sag_net": 0.805,
}  # fmt: skip


def many(methods: Mapping[str, float] = METHODS, **others: Any) -> dict[str, Submission]:
    """Submissions to the suite `embedded`, by the names of their files; by the oracle all are a little better."""
    made = {}
    for seed, (name, mean) in enumerate(methods.items()):
        of = {"train_validation": values(mean, seed), "oracle": values(mean + 0.02, 100 + seed)}
        made[f"{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.json"] = submission(
            name, of, algorithm=name.split(" ")[0].lower(), **others
        )
    return made
