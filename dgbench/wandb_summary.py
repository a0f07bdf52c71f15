"""What the summary of a W&B run says, so that a dashboard can rank runs as a table would."""

from __future__ import annotations

import math
from typing import Any

from dgbench import record
from dgbench.record import FINISHED, RunFolder
from dgbench.selection import criteria, selection
from dgbench.visit import MIXED

COST = ("status", "reason", "seconds", "peak_memory", "steps_done", "seconds_per_batch")


def summary(folder: RunFolder) -> dict[str, Any]:
    """The columns of run.json, status and cost, and of a finished run what each criterion chooses within it.

    For each criterion `<criterion>/step`, `/validation` (the score by which it chooses) and `/test` (what would be
    reported), or `<criterion>/<domain>/step` and so on of a run that tests on several domains. A criterion that this
    run cannot answer alone, as `domain_cross_validation`, is left out, and so is a NaN. Of an adaptation
    `<phase>/<metric>`: the mean over the domains that were streamed, and over the training domains afterwards.
    """
    said = folder.read() or {}
    made = {**said.get("columns", {}), **{key: said[key] for key in COST if key in said}}
    if said.get("status") in FINISHED:
        made |= _phases(folder) if said.get("kind") == "adapt" else _choices(folder)
    return made


def _choices(folder: RunFolder) -> dict[str, Any]:
    rows = record.read(folder.path)
    made: dict[str, Any] = {}
    for name in criteria():
        chosen = selection(name).choose(rows).to_dicts()
        for row in chosen:
            place = name if len(chosen) == 1 else f"{name}/{row['test_domain']}"
            told = {"step": row["step"], "validation": row["selection_value"], "test": row["value"]}
            made |= {f"{place}/{key}": value for key, value in told.items() if not math.isnan(value)}
    return made


def _phases(folder: RunFolder) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for line in folder.lines():
        for key, value in line["values"].items():
            _, domain, metric = key.split("/")
            if domain == MIXED and len(line["n"]) > 1:
                continue  # all domains pooled, which are there one by one
            values.setdefault(f"{line['phase']}/{metric}", []).append(math.nan if value is None else value)
    means = {key: math.fsum(numbers) / len(numbers) for key, numbers in values.items()}
    return {key: mean for key, mean in means.items() if not math.isnan(mean)}
