"""The command `dgbench`. `--help` and `list` import neither torch nor polars."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dgbench import registry
from dgbench.registry import ComponentError, UnknownName

if TYPE_CHECKING:
    from dgbench.sweeper import Report

app = typer.Typer(
    help="A benchmark suite for domain generalization and test-time adaptation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs (a sweep's runs_dir), or single runs.")]
KINDS = {"algorithms": registry.algorithms, "datasets": registry.datasets}


def main() -> None:
    """Run the command; what a user can cause ends in a sentence, not in a trace."""
    if sys.argv[1:2] == ["train"]:
        # Hydra reads the command line itself: its flags, its help, its launchers.
        sys.exit(sentences(lambda: _train(sys.argv[2:])))
    sys.exit(sentences(app))


def sentences(command: Callable[[], Any]) -> int:
    """Call a command; what a user or the disk can cause becomes a sentence and an exit code."""
    from dgbench.record import Interrupted

    try:
        code = command()
    except (KeyboardInterrupt, Interrupted):
        err.print("Stopped. The same command continues.")
        return 130
    except (UnknownName, ComponentError, ValueError, OSError, RuntimeError) as error:
        err.print(f"[red]Error:[/red] {_text(error)}", highlight=False, soft_wrap=True)
        return 1
    return code if isinstance(code, int) else 0


def _text(error: BaseException) -> str:
    from rich.markup import escape

    return escape(str(error.strerror if isinstance(error, OSError) and error.strerror else error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train() -> None:
    """Train one run, or with -m a sweep: dgbench train -m algorithm=erm,vrex dataset=digits_rot."""
    # Reached only through `dgbench --help`'s listing; `main` hands `train` to Hydra.


def _train(arguments: list[str]) -> int:
    from dgbench import application

    return application.main(arguments)


def show_report(report: Report) -> int:
    """Counts, failures with reasons; the exit code."""
    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items())
    out.print(f"{sum(report.counts.values())} runs: {counts} ({report.seconds:.0f} s).", highlight=False)
    for label, reason in report.failures:
        err.print(f"  {label}: {reason}", highlight=False, soft_wrap=True, markup=False)
    return 1 if report.counts.get("failed") else 0


@app.command()
def demo(
    runs_dir: Annotated[Path, typer.Option(help="Folder that receives the runs.")] = Path("runs/demo"),
) -> None:
    """Train a few methods on digits rotated by six angles, each angle left out in turn, and rank them."""
    from dgbench import sweeper
    from dgbench.leaderboard.tables import table as make_table

    report = sweeper.run_sweep(
        [
            "algorithm=erm,vrex,coral,dann,sam,mixup",
            "dataset=digits_rot",
            "test_domains=each",
            "trial_seed=range(2)",
            "protocol.num_steps=300",
            f"runs_dir={runs_dir}",
        ],
    )
    code = show_report(report)
    out.print(make_table([runs_dir]))
    raise typer.Exit(code)


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help="algorithms or datasets")]) -> None:
    """List what is on a shelf."""
    if kind not in KINDS:
        raise UnknownName("shelf", kind, KINDS)
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, place in KINDS[kind].places().items():
        grid.add_row(f"[bold]{name}[/bold]", place.family, _first_line(place.path))
    out.print(grid)


def _first_line(path: Path) -> str:
    """The first sentence of a file's docstring, read without importing it."""
    import ast

    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return doc.split("\n")[0]


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="algorithm or dataset")],
    name: Annotated[str, typer.Argument(help="a name that `dgbench list` prints")],
) -> None:
    """Show what a component is, its options, and where its file lies."""
    from dgbench import sheet

    kinds = {registry.algorithms.kind: sheet.algorithm, registry.datasets.kind: sheet.dataset}
    if kind not in kinds:
        raise UnknownName("kind of component", kind, kinds)
    for part in kinds[kind](name):
        out.print(part)


@app.command()
def status(runs: Runs) -> None:
    """Count the runs by status, and estimate the time left."""
    from dgbench import sweeper

    said = sweeper.status(runs)
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, count in said["counts"].items():
        grid.add_row(name, str(count))
    if said["planned"]:
        grid.add_row("not started", str(said["not started"]))
    out.print(grid)
    if said["left"]:
        seconds = said["seconds_left"]
        guess = "unknown until a run is complete" if seconds != seconds else f"about {_duration(seconds)}"
        out.print(f"{said['left']} runs left of {said['planned']} asked for; time left: {guess}.", highlight=False)
    for label, reason in said["failures"]:
        out.print(f"  {label}: {reason}", highlight=False, soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@app.command()
def table(
    runs: Runs,
    criterion: Annotated[str, typer.Option(help="train_validation, oracle or oracle_best")] = "train_validation",
    metric: Annotated[str | None, typer.Option(help="another metric than the score, e.g. nll")] = None,
    format: Annotated[str, typer.Option(help="text, markdown, latex or csv")] = "text",
) -> None:
    """Select models and rank the methods."""
    from dgbench.leaderboard.tables import table as make_table

    made = make_table(runs, criterion=criterion, metric=metric, format=format)
    if isinstance(made, str):
        sys.stdout.write(made if made.endswith("\n") else made + "\n")
    else:
        out.print(made)


@app.command()
def check(path: Annotated[Path, typer.Argument(help="a file that holds one algorithm or dataset")]) -> None:
    """Check a component of your own against the contract."""
    from dgbench.check import check_file

    failed = False
    for kind, name, findings in check_file(path):
        grid = Table(title=f"{kind} {name}", title_justify="left", box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[dim]--[/dim]"}[finding.passed]
            grid.add_row(mark, finding.clause, finding.message)
            failed |= finding.passed is False
        out.print(grid)
    raise typer.Exit(1 if failed else 0)
