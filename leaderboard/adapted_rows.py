"""What adaptations recorded, as rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dgbench import record
from dgbench.registry import UnknownName
from dgbench.selection import LOWER_IS_BETTER
from dgbench.trained import DEFAULT
from dgbench.visit import MIXED


def read_rows(folders: Sequence[record.RunFolder], metric: str | None) -> tuple[pl.DataFrame, str | None]:
    """One row per complete adaptation, phase, round and domain, and a sentence on those that are not complete.

    Where a stream pools domains, all of them together are one more, `mixed`, of which `is_pooled` is true. What is no
    number is NaN.

    Args:
        folders: of adaptations; others are passed over.
        metric: what stands in the column `value`; None: the score.

    Raises:
        UnknownName: a metric that an adaptation does not have.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    others: dict[str, str] = {}
    for folder in folders:
        said = folder.read() or {}
        if said.get("kind") != "adapt" or said["run_id"] in seen:
            continue
        if (status := folder.status()) != "complete":
            others[said["run_id"]] = f"{said['columns']['adapter']} {status}"
            continue
        seen.add(said["run_id"])
        columns = said["columns"]
        facts = {**facts_of(said), "seconds_per_batch": said["seconds_per_batch"]}
        for line in folder.lines():
            for name in line["n"]:
                own = {key: value for key, value in line["values"].items() if key.startswith(f"{name}/")}
                measured = {key.split("/")[2]: _number(value) for key, value in own.items()}
                if metric is not None and metric not in measured:
                    raise UnknownName(f"metric of {columns['dataset']}", metric, measured)
                where: dict[str, Any] = {"phase": line["phase"], "round": line["round"], "domain": name.split("/")[1]}
                where["is_pooled"] = where["domain"] == MIXED and len(line["n"]) > 1
                sign = -1 if columns["score"] in LOWER_IS_BETTER else 1
                where["signed_score"] = sign * measured[columns["score"]]
                rows.append({**facts, **where, "value": measured[metric or columns["score"]], **measured})
    counts = Counter(what for run_id, what in others.items() if run_id not in seen)
    listed = ", ".join(f"{number} of {what.replace(' ', ' (')})" for what, number in sorted(counts.items()))
    return pl.DataFrame(rows, infer_schema_length=None), f"Left out, as not complete: {listed}." if counts else None


def facts_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the run.json of an adaptation says that tables and pictures group by."""
    columns, adapter = said["columns"], said["identity"]["adapter"]
    return {
        "source_criterion": DEFAULT,  # of adaptations made before there was another
        **columns,
        "num_train": len(columns["train_domains"].split()),
        "adapter_options": json.dumps({**adapter["hparams"], "version": adapter["version"]}),
        "answers": said["answers"],
        "run_id": said["run_id"],
    }


def _number(value: float | None) -> float:
    """JSON has null for NaN."""
    return float("nan") if value is None else value
