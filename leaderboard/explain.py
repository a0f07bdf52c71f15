"""What a table lacks: which trials, draws and pairs of domains are missing, failed or unfinished, and how to make them.

A sweep is a grid. Expected is, of each method, each test domain and trial that its table has, by each draw of
hyper-parameters that the method has there; and for cross-validation each pair of domains that it needs.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from dgbench.cells import ALL_OTHERS, CELL, METHOD, TABLE, TRIAL, coverage, missing_pairs, pair_runs, with_cells
from dgbench.composition import bare
from dgbench.record import FINISHED
from dgbench.registry import UnknownName
from dgbench.selection import selection

from . import notes
from .aggregate import method_name
from .remaking import make_command, recorded
from .tables import Paths, runs_under

SHOWN = 12
# Why a run is not there; in this order.
KINDS = ("missing", "failed", "interrupted", "running", "diverged")
# So many values in a row are a range.
LONG = 4


@dataclass(frozen=True)
class Gap:
    """Runs of one method that a table lacks for one reason: all of some test domains, trials and draws."""

    table: str
    method: str
    kind: str
    """One of `KINDS`; diverged: of a cell where no run is complete."""
    reason: str | None
    tests: tuple[str, ...]
    """Test domains; those of one run joined by +."""
    trials: tuple[int, ...]
    draws: tuple[int, ...]
    data_seed: int
    num_runs: int
    command: str | None
    """What makes them; None where nothing does, or cannot be told."""
    lacks: str | None = None
    """Why no command can be told, and what to do."""

    def __str__(self) -> str:
        parts = [
            f"{self.method}, test {' '.join(self.tests)}",
            _counted("trial", self.trials) + (f" of data {self.data_seed}" if self.data_seed >= 0 else ""),
            *([_counted("draw", self.draws)] if self.draws else []),
        ]
        number = f" ({self.num_runs} runs)" if self.num_runs > 1 else ""
        return f"{self.kind}: {', '.join(parts)}{number}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Explanation:
    """All gaps of some tables; prints as text."""

    gaps: tuple[Gap, ...]
    criterion: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if not self.gaps:
            yield Text(f"Nothing is missing of what {self.criterion} needs.", style="dim")
            return
        shown = self.gaps[:SHOWN]
        for place, gap in enumerate(shown):
            if not place or shown[place - 1].table != gap.table:
                yield Text(f"{gap.table}: what is missing of what {self.criterion} needs", style="bold")
            yield Text(f"  {gap}")
            if gap.command:
                # Whole, so that it can be copied.
                yield Text(f"    {gap.command}", style="dim", no_wrap=True, overflow="ignore")
        if rest := self.gaps[SHOWN:]:
            yield Text(f"And {len(rest)} more, of {sum(gap.num_runs for gap in rest)} runs.")
        yield from map(Text, dict.fromkeys(gap.lacks for gap in shown if gap.lacks))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=200)
        with console.capture() as captured:
            console.print(self, soft_wrap=True)
        return captured.get()

    __repr__ = __str__


def explain(runs: Paths, criterion: str = "train_validation") -> Explanation:
    """Say what the tables of some runs lack, and by which commands it is made.

    Args:
        runs: folders of runs (a sweep's runs_dir), or single runs.
        criterion: how models are selected: cross-validation needs runs that leave out pairs of domains too.

    Raises:
        UnknownName: a criterion that does not exist.
        ValueError: there are no runs.
    """
    chooser = selection(criterion)
    found = runs_under(runs)
    parts = [_absent(found), _unfinished(found, with_pairs=chooser.needs_pairs), _diverged(found)]
    if chooser.needs_pairs:
        parts.append(_absent_pairs(found))
    grouped = _products(pl.concat(parts))
    facts = with_cells(found).select(*TABLE, "protocol", "network").unique(TABLE).sort(TABLE)
    labels = pl.DataFrame({"label": notes.labels(facts)}, schema={"label": pl.String}).with_row_index("place")
    grouped = grouped.join(facts.select(TABLE).hstack(labels), on=TABLE, how="left", nulls_equal=True)
    order = pl.col("kind").replace_strict(list(KINDS), range(len(KINDS)), return_dtype=pl.Int64)
    grouped = grouped.sort("place", order, *METHOD, "tests", "trials", "draws", nulls_last=True)
    rows = grouped.iter_rows(named=True)
    return Explanation(tuple(_gap(row, has_command=place < SHOWN) for place, row in enumerate(rows)), criterion)


# One row per run that is lacked; `path` is a run like it, or itself.
_LACKED = (*TABLE, *METHOD, *TRIAL, "kind", "reason", "tests", "draw", "path")


def _absent(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs that were never made."""
    cells = with_cells(runs)
    expected = coverage(runs).select(CELL)
    draws = cells.filter(tuned="").select(*TABLE, *METHOD, draw="hparams_seed").unique()
    drawn = expected.join(draws, on=[*TABLE, *METHOD])
    drawn = drawn.join(cells.select(*CELL, draw="hparams_seed"), on=[*CELL, "draw"], how="anti")
    # Of hyper-parameters that another sweep chose, a cell has one run.
    tuned = expected.filter(pl.col("tuned") != "").join(cells, on=CELL, how="anti")
    lacked = pl.concat([drawn, tuned.with_columns(draw=pl.lit(None, pl.Int64))])
    # Runs on named training domains test on all the others at once.
    at_once = pl.when(pl.col("trained_on") == ALL_OTHERS).then("test_domain").otherwise(pl.lit(""))
    like = cells.unique([*TABLE, *METHOD], keep="first", maintain_order=True).select(*TABLE, *METHOD, "path")
    return (
        lacked.group_by(*TABLE, *METHOD, *TRIAL, "draw", at_once.alias("at_once"), maintain_order=True)
        .agg(tests=pl.col("test_domain").sort().str.join("+"))
        .with_columns(kind=pl.lit("missing"), reason=pl.lit(None, pl.String))
        .join(like, on=[*TABLE, *METHOD])
        .select(_LACKED)
    )


def _unfinished(runs: pl.DataFrame, *, with_pairs: bool) -> pl.DataFrame:
    """Runs that began and are not finished."""
    single = with_cells(runs).unique("run_id", maintain_order=True)
    pairs = pair_runs(runs).with_columns(trained_on=pl.lit(ALL_OTHERS)).select(single.drop("test_domain").columns)
    every = pl.concat([single.drop("test_domain"), pairs]) if with_pairs else single
    waiting = every.filter(~pl.col("status").is_in(FINISHED), ~pl.col("use_unfinished"))
    return _themselves(waiting)


def _diverged(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs that diverged, of cells where none is complete."""
    lacking = coverage(runs).filter(pl.col("complete") == 0)
    return _themselves(with_cells(runs).filter(status="diverged").join(lacking, on=CELL, how="semi"))


def _themselves(runs: pl.DataFrame) -> pl.DataFrame:
    tests = pl.col("test_domains").str.replace_all(" ", "+")
    named = runs.unique("run_id", maintain_order=True).with_columns(tests=tests, kind="status", draw="hparams_seed")
    return named.select(_LACKED)


def _absent_pairs(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs leaving out two domains that were never made."""
    begun = [*METHOD, "dataset", "tests", "hparams_seed", "trial_seed", "data_seed"]
    in_order = pl.col("tests").str.split("+").list.sort().list.join("+")
    told = (
        with_cells(runs).unique("run_id").select("run_id", *(name for name in TABLE if name != "dataset"), "data_seed")
    )
    lacked = missing_pairs(runs).with_columns(tests=pl.concat_str("test_domain", "domain", separator="+"))
    lacked = lacked.with_columns(in_order).join(told, on="run_id")
    made = pair_runs(runs).with_columns(tests=pl.col("test_domains").str.replace_all(" ", "+")).with_columns(in_order)
    return (
        lacked.join(made, on=begun, how="anti")
        .with_columns(kind=pl.lit("missing"), reason=pl.lit(None, pl.String), draw="hparams_seed")
        .select(_LACKED)
    )


def _products(lacked: pl.DataFrame) -> pl.DataFrame:
    """Few rows, each of which is all of some tests, trials and draws: lists in these columns."""
    keys = [*TABLE, *METHOD, "data_seed", "kind", "reason"]
    at = pl.col("path").first()
    size = {"num_runs": pl.col("num_runs").sum()}
    return (
        lacked.unique(maintain_order=True)
        .group_by(*keys, "tests", "trial_seed")
        .agg(at, draws=pl.col("draw").drop_nulls().sort(), num_runs=pl.len())
        .group_by(*keys, "tests", "draws")
        .agg(at, trials=pl.col("trial_seed").sort(), **size)
        .group_by(*keys, "draws", "trials")
        .agg(at, pl.col("tests").sort(), **size)
    )


def _gap(row: Mapping[str, Any], *, has_command: bool) -> Gap:
    # Numbers come out equal each time: what diverged does so again, and what is running needs nobody.
    can_be_made = has_command and row["kind"] not in ("running", "diverged")
    made, lacks = _command(row) if can_be_made else (None, None)
    return Gap(
        row["label"] or row["dataset"],
        method_name(*(row[name] for name in METHOD)),
        row["kind"],
        row["reason"],
        tuple(row["tests"]),
        tuple(row["trials"]),
        tuple(row["draws"]),
        row["data_seed"],
        row["num_runs"],
        made,
        lacks,
    )


def _command(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What makes the runs, or why that cannot be told."""
    said = recorded(row["path"])
    if said is None:
        return None, None
    axes = _axes(row, said)
    try:
        text = make_command(said["config"], leave_out=axes)
    except (ValueError, UnknownName) as error:
        return None, str(error)
    if any(len(values) > 1 or values[0].startswith("range") for values in axes.values()):
        text = text.replace("dgbench train", "dgbench train -m", 1)
    return " ".join([text, *(shlex.quote(f"{key}={','.join(values)}") for key, values in axes.items())]), None


def _axes(row: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values of each key in which the runs may differ, as they are written."""
    axes = {"test_domains": [_domains(names) for names in row["tests"]], "trial_seed": _values(row["trials"])}
    if row["draws"]:
        axes["hparams_seed"] = _values(row["draws"])
    if said["columns"]["data_seed"] != row["data_seed"]:
        axes["dataset.data_seed"] = [str(row["data_seed"])]
    if row["kind"] == "failed":
        axes["retry"] = ["true"]
    return axes


def _domains(names: str) -> str:
    parts = names.split("+")
    return bare(parts[0] if len(parts) == 1 else parts)


def _values(numbers: list[int]) -> list[str]:
    return [f"range({numbers[0]},{numbers[-1] + 1})"] if _is_range(numbers) else [str(number) for number in numbers]


def _is_range(numbers: list[int] | tuple[int, ...]) -> bool:
    return len(numbers) >= LONG and list(numbers) == list(range(numbers[0], numbers[-1] + 1))


def _counted(noun: str, numbers: tuple[int, ...]) -> str:
    text = f"{numbers[0]} to {numbers[-1]}" if _is_range(numbers) else " ".join(map(str, numbers))
    return f"{noun}{'s' if len(numbers) > 1 else ''} {text}"
