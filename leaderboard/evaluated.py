"""What has to be true of a submission's evaluations: possible scores, of the splits and at the steps that there are.

Each check yields sentences that begin with the place, as JSON path.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from dgbench.averaging import make_averaging
from dgbench.cells import TRIAL, with_cells
from dgbench.record import FINISHED
from dgbench.registry import datasets
from dgbench.selection import HELD_OUT_TEST, REPORTED, VALIDATION

from .bounded import shown
from .checks import ROWS, RUNS, is_standard
from .submission import Data, Submission
from .submitted import protocol_of
from .wording import ANEW

# Accuracies are quotients in float64: times n they are whole but for rounding, which is far smaller.
WHOLE = 1e-6
_MADE = {"random": ("in", "out"), "official": ("in", "val", "test")}
SPLITS = {
    name: {
        role: tuple(
            split for of, split in sorted({*REPORTED, *VALIDATION, *HELD_OUT_TEST}) if of == role and split in made
        )
        for role in ("train", "val", "test")
    }
    for name, made in _MADE.items()
}
"""Under `protocol.splits`, by the role of a domain: the splits of it that are made and that some criterion reads."""


def rows(said: Submission, of: pl.DataFrame, found: pl.DataFrame) -> Iterator[str]:
    """The scores are scores, each once, of the splits that the data have, at the steps that the protocol says.

    Args:
        said: the submission.
        of: its runs, as `submitted.frames` gives them.
        found: its evaluations, likewise.
    """
    for (name,), part in with_cells(of).group_by("dataset", maintain_order=True):
        for key in ("trained_on", "val_domains"):
            if part[key].n_unique() > 1:
                yield f"{RUNS}: runs on {name} differ in {key}, expected one way to divide the domains. {ANEW}"
    numbered = found.with_row_index("place").with_columns(run=pl.col("run_id"))
    yield from _scores(numbered)
    for one in said.datasets:
        part = numbered.filter(pl.col("dataset") == one.name)
        yield from _splits(one, part)
        yield from _steps(said, one, part)
        yield from _trials(one, part)


def _has_role(role: str) -> pl.Expr:
    return pl.col("domain").is_in(pl.col(f"{role}_domains").str.split(" "))


def _scores(numbered: pl.DataFrame) -> Iterator[str]:
    value, n, is_accuracy = pl.col("value"), pl.col("n"), pl.col("metric") == "accuracy"
    rules = {
        "value": (
            (value.is_nan() & (pl.col("status") != "diverged"), "a number, as the run did not diverge"),
            (value.is_nan() & is_accuracy, "an accuracy: right answers are counted in a run that diverged too"),
            (is_accuracy & ~value.is_nan() & ~value.is_between(0, 1), "an accuracy, from 0 to 1"),
            (~is_accuracy & (value < 0), "an error of at least 0"),
            (
                is_accuracy & value.is_between(0, 1) & ((value * n - (value * n).round()).abs() > WHOLE),
                f"an accuracy that some count of n examples gives (value times n is whole to {WHOLE})",
            ),
        ),
        "n": ((n < 1, "at least 1 example"),),
        "step": (
            (pl.col("step") >= pl.col("num_steps"), "a step of the run, before num_steps"),
            (
                pl.struct("run_id", "step", "split", "domain").is_duplicated(),
                "each step of a run once for each split and domain",
            ),
        ),
        "domain": (
            (
                ~pl.any_horizontal(_has_role("train"), _has_role("val"), _has_role("test")),
                "a domain that the run trains, validates or tests on",
            ),
        ),
        "run": ((~pl.col("status").is_in(FINISHED) & ~pl.col("use_unfinished"), "evaluations of finished runs only"),),
    }
    for column, checks in rules.items():
        for is_wrong, expected in checks:
            yield from _first(numbered.filter(is_wrong), column, expected)


def _first(wrong: pl.DataFrame, column: str, expected: str) -> Iterator[str]:
    if len(wrong):
        got = f"got {shown(wrong[column][0])}"
        if column == "value":
            got += f" of n={wrong['n'][0]}"
        more = f" ({len(wrong) - 1} more such rows)" if len(wrong) > 1 else ""
        yield f"{ROWS}.{column}[{wrong['place'][0]}]: {got}, expected {expected}{more}. {ANEW}"


def _splits(one: Data, part: pl.DataFrame) -> Iterator[str]:
    """Domains were evaluated on the splits that they have, of the sizes that follow from the card and the protocol."""
    splits = SPLITS[one.protocol["splits"]]
    has = [_has_role(role) & pl.col("split").is_in(names) for role, names in splits.items()]
    listed = ", ".join(f"{' or '.join(names)} of {role}_domains" for role, names in splits.items())
    wrong = part.filter(pl.any_horizontal(_has_role(role) for role in splits), ~pl.any_horizontal(has))
    yield from _first(wrong, "split", f"{listed}, as protocol.splits={one.protocol['splits']} makes them")
    card, protocol = datasets[one.name].card, one.protocol
    if protocol["splits"] != "random" or not is_standard(one):
        return
    sizes = []
    for domain, size in zip(card.domains, card.sizes, strict=False):
        out = int(size * protocol["holdout_fraction"])
        unlabeled = int((size - out) * protocol["uda_holdout_fraction"])
        sizes += [(domain, "out", is_test, out) for is_test in (True, False)]
        sizes += [(domain, "in", True, size - out - unlabeled), (domain, "in", False, size - out)]
    schema = {"domain": pl.String, "split": pl.String, "is_test": pl.Boolean, "size": pl.Int64}
    known = pl.DataFrame(sizes, schema=schema, orient="row")
    wrong = (
        part.with_columns(is_test=_has_role("test"))
        .join(known, on=["domain", "split", "is_test"], maintain_order="left")
        .filter(pl.col("n") != pl.col("size"))
    )
    if len(wrong):
        yield from _first(wrong, "n", f"{wrong['size'][0]}, the size of {wrong['split'][0]}/{wrong['domain'][0]}")


def _steps(said: Submission, one: Data, part: pl.DataFrame) -> Iterator[str]:
    """Each split that a run was evaluated on was so at every step of the schedule, until the run ended."""
    protocol, averaging = protocol_of(said, one), make_averaging(said.method.averaging)
    assert protocol.num_steps is not None
    last, step, has_diverged = protocol.num_steps - 1, pl.col("step"), pl.col("status") == "diverged"
    text = f"protocol.evaluate_every={protocol.evaluate_every}"
    every = [s for s in range(protocol.num_steps) if protocol.evaluates_at(s, last)]
    if averaging is not None and averaging.only_at_end:
        every, text = every[-1:], f"averaging={said.method.averaging}"
    schedule = pl.Series(every, dtype=pl.Int64)
    # Only what is complete must have come to the end; a run that diverged was evaluated where it did.
    came_to = step.max().over("run_id")
    part = part.with_columns(end=pl.when(status="complete").then(protocol.last_evaluation).otherwise(came_to))
    is_off = ~step.is_in(schedule.implode()) & ~(has_diverged & (step == pl.col("end")))
    yield from _first(part.filter(is_off), "step", f"a step after which {text} evaluates, or where the run diverged")
    counted = part.group_by("run_id", "split", "domain", maintain_order=True).agg(
        pl.col("place", "status", "end").first(), got=pl.len().cast(pl.Int64)
    )
    until_end = schedule.search_sorted(counted["end"], side="right").cast(pl.Int64)
    is_extra = has_diverged & ~pl.col("end").is_in(schedule.implode())
    short = counted.with_columns(due=until_end + is_extra.cast(pl.Int64)).filter(pl.col("got") != pl.col("due"))
    if len(short):
        row = short.row(0, named=True)
        yield (
            f"{ROWS}.run[{row['place']}]: got {row['got']} evaluations of {row['split']}/{row['domain']} in run "
            f"{row['run_id']}, expected {row['due']}: with {text}, those until step {row['end']}. {ANEW}"
        )


def _trials(one: Data, part: pl.DataFrame) -> Iterator[str]:
    """No trial is another's copy: trials have splits and seeds of their own."""
    told = ("test_domains", "step", "split", "domain", "value", "n")
    # What diverged answers alike everywhere, and official splits are the same in every trial: there a model that gives
    # everything one answer is as good in each.
    of_run = ["test_domains", "split", "domain"]
    is_stuck = (pl.col("value").n_unique() == 1).over(*TRIAL, *of_run) & (one.protocol["splits"] == "official")
    copies = (
        part.with_columns(moves=~is_stuck & (pl.col("status") != "diverged"))
        .sort(told)
        .group_by(TRIAL, maintain_order=True)
        .agg(pl.col("moves").any(), text=pl.concat_str(told, separator=" ").str.join("\n"))
        .filter(pl.col("moves"), pl.col("text").is_duplicated())
        .sort("text", *TRIAL)
    )
    if len(copies):
        listed = " and ".join(f"{trial} (data_seed {seed})" for trial, seed in copies.select(TRIAL).rows()[:2])
        yield (
            f"{ROWS}: got the same evaluations in trials {listed} of {one.name}, expected each trial to have its own. "
            "Make the runs of each, or leave the copy out."
        )
