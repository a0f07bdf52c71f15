"""What the text of thousands of run.json and evaluations.jsonl says, in frames.

JSON is parsed by polars where it is what dgbench writes: one layout of keys for all lines of a file. A file that is
anything else is read by Python's json, line by line, and what is wrong with it is said.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl

from dgbench.record import SCHEMA, RunFolder

# Of run.json: what `columns` holds, and what stands beside it.
COLUMNS: dict[str, Any] = {
    "dataset": pl.String,
    "data": pl.String,
    "data_seed": pl.Int64,
    "dataset_domains": pl.String,
    "designated_domains": pl.String,
    "regime": pl.String,
    "score": pl.String,
    "train_domains": pl.String,
    "val_domains": pl.String,
    "test_domains": pl.String,
    "protocol": pl.String,
    "protocol_key": pl.String,
    "error_bar": pl.String,
    "use_unfinished": pl.Boolean,
    "oracle_last_record": pl.Boolean,
    "literal": pl.Boolean,
    "network": pl.String,
    "network_key": pl.String,
    "algorithm": pl.String,
    "averaging": pl.String,
    "label": pl.String,
    "variant": pl.String,
    "tuned": pl.String,
    "hparams": pl.String,
    "hparams_seed": pl.Int64,
    "trial_seed": pl.Int64,
    "num_steps": pl.Int64,
    "last_evaluation": pl.Int64,
}
BESIDE: dict[str, Any] = {
    "run_id": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "group": pl.String,
    "package_version": pl.String,
    "seconds": pl.Float64,
    "peak_memory": pl.Int64,
}
# Columns that runs may lack because they were made before there was such a rule.
USUAL = {"literal": False}
SAID: dict[str, Any] = {"place": pl.Int64, "kind": pl.String, "schema": pl.Int64, **BESIDE, **COLUMNS}
LINES: dict[str, Any] = {
    "place": pl.Int64,
    "step": pl.Int64,
    "weights": pl.String,
    # Of each value, split/domain/metric; joined by newlines.
    "keys": pl.String,
    "values": pl.List(pl.Float64),
    "n": pl.List(pl.Int64),
}


def said(texts: Sequence[bytes], paths: Sequence[str]) -> pl.DataFrame:
    """What run.json files say: one row each, in order.

    Columns: `place` (in `texts`), `kind`, `schema`, and of trained runs those of `BESIDE` and `COLUMNS`.

    Args:
        texts: the content of the files.
        paths: the folders of the runs.

    Raises:
        ValueError: one is no record of a run.
    """
    quick = _said_quickly(texts)
    rest = np.setdiff1d(np.arange(len(texts)), quick["place"]).tolist()
    exact = [{**row, "place": place} for place in rest if (row := _said_exactly(paths[place]))]
    return pl.concat([quick, pl.DataFrame(exact, schema=SAID)]).sort("place")


def _said_quickly(texts: Sequence[bytes]) -> pl.DataFrame:
    """Those rows of `said` that are of trained runs and lack nothing."""
    schema = {"kind": pl.String, "schema": pl.Int64, **BESIDE, "columns": pl.Struct(COLUMNS)}
    # A line break in JSON is space: those within strings are escaped.
    frame = _parsed(b"\n".join(text.replace(b"\n", b" ") for text in texts), len(texts), schema)
    if frame is None:
        return pl.DataFrame(schema=SAID)
    usual = [pl.col(name).fill_null(value) for name, value in USUAL.items()]
    frame = frame.with_row_index("place").unnest("columns").with_columns(*usual, pl.col("kind").fill_null("train"))
    lacks_nothing = pl.all_horizontal(pl.col("run_id", "status", *COLUMNS).is_not_null())
    whole = frame.filter(lacks_nothing, pl.col("schema") == SCHEMA, pl.col("kind") == "train")
    return whole.select(pl.col(name).cast(kind) for name, kind in SAID.items())


def _said_exactly(path: str) -> dict[str, Any] | None:
    found = RunFolder(path).read()
    if found is None:
        return None
    row = {name: found.get(name) for name in ("schema", *BESIDE)} | {"kind": found.get("kind", "train")}
    if row["kind"] != "train" or row["schema"] != SCHEMA:
        # Of these, only what they are is asked.
        return {name: row[name] for name in ("kind", "schema", "run_id", "status")}
    columns = {**USUAL, **found["columns"]}
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise ValueError(
            f"{path}/run.json lacks {', '.join(lacking)} among its columns. Make that run again, or name a folder "
            "without it."
        )
    return row | {name: columns[name] for name in COLUMNS}


def lines(texts: Sequence[bytes], paths: Sequence[str]) -> pl.DataFrame:
    """What evaluations.jsonl files say: one row per line, in order, with the columns `LINES`.

    A last line torn by a kill is left out; null, what JSON has for NaN, becomes NaN again.

    Args:
        texts: the content of the files.
        paths: the folders of the runs.

    Raises:
        ValueError: a line is no evaluation.
    """
    # Whole lines end in a newline; what follows the last one was torn.
    whole = [text[: text.rfind(b"\n") + 1] for text in texts]
    layouts: dict[Layout, list[int]] = {}
    exact: list[int] = []
    known: dict[bytes, Layout | None] = {}
    for place, text in enumerate(whole):
        first = text[: text.find(b"\n")]
        keys = b"\n".join(_KEYS.findall(first))
        if keys not in known:
            known[keys] = _layout(first)
        layout = known[keys]
        (exact if layout is None else layouts.setdefault(layout, [])).append(place)
    frames = [pl.DataFrame(schema=LINES)]
    # Two at once: polars parses the one while Python counts in the other.
    with ThreadPoolExecutor(2) as pool:
        quick = pool.map(lambda one: _lines_quickly([whole[place] for place in one[1]], one[0]), layouts.items())
        for places, frame in zip(layouts.values(), quick, strict=True):
            frames.append(frame.with_columns(place=pl.Series(places).gather(frame["place"])))
            exact += np.setdiff1d(places, frames[-1]["place"]).tolist()
    frames += [_lines_exactly(whole[place], paths[place], place) for place in exact]
    return pl.concat(frames).sort("place", maintain_order=True)


# The keys of a line's `values` and of its `n`.
Layout = tuple[tuple[str, ...], tuple[str, ...]]
# In the order of the text. Lines that have the same have one layout: one that has not is told from the text's counts.
_KEYS = re.compile(rb'"([^"]*)":')


def _layout(line: bytes) -> Layout | None:
    """None where it cannot be told."""
    try:
        said = json.loads(line)
        values, n = tuple(said["values"]), tuple(said["n"])
    except (ValueError, KeyError, TypeError):
        return None
    is_usual = values and all(key.count("/") == 2 and key.rpartition("/")[0] in n for key in values)
    return (values, n) if is_usual else None


def _lines_quickly(texts: Sequence[bytes], layout: Layout) -> pl.DataFrame:
    """The lines of those texts of which each line has this layout; `place` is that in `texts`."""
    keys, domains = layout
    numbers = [text.count(b"\n") for text in texts]
    place = np.repeat(np.arange(len(texts)), numbers)
    schema = {
        "step": pl.Int64,
        "weights": pl.String,
        "values": pl.Struct(dict.fromkeys(keys, pl.Float64)),
        "n": pl.Struct(dict.fromkeys(domains, pl.Int64)),
    }
    joined = b"".join(texts)
    frame = _parsed(joined, len(place), schema)
    if frame is None:
        return pl.DataFrame(schema=LINES)
    values, n = frame["values"].struct.unnest(), frame["n"].struct.unnest()
    # Keys beyond the layout are passed over, and missing ones are null: both show in the text's own counts.
    per_line = 4 + sum(1 + name.count(":") for name in (*keys, *domains))
    counts = [text.count(b":") == number * per_line for text, number in zip(texts, numbers, strict=True)]
    written = [text.count(b"null") for text in texts] if b"null" in joined else [0] * len(texts)
    nulls = np.bincount(place, values.select(pl.sum_horizontal(pl.all().is_null())).to_series(), minlength=len(texts))
    told = frame.select("step", "weights").hstack(n).select(pl.any_horizontal(pl.all().is_null())).to_series()
    odd = np.bincount(place, told, minlength=len(texts))
    is_usual = np.array(counts) & (nulls == written) & (odd == 0)
    of_key = [domains.index(key.rpartition("/")[0]) for key in keys]
    return pl.DataFrame(
        {
            "place": place,
            "step": frame["step"],
            "weights": frame["weights"],
            "keys": pl.repeat("\n".join(keys), len(place), dtype=pl.String, eager=True),
            "values": pl.Series(values.to_numpy(order="c")).arr.to_list(),
            "n": pl.Series(n.fill_null(0).to_numpy(order="c")[:, of_key]).arr.to_list(),
        },
        schema=LINES,
    ).filter(is_usual[place])


def _lines_exactly(text: bytes, path: str, place: int) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append({"place": place, **_line(json.loads(line))})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}/evaluations.jsonl, line {number}, is no evaluation. Delete that run's folder and make it "
                "again, or name a folder without it."
            ) from error
    return pl.DataFrame(rows, schema=LINES)


def _line(said: dict[str, Any]) -> dict[str, Any]:
    places = ["/".join((split, domain)) for split, domain, _ in (key.split("/") for key in said["values"])]
    return {
        "step": said["step"],
        "weights": said["weights"],
        "keys": "\n".join(said["values"]),
        "values": [math.nan if value is None else float(value) for value in said["values"].values()],
        "n": [said["n"][place] for place in places],
    }


def _parsed(text: bytes, height: int, schema: dict[str, Any]) -> pl.DataFrame | None:
    """JSON objects, one per line; None where polars cannot, or does not find so many."""
    if not height:
        return pl.DataFrame(schema=schema)
    try:
        frame = pl.read_ndjson(text, schema=schema)
    except pl.exceptions.PolarsError:
        return None
    return frame if len(frame) == height else None
