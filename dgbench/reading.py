"""Sweeps read: which runs lie in some folders, and their evaluations, as frames."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dgbench import run_texts
from dgbench.record import FINISHED, SCHEMA, RunFolder, folders
from dgbench.run_index import Source, gather

_MAY_RUN = pl.col("status").is_in(["running", "interrupted"])
# Whether an unfinished run is still running, its lock tells, not its file.
_RUNS = Source("run.json", run_texts.said, run_texts.SAID, ~_MAY_RUN.fill_null(False))
_EVALUATIONS = Source("evaluations.jsonl", run_texts.lines, run_texts.LINES, pl.lit(True))
_BESIDE = [name for name in run_texts.BESIDE if name not in ("run_id", "status")]
_NOW: dict[str, Any] = {"path": pl.String, "now": pl.String}
_LONG: dict[str, Any] = {
    "line": pl.Int64,
    "step": pl.Int64,
    "weights": pl.String,
    "split": pl.String,
    "domain": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
}


def kinds(paths: str | Path | Sequence[str | Path]) -> set[str]:
    """What lies in some folders: `train`, runs, and `adapt`, adaptations of such."""
    return set(gather(folders(paths), _RUNS)["kind"])


def runs(paths: str | Path | Sequence[str | Path]) -> pl.DataFrame:
    """What `dgbench.record.runs` gives."""
    found = folders(paths)
    said = gather(found, _RUNS).filter(kind="train")
    path = pl.Series("path", found, dtype=pl.String).gather(said["place"])
    if len(others := said.filter(pl.col("schema") != SCHEMA)):
        place, schema = others.select("place", "schema").row(0)
        raise ValueError(
            f"{RunFolder(found[place]).run_file} has schema {schema}, expected {SCHEMA}: another version of dgbench "
            "wrote it. Name a folder without it, or make the runs again."
        )
    said = said.with_columns(path)
    begun = said.filter(_MAY_RUN)["path"]
    now = pl.DataFrame({"path": begun, "now": [RunFolder(path).status() for path in begun]}, schema=_NOW)
    said = said.join(now, on="path", how="left").with_columns(status=pl.coalesce("now", "status"))
    first = said.with_columns(first=pl.col("place").min().over("run_id"), late=~pl.col("status").is_in(FINISHED))
    once = first.sort("late", "place").unique("run_id", keep="first", maintain_order=True).sort("first")
    return once.select("run_id", "path", "status", *_BESIDE, *run_texts.COLUMNS)


def read(source: str | Path | Sequence[str | Path] | pl.DataFrame, metrics: Collection[str] | None) -> pl.DataFrame:
    """What `dgbench.record.read` gives."""
    of = source if isinstance(source, pl.DataFrame) else runs(source)
    lines = gather(of["path"].to_list(), _EVALUATIONS).filter(pl.col("keys") != "").with_row_index("line")
    parts = [_long(part, metrics) for part in lines.partition_by("keys", maintain_order=True)]
    rows = pl.concat([pl.DataFrame(schema=_LONG), *parts]).sort("line", maintain_order=True)
    return of[lines["place"].gather(rows["line"])].hstack(rows.drop("line"))


def _long(lines: pl.DataFrame, metrics: Collection[str] | None) -> pl.DataFrame:
    """One row per line and value of lines that have the same keys."""
    keys = [key.split("/") for key in lines["keys"][0].split("\n")]
    wanted = [i for i, (_, _, metric) in enumerate(keys) if metrics is None or metric in metrics]
    line, key = np.indices((len(lines), len(wanted))).reshape(2, -1)
    texts = {
        name: pl.Series([keys[i][part] for i in wanted], dtype=pl.String).gather(key)
        for part, name in enumerate(("split", "domain", "metric"))
    }
    numbers = {
        name: lines[column].explode().to_numpy().reshape(len(lines), len(keys))[:, wanted].reshape(-1)
        for name, column in (("value", "values"), ("n", "n"))
    }
    return pl.DataFrame(
        {name: lines[name].gather(line) for name in ("line", "step", "weights")} | texts | numbers, schema=_LONG
    )
