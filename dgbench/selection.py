"""Which step of which run speaks for a method: a criterion chooses one step of one of the runs of each cell."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import polars as pl

from dgbench import repeats
from dgbench.cells import ALL_OTHERS, CELL, FAMILY, pair_runs, sides, with_cells
from dgbench.record import FINISHED
from dgbench.registry import UnknownName

LOWER_IS_BETTER = ("rmse", "mae", "nll", "ece")
# Equal to this many digits is equal: sums of the same scores in another order must still tie.
DIGITS = 12

# Places where a number is looked for, in this order: (role of the domain, split).
REPORTED = (("test", "test"), ("test", "in"))
VALIDATION = (("val", "in"), ("train", "val"), ("train", "out"))
HELD_OUT_TEST = (("test", "out"),)


@dataclass(frozen=True)
class Selection:
    """A criterion.

    Equal values: the first step within a run; over runs the largest hparams_seed, then the smallest run_id.
    A NaN counts as minus infinity. A run that diverged is chosen only if all finished runs of its cell did. A
    run that is not finished is never chosen: its last step is an accident. Runs of a protocol with
    `use_unfinished` compete whatever their status.
    Equal is equal to 12 digits, or for a protocol with `literal` to the last bit. Steps recorded twice: see
    `dgbench.repeats`.
    """

    name: str
    meaning: str
    """What it chooses and by which scores, for the note below a table."""
    scores: tuple[tuple[str, str], ...] = ()
    """(role of the domain, split); the first that a run was evaluated on is averaged over the domains."""
    is_last_step: bool = False
    """Only the last step of a run competes."""
    needs_pairs: bool = False
    """Scored by runs that leave out two domains."""

    @property
    def compares(self) -> bool:
        """Whether it scores runs."""
        return bool(self.scores) or self.needs_pairs

    def choose(self, rows: pl.DataFrame, metric: str | None = None) -> pl.DataFrame:
        """One row per cell that has a run to choose.

        Columns: those of `CELL`, then run_id, step, weights, hparams_seed, status, package_version,
        selection_value, and of the test domain the split reported (the official `test`, or `in`), its value
        and n.

        Args:
            rows: as `dgbench.record.read` gives them.
            metric: what is reported; None: the score by which is selected.
        """
        average = pl.col("averaging").str.split(":").list.first()
        weights = pl.when(average == "none").then(pl.lit("last")).otherwise(average)
        is_eligible = pl.col("status").is_in(FINISHED) | pl.col("use_unfinished")
        if "literal" not in rows.columns:
            rows = rows.with_columns(literal=pl.lit(False))
        competes = rows.select(is_eligible & (pl.col("weights") == weights)).to_series()
        # Most often all do: then nothing wide is copied.
        rows = given = rows if competes.all() else rows.filter(competes)
        every = rows.unique("run_id").drop("step", "weights", "split", "domain", "metric", "value", "n")
        cells = with_cells(every)
        told = ("run_id", "step", "weights", "split", "domain", "metric", "value", "n", "score", "literal")
        rows = rows.select(told).join(_roles(every), on=["run_id", "domain"])
        scores = rows.filter(pl.col("metric") == pl.col("score"))
        reported = rows.filter(pl.col("metric") == (pl.col("score") if metric is None else pl.lit(metric)))
        reported = _first(reported, REPORTED).rename({"domain": "test_domain"})
        if reported.select("run_id", "test_domain", "step").is_duplicated().any():
            choose = functools.partial(self.choose, metric=metric)
            return repeats.choose_among(given, choose, needs_pairs=self.needs_pairs, is_last_step=self.is_last_step)
        if self.needs_pairs:
            candidates = _scores_of_pairs(every, cells, scores)
        elif self.scores:
            candidates = _mean_scores(cells, _first(scores, self.scores))
        else:
            candidates = cells.join(scores.select("run_id", "step").unique(), on="run_id")
            candidates = candidates.select("run_id", "test_domain", "step", selection_value=pl.lit(math.nan))
        made = candidates.join(
            reported.select("run_id", "test_domain", "step", "weights", "split", "value", "n"),
            on=["run_id", "test_domain", "step"],
        ).join(cells, on=["run_id", "test_domain"])
        if self.is_last_step:
            is_end = (pl.col("step") == pl.col("last_evaluation")) | (pl.col("status") == "diverged")
            is_last = pl.col("step") == pl.col("step").max().over("run_id")
            made = made.filter(is_last, is_end | pl.col("oracle_last_record"))
        return (
            made.with_columns(
                diverged=(pl.col("status") == "diverged") & ~pl.col("use_unfinished"),
                rank=pl.col("selection_value").fill_nan(float("-inf")),
            )
            .sort(
                "diverged",
                "rank",
                "hparams_seed",
                "run_id",
                "step",
                descending=[False, True, True, False, False],
            )
            .unique(CELL, keep="first", maintain_order=True)
            .select(*CELL, *_CHOICE)
            .sort(CELL)
        )


_CHOICE = (
    "run_id",
    "step",
    "weights",
    "hparams_seed",
    "status",
    "package_version",
    "split",
    "selection_value",
    "value",
    "n",
)
_CRITERIA = {
    selection.name: selection
    for selection in (
        Selection(
            "train_validation",
            "the step and the hyper-parameters that score best on held-out data of the training domains (on "
            "validation domains or an official validation split where there are any)",
            VALIDATION,
        ),
        Selection(
            "domain_cross_validation",
            "the step and the hyper-parameters that score best, on average over the training domains, where each "
            "is left out too: by runs with the same hyper-parameters that leave out two domains",
            needs_pairs=True,
        ),
        Selection(
            "oracle",
            "the hyper-parameters whose last step scores best on held-out data of the test domain, "
            "whose labels a method must not know",
            HELD_OUT_TEST,
            is_last_step=True,
        ),
        Selection(
            "oracle_best",
            "the step and the hyper-parameters that score best on held-out data of the test domain, "
            "whose labels a method must not know",
            HELD_OUT_TEST,
        ),
        Selection(
            "last_step",
            "the last step and, as nothing is compared, the last draw of hyper-parameters (give it one)",
            is_last_step=True,
        ),
    )
}


def criteria() -> list[str]:
    """The names of the criteria."""
    return list(_CRITERIA)


def selection(name: str) -> Selection:
    """A criterion by name.

    Raises:
        UnknownName: there is no criterion of that name.
    """
    if name not in _CRITERIA:
        raise UnknownName("criterion", name, _CRITERIA)
    return _CRITERIA[name]


def _mean_scores(cells: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Per cell and step the mean of the scores; on test domains, of the cell's own."""
    is_own = (pl.col("role") != "test") | (pl.col("domain") == pl.col("test_domain"))
    expected = pl.when(pl.col("role").first() == "test").then(1).otherwise(pl.col("num_domains").first())
    return cells.select("run_id", "test_domain").join(scores, on="run_id").filter(is_own).pipe(_means, expected)


