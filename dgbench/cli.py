"""The command `dgbench`. `--help` and `list` import neither torch nor polars."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

import dgbench
from dgbench import cli_results, shelves
from dgbench.console import PAGE_WIDTH, duration, err, interruptible, listing, out, sentences
from dgbench.registry import UnknownName

if TYPE_CHECKING:
    from dgbench.sweeper import Report

app = typer.Typer(
    help="A benchmark suite for domain generalization and test-time adaptation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look after the data.", no_args_is_help=True)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command; what a user can cause ends in a sentence, not in a trace."""
    with interruptible():
        if sys.argv[1:2] in (["train"], ["adapt"]):
            # Hydra reads the command line itself: its flags, its help, its launchers.
            sys.exit(sentences(lambda: _hydra(*sys.argv[1:])))
        sys.exit(sentences(lambda: app(prog_name="dgbench")))


def _version(is_asked: bool) -> None:
    if is_asked:
        out.print(f"dgbench {dgbench.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    pass


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train() -> None:
    """Train one run, or with -m all that several values per key ask for."""
    # Reached only through `dgbench --help`'s listing; `main` hands `train` and `adapt` to Hydra.


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def adapt() -> None:
    """Adapt trained runs to streams of their test domains: runs=FOLDER adapter=NAME stream=NAME."""


def _hydra(command: str, *arguments: str) -> int:
    from dgbench import application

    return application.main(command, arguments)


def show_report(report: Report) -> int:
    """Counts, failures with reasons; the exit code."""
    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items())
    out.print(f"{sum(report.counts.values())} runs: {counts} ({report.seconds:.0f} s).", highlight=False)
    for label, reason in report.failures:
        err.print(f"  {label}: {reason}", highlight=False, soft_wrap=True, markup=False)
    if report.refused:
        out.print("Left out:")
    for label, reason in report.refused:
        out.print(f"  {label}: {reason}", highlight=False, soft_wrap=True, markup=False)
    return 1 if report.counts.get("failed") else 0


@app.command()
def demo(
    runs_dir: Annotated[Path, typer.Option(help="Folder that receives the runs.")] = Path("runs/demo"),
) -> None:
    """Train a few methods on digits rotated by six angles, each angle left out in turn, and rank them."""
    from dgbench import composition, sweeper
    from dgbench.leaderboard.tables import table as make_table

    report = sweeper.run_sweep([*composition.demo(), f"runs_dir={runs_dir}"])
    code = show_report(report)
    out.print(make_table([runs_dir]))
    raise typer.Exit(code)


@app.command(context_settings={"ignore_unknown_options": True})
def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As `dgbench train -m` takes them.")
    ] = None,
) -> None:
    """Count the runs and images of a sweep and estimate its time; train nothing."""
    with err.status("Expanding the sweep") as shown:
        from dgbench import plan_text, planning

        made = planning.plan(overrides or (), lambda name: shown.update(Text(f"Timing {name}")))
    grid, said = plan_text.sheet(made)
    out.print(grid)
    for sentence in said:
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)


@app.command("experiment")
def experiment_(
    name: Annotated[str, typer.Argument(help="a name that `dgbench list experiments` prints, or a .yaml of your own")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Replaces that key in every stage that trains, or is added."),
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print the stages and their runs; run nothing.")] = False,
) -> None:
    """Train, rank and compare as a file of stages says; the same command continues."""
    from dgbench import experiment

    raise typer.Exit(experiment.run(name, keys or (), only_plan=only_plan))


@app.command("list")
def list_(
    shelf: Annotated[
        str | None,
        typer.Argument(help="algorithms, datasets, adapters, experiments or protocols; without it, the shelves"),
    ] = None,
) -> None:
    """List what is on a shelf, one line each."""
    out.print(listing(shelves.overview() if shelf is None else shelves.lines(shelf)))


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="algorithm, dataset, adapter, experiment or protocol")],
    name: Annotated[str, typer.Argument(help="a name that `dgbench list` prints")],
) -> None:
    """Show what a component is, its options, and where its file lies."""
    kinds = [*(shelf.kind for shelf in shelves.KINDS.values()), "experiment", "protocol"]
    if kind not in kinds:
        raise UnknownName("kind of component", kind, kinds)
    if kind == "experiment":
        from dgbench import stages

        for text in stages.sheet(name):
            out.print(text, highlight=False, soft_wrap=True)
        return
    from dgbench import sheet

    sheets = {"algorithm": sheet.algorithm, "dataset": sheet.dataset, "adapter": sheet.adapter}
    for part in {**sheets, "protocol": sheet.protocol}[kind](name):
        out.print(part, width=min(out.width, PAGE_WIDTH), highlight=False)


