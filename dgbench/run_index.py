"""What many files say, from an index where they are as they were when it was made, and from themselves otherwise.

    <runs_dir>/.index/run.json.parquet             what the runs in that folder say
    <runs_dir>/.index/evaluations.jsonl.parquet    their evaluations

An index is made while runs are read, and only helps to read them again: whatever is wrong with it (damaged, made by
another version, of files that have changed since, not to be written) is passed over in silence. It may be deleted at
any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dgbench.writing import replace_file

FOLDER = ".index"
# Raised when what is kept, or how files are read, changes.
VERSION = "1"
# Less is read about as fast from the files themselves.
WORTHWHILE = 4 * 2**20
# Clocks of file systems tick so slowly: a file may change once more without a later time.
SETTLED_NS = 2 * 10**9
BATCH = 64 * 2**20
DIGEST = 32

_KEY = {"name": pl.String, "size": pl.Int64, "mtime_ns": pl.Int64}
_STAMP = {"place": pl.Int64, "parent": pl.String, **_KEY}


@dataclass(frozen=True)
class Source:
    """A file that every run has, and how it is read."""

    file: str
    parse: Callable[[Sequence[bytes], Sequence[str]], pl.DataFrame]
    """From the content of files and the folders of their runs, rows with the file's number as `place`."""
    schema: Mapping[str, Any]
    """Of these rows."""
    is_final: pl.Expr
    """Which rows hold as long as the file does not change."""


def gather(paths: Sequence[str], source: Source) -> pl.DataFrame:
    """What the files of some runs say: `source.schema`, `place` being that in `paths`; in order.

    Runs without that file have no rows.
    """
    stamps = _stamps(paths, source.file)
    parts = [_of_folder(own, source) for own in stamps.partition_by("parent", maintain_order=True)]
    return pl.concat([pl.DataFrame(schema=source.schema), *parts]).sort("place", maintain_order=True)


def _stamps(paths: Sequence[str], file: str) -> pl.DataFrame:
    rows = []
    for place, path in enumerate(paths):
        try:
            said = os.stat(f"{path}/{file}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        parent, _, name = path.rpartition("/")
        rows.append((place, parent or ("/" if "/" in path else ""), name, said.st_size, said.st_mtime_ns))
    return pl.DataFrame(rows, schema=_STAMP, orient="row")


def _of_folder(stamps: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Those of one folder of runs."""
    file = Path(stamps["parent"][0], FOLDER, f"{source.file}.parquet")
    index = _load(file, source)
    keys = list(_KEY)
    known = index.join(stamps.select(*keys, "place"), on=keys, how="left", maintain_order="left")
    known = known.filter(pl.col("place").is_not_null()).select(list(source.schema))
    rest = stamps.filter(~pl.col("place").is_in(known["place"].unique().implode()))
    if rest.is_empty():
        return known
    before = time.time_ns() - SETTLED_NS
    batches = list(_batches(rest, source))
    fresh = pl.concat([rows for rows, _ in batches])
    if rest["size"].sum() >= max(WORTHWHILE, stamps["size"].sum() // 10):
        whole = [place for _, places in batches for place in places]
        is_settled = (pl.col("mtime_ns") < before) & pl.col("place").is_in(whole)
        kept = stamps.filter(is_settled | ~pl.col("place").is_in(rest["place"].implode()))
        made = pl.concat([known, fresh.filter(source.is_final)]).join(kept, on="place", maintain_order="left")
        _store(file, pl.concat([_others(index, stamps, file.parent.parent), made.select(index.columns)]))
    return pl.concat([known, fresh])


def _others(index: pl.DataFrame, stamps: pl.DataFrame, parent: Path) -> pl.DataFrame:
    """What an index holds of runs that are still there, but were not asked for."""
    names = index["name"].unique()
    names = names.filter(~names.is_in(stamps["name"].implode()))
    return index.filter(pl.col("name").is_in([name for name in names if (parent / name).exists()]))


def _batches(stamps: pl.DataFrame, source: Source) -> Iterator[tuple[pl.DataFrame, list[int]]]:
    """What files say, some at a time, and which of them had the size that the system told."""
    batch = pl.col("size").cum_sum() // BATCH
    parts = stamps.with_columns(batch=batch).partition_by("batch", maintain_order=True)

    def read(part: pl.DataFrame) -> tuple[list[str], list[bytes]]:
        paths = [os.path.join(*names) for names in part.select("parent", "name").iter_rows()]
        return paths, [_content(f"{path}/{source.file}", size) for path, size in zip(paths, part["size"], strict=True)]

    # One batch is read ahead while another is parsed.
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(read, part) for part in parts[:1]]
        for place, part in enumerate(parts):
            paths, texts = ahead.pop().result()
            ahead += [pool.submit(read, following) for following in parts[place + 1 : place + 2]]
            rows = source.parse(texts, paths)
            whole = pl.Series([len(text) for text in texts], dtype=pl.Int64) == part["size"]
            yield rows.with_columns(place=part["place"].gather(rows["place"])), part["place"].filter(whole).to_list()


def _content(path: str, size: int) -> bytes:
    """A file's content; empty if it is gone. Once per file and run: as few calls of the system as can be."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            text = os.read(handle, size + 1)
        finally:
            os.close(handle)
        return text if len(text) == size else Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _load(file: Path, source: Source) -> pl.DataFrame:
    schema = {**_KEY, **{name: kind for name, kind in source.schema.items() if name != "place"}}
    with contextlib.suppress(OSError, pl.exceptions.PolarsError):
        data = memoryview(file.read_bytes())
        # Parquet has no checksum of its own that would tell a changed number.
        if _digest(data[DIGEST:]) == bytes(data[:DIGEST]):
            index = pl.read_parquet(io.BytesIO(data[DIGEST:]))
            if index.schema == schema:
                return index
    return pl.DataFrame(schema=schema)


def _store(file: Path, index: pl.DataFrame) -> None:
    held = io.BytesIO()
    index.write_parquet(held, compression="lz4")
    data = held.getvalue()
    with contextlib.suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        replace_file(file, lambda out: out.writelines([_digest(data), data]))


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST, key=VERSION.encode()).digest()
