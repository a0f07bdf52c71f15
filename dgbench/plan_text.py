"""A plan for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from dgbench.console import duration
from dgbench.planning import Plan, Row


def sheet(made: Plan) -> tuple[Table, tuple[str, ...]]:
    """A table of a plan's rows, and sentences to stand below it."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("algorithm", "dataset", "network"):
        grid.add_column(name, no_wrap=True)
    for name in (
        "runs",
        "done",
        "to do",
        "images\ntrained",
        "images\nscored",
        "s per\nstep",
        "s per\n1000",
        "a run",
    ):
        grid.add_column(name, justify="right")
    grid.add_column("all of them")
    for row in made.rows:
        cells = [row.algorithm, row.dataset, row.network, *(f"{n:,}" for n in (row.runs, row.done, row.todo))]
        grid.add_row(*map(Text, [*cells, *_of_work(row)]))
    return grid, _sentences(made)


def _of_work(row: Row) -> list[str]:
    if row.problem is not None:
        return [*[""] * 5, "no time"]
    if not row.work:
        return [*[""] * 5, "nothing to do"]
    steps = sum(work.steps for work in row.work)
    per_step, per_image = row.step_seconds / max(1, steps), row.evaluation_seconds / max(1, row.evaluated)
    times = (duration(row.seconds / len(row.work)), duration(row.seconds))
    return [f"{row.trained:,}", f"{row.evaluated:,}", f"{per_step:.2g}", f"{1000 * per_image:.2g}", *times]


def _sentences(made: Plan) -> tuple[str, ...]:
    time = f"About {duration(made.total('seconds'))} on one worker"
    if made.workers is not None:
        time += f", {duration(made.seconds_at_once)} on {made.workers} if each is then as fast as one alone"
    said = [
        f"{made.total('runs'):,} runs: {made.total('done'):,} done, {made.total('todo'):,} to do, which train on "
        f"{made.total('trained'):,} images and evaluate {made.total('evaluated'):,}. {time}."
    ]
    for row in made.rows:
        if row.problem is not None:
            said.append(f"{row.todo:,} of them count no images and no time: {row.problem}")
    if any(row.timings for row in made.rows):
        said.append(
            "Times are those of the first steps on this machine; a method whose steps become dearer or cheaper later, "
            "after annealing say, takes another time."
        )
    return tuple(said)