def _means(scores: pl.DataFrame, expected: pl.Expr) -> pl.DataFrame:
    """Per cell and step the mean over the `expected` domains, higher being better."""
    step = ["run_id", "test_domain", "step"]
    sign = pl.when(pl.col("score").is_in(LOWER_IS_BETTER)).then(-1).otherwise(1)
    scores = scores.with_columns(value=sign * pl.col("value"))
    made = (
        scores.group_by(step)
        .agg(selection_value=pl.col("value").mean().round_sig_figs(DIGITS), is_whole=pl.len() == expected)
        # A mean over some of the domains is another number: such a step does not compete.
        .filter("is_whole")
        .drop("is_whole")
    )
    if not scores["literal"].any():
        return made
    exact = _exact_means(scores.filter("literal"), step)
    value = pl.coalesce("exact", "selection_value")
    return made.join(exact, on=step, how="left").select(*step, selection_value=value)


def _exact_means(scores: pl.DataFrame, step: list[str]) -> pl.DataFrame:
    """The same to the bit in which numpy, and so DomainBed, adds up the domains in their order."""
    parts = scores.sort(*step, "index").group_by(step, maintain_order=True).agg("value", size=pl.len())
    frames = [
        part.select(step).with_columns(exact=part["value"].explode().to_numpy().reshape(len(part), -1).mean(axis=1))
        for part in parts.partition_by("size")
    ]
    return pl.concat(frames)


def _scores_of_pairs(runs: pl.DataFrame, cells: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Per cell and step the mean, over its training domains, of the score where that domain is left out too."""
    key = [*FAMILY, "test_domain", "domain"]
    pairs = sides(pair_runs(runs))
    # A number for each key: joins of thousands of rows by all its columns are slow.
    needed = pairs.select(key).unique().with_row_index("needed")
    left_out = (
        _first(scores, REPORTED)
        .select("run_id", "step", "domain", "value", "score")
        .join(pairs.join(needed, on=key).select("run_id", "domain", "needed"), on=["run_id", "domain"])
        .sort("run_id")
        .unique(["needed", "step"], keep="last")
    )
    return (
        cells.filter(pl.col("trained_on") == ALL_OTHERS)
        .select("run_id", "test_domain", *FAMILY, "literal", domain=pl.col("train_domains").str.split(" "))
        .with_columns(num_domains=pl.col("domain").list.len(), index=pl.int_ranges(pl.col("domain").list.len()))
        .explode("domain", "index")
        .join(needed, on=key)
        .select("run_id", "test_domain", "domain", "literal", "num_domains", "index", "needed")
        .join(left_out.drop("run_id", "domain"), on="needed")
        .pipe(_means, pl.col("num_domains").first())
    )


def _roles(runs: pl.DataFrame) -> pl.DataFrame:
    """What each domain is to a run, how many are the same to it, in order: run_id, domain, role, num_domains, index."""
    parts = [
        runs.select("run_id", domain=pl.col(f"{role}_domains").str.split(" "), role=pl.lit(role))
        .with_columns(num_domains=pl.col("domain").list.len(), index=pl.int_ranges(pl.col("domain").list.len()))
        .explode("domain", "index")
        for role in ("train", "val", "test")
    ]
    return pl.concat(parts)


def _first(rows: pl.DataFrame, wanted: tuple[tuple[str, str], ...]) -> pl.DataFrame:
    """The rows of each run that belong to the first (role, split) it has any rows of."""
    order = pl.DataFrame(
        [(*pair, place) for place, pair in enumerate(wanted)],
        schema={"role": pl.String, "split": pl.String, "place": pl.Int64},
        orient="row",
    )
    return rows.join(order, on=["role", "split"]).filter(pl.col("place") == pl.col("place").min().over("run_id"))