@app.command()
def status(runs: cli_results.Runs) -> None:
    """Count the runs by status, and estimate the time left."""
    from dgbench import sweeper

    said = sweeper.status(runs)
    counts = {**said["counts"], **({"not started": said["not started"]} if said["not started"] else {})}
    if not counts:
        raise ValueError(f"No runs under {', '.join(map(str, runs))}. Name the runs_dir of a sweep, or let it begin.")
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right")
    for name, count in counts.items():
        grid.add_row(name, str(count))
    out.print(grid)
    if said["left"]:
        seconds = said["seconds_left"]
        guess = "unknown until a run is complete" if seconds != seconds else f"about {duration(seconds)}"
        out.print(f"{said['left']} of {said['planned']} runs left; time left: {guess}.", highlight=False)
    elif said["planned"]:
        out.print(f"Nothing left of the {said['planned']} runs asked for.", highlight=False)
    for label, reason in said["failures"]:
        out.print(f"  {label}: {reason}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The folder of one run.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="domain=NAME,NAME, dataset=NAME and dataset.OPTION=VALUE for other data."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="The file; else predictions.parquet of the run.")] = None,
    step: Annotated[int | None, typer.Option(help="Of which evaluation; else as train_validation chooses.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the data are; else as recorded, or DGBENCH_DATA.")
    ] = None,
) -> None:
    """Write what a run's model answers, example by example, as a parquet file."""
    from dgbench import prediction

    print(prediction.write(run, keys or (), out=file, step=step, data_dir=data_dir))


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(help="a file that holds one algorithm, dataset or adapter; or a component's name")
    ],
    data_dir: Annotated[
        Path, typer.Option(envvar="DGBENCH_DATA", help="folder under which datasets keep their files")
    ] = Path("data"),
) -> None:
    """Check a component of your own against the contract."""
    from dgbench.check import check_file

    marks = {True: Text("ok", "green"), False: Text("no", "red"), None: Text("--", "dim")}
    failed = 0
    for kind, name, findings in check_file(path, data_dir):
        title = Text(f"{kind} {name}", "table.title")
        grid = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        for finding in findings:
            grid.add_row(marks[finding.passed], Text(finding.clause), Text(finding.message))
            failed += finding.passed is False
        out.print(grid)
    raise typer.Exit(1 if failed else 0)


@data.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="a dataset that `dgbench list datasets` prints")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="dataset.KEY=VALUE", help="options, e.g. dataset.root=~/photos")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="DGBENCH_DATA", help="folder under which datasets keep their files")
    ] = Path("data"),
    quick: Annotated[bool, typer.Option("--quick", help="decode no images")] = False,
) -> None:
    """Read a dataset, count what it holds, and compare it with its card."""
    from rich.progress import track

    from dgbench.data_check import check_data, find_subject

    def tracked(indices: Sequence[int], domain: str) -> Iterable[int]:
        return track(indices, domain, console=err, transient=True, disable=not err.is_terminal)

    report = check_data(find_subject(name, data_dir, overrides or ()), quick=quick, track=tracked)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("domain", style="bold", no_wrap=True)
    grid.add_column("examples", justify="right")
    grid.add_column("targets", overflow="fold")
    for row in report.rows:
        grid.add_row(row.domain, str(row.num_examples), Text(row.text))
    out.print(grid)
    out.print(f"fingerprint {report.fingerprint}", highlight=False)
    for text in (*report.notes, *report.problems):
        out.print(f"  {text}", highlight=False, soft_wrap=True, markup=False)
    out.print(f"{len(report.problems) or 'No'} mismatch{'es' * (len(report.problems) != 1)}.", highlight=False)
    raise typer.Exit(1 if report.problems else 0)


cli_results.add_to(app)
