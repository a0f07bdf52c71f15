"""What runs say, once more: one file after the other, one line after the other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from dgbench.record import FINISHED, RunFolder
from dgbench.run_texts import BESIDE, COLUMNS

_RUNS = {"run_id": pl.String, "path": pl.String, "status": pl.String, **BESIDE, **COLUMNS}
_ROWS = {"step": pl.Int64, "weights": pl.String, "split": pl.String, "domain": pl.String, "metric": pl.String}


def runs_naively(*runs_dirs: Path) -> pl.DataFrame:
    """As `dgbench.record.runs`."""
    rows: dict[str, dict[str, Any]] = {}
    for folder in [RunFolder(file.parent) for runs_dir in runs_dirs for file in sorted(runs_dir.glob("*/run.json"))]:
        said = json.loads(folder.run_file.read_text())
        if said.get("kind", "train") != "train":
            continue
        beside = {name: said.get(name) for name in BESIDE}
        row = {"literal": False, **said["columns"], **beside, "path": str(folder.path), "status": folder.status()}
        known = rows.get(said["run_id"])
        if known is None or (known["status"] not in FINISHED and row["status"] in FINISHED):
            rows[said["run_id"]] = row
    return pl.DataFrame([{name: row[name] for name in _RUNS} for row in rows.values()], schema=_RUNS)


def read_naively(*runs_dirs: Path) -> pl.DataFrame:
    """As `dgbench.record.read`, all metrics."""
    of = runs_naively(*runs_dirs)
    rows = []
    for run in of.iter_rows(named=True):
        file = Path(run["path"], "evaluations.jsonl")
        text = file.read_text() if file.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                said = json.loads(line)
                for key, value in said["values"].items():
                    split, domain, metric = key.split("/")
                    told = dict(zip(_ROWS, (said["step"], said["weights"], split, domain, metric), strict=True))
                    n = said["n"][f"{split}/{domain}"]
                    rows.append({**run, **told, "value": math.nan if value is None else float(value), "n": n})
    return pl.DataFrame(rows, schema={**of.schema, **_ROWS, "value": pl.Float64, "n": pl.Int64})
