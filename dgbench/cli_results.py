"""The commands that read results: tables, comparisons, pictures, submissions, W&B.

Each imports what it needs when it is called, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dgbench.console import err, out

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs (a sweep's runs_dir), or single runs.")]
leaderboard = typer.Typer(help="Submissions, and the page that they make.", no_args_is_help=True)
on_wandb = typer.Typer(help="Runs on Weights & Biases.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Make them commands of `dgbench`."""
    for command in (table, compare, plot, submit):
        app.command()(command)
    app.command("import-domainbed")(import_domainbed)
    app.add_typer(leaderboard, name="leaderboard")
    app.add_typer(on_wandb, name="wandb")


def table(
    runs: Runs,
    criterion: Annotated[
        str, typer.Option(help="train_validation, domain_cross_validation, oracle, oracle_best or last_step")
    ] = "train_validation",
    metric: Annotated[str | None, typer.Option(help="another metric than the score, e.g. nll")] = None,
    format: Annotated[str, typer.Option(help="text, markdown, latex or csv")] = "text",
    protocol: Annotated[
        str | None, typer.Option(help="preset by whose rules runs are read, if not by their own, e.g. domainbed_2020")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="say what is missing, and what makes it")] = False,
    published: Annotated[
        bool, typer.Option("--published", help="show published rows of the same datasets below, in tables of their own")
    ] = False,
) -> None:
    """Select models and rank the methods."""
    from dgbench import record
    from dgbench.leaderboard.tables import table as make_table

    if record.kinds(runs) == {"adapt"}:
        from dgbench.leaderboard.adaptation import adaptations, ranks_adaptations

        ranks_adaptations(criterion, format, protocol, explain=explain, published=published)
        out.print(adaptations(runs, metric))
        return
    made = make_table(
        runs,
        criterion=criterion,
        metric=metric,
        format=format,
        protocol=protocol,
        published=published,
        # What goes into a file stands there alone.
        explained=explain and format == "text",
    )
    if isinstance(made, str):
        sys.stdout.write(made if made.endswith("\n") else made + "\n")
    else:
        out.print(made)
    if explain:
        from dgbench.leaderboard.explain import explain as make_explanation

        # Beside a table for a file or another program, the rest is for the person.
        (err if isinstance(made, str) else out).print(make_explanation(runs, criterion), soft_wrap=True)


def compare(
    runs: Runs,
    baseline: Annotated[str, typer.Option(help="the method that the others are compared with, as tables name it")],
    criterion: Annotated[
        str, typer.Option(help="train_validation, domain_cross_validation, oracle, oracle_best or last_step")
    ] = "train_validation",
    metric: Annotated[str | None, typer.Option(help="another metric than the score, e.g. nll")] = None,
) -> None:
    """Test whether methods differ from a baseline, on each dataset and over datasets."""
    from dgbench.leaderboard.compare import compare as make_comparisons

    out.print(make_comparisons(runs, baseline, criterion=criterion, metric=metric))


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            help="ranks (critical-difference diagram), domains (forest plot by test domain), selection (validation "
            "against test: does the criterion work?), steps (with the chosen checkpoints), cost (against seconds or "
            "memory), adaptation (over the batches of a stream)"
        ),
    ],
    runs: Runs,
    criterion: Annotated[
        str, typer.Option(help="train_validation, domain_cross_validation, oracle, oracle_best or last_step")
    ] = "train_validation",
    metric: Annotated[str | None, typer.Option(help="another metric than the score, e.g. nll")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="the method that the others are seen beside; erm where it is there")
    ] = None,
    dataset: Annotated[list[str], typer.Option(help="draw this one only; may be given several times")] = [],  # noqa: B006
    method: Annotated[list[str], typer.Option(help="draw this one only; may be given several times")] = [],  # noqa: B006
    against: Annotated[str, typer.Option(help="of cost: seconds or memory")] = "seconds",
    file: Annotated[
        Path | None, typer.Option("--out", help="the .svg or .png file to write; without, both, named for the kind")
    ] = None,
) -> None:
    """Draw results for print, as SVG and PNG."""
    from dgbench.leaderboard.plots import Request, write
    from dgbench.leaderboard.plots import plot as draw

    files = [file] if file else [Path(f"{kind}.svg"), Path(f"{kind}.png")]
    request = Request(
        runs=runs,
        criterion=criterion,
        metric=metric,
        baseline=baseline,
        dataset=tuple(dataset),
        method=tuple(method),
        against=against,
    )
    figure = draw(kind, request, files)
    write(figure, files)
    said = [f"{figure.title}: {' and '.join(map(str, files))}.", *figure.notes, *figure.warnings]
    out.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)


def submit(
    runs: Runs,
    method: Annotated[str, typer.Option(help="a row of `dgbench table`, e.g. erm or 'erm + swad'")],
    contact: Annotated[str, typer.Option(help="an e-mail address or an https address")],
    file: Annotated[Path, typer.Option("--out", help="the file to write")] = Path("submission.json"),
    suite: Annotated[str | None, typer.Option(help="the suite that the runs complete, e.g. embedded")] = None,
    paper: Annotated[str | None, typer.Option(help="https address of the paper")] = None,
    code: Annotated[str | None, typer.Option(help="https address of the code")] = None,
    summary: Annotated[str, typer.Option(help="what the method does, in a sentence")] = "",
    created: Annotated[str | None, typer.Option(help="a time in UTC such as 2026-01-31T12:00:00Z, if not now")] = None,
    supersedes: Annotated[
        str | None, typer.Option(help="checksum of the submission whose published values this one changes")
    ] = None,
) -> None:
    """Put one method's results, with all that is needed to compute them again, into one file."""
    from dgbench.leaderboard.submit import check_place, write
    from dgbench.leaderboard.submit import submit as make_submission
    from dgbench.leaderboard.validate import validate as judge

    check_place(file, supersedes)
    said = make_submission(
        runs,
        method,
        contact,
        suite=suite,
        paper=paper,
        code=code,
        summary=summary,
        created=created,
        supersedes=supersedes,
    )
    write(said, file)
    (verdict,) = judge([file])
    out.print(verdict.line, highlight=False, markup=False, soft_wrap=True)


@leaderboard.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Submissions, or folders of them.")],
    against: Annotated[
        Path | None, typer.Option(help="folder of the submissions as they were: published values have to stay")
    ] = None,
) -> None:
    """Check submissions: read as data only, computed again from their rows."""
    from dgbench.leaderboard.validate import sentences as judge

    accepted, refused = judge(files, against)
    for sentence in accepted:
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for sentence in refused:
        err.print(sentence, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1 if refused else 0)


@leaderboard.command()
def build(
    submissions: Annotated[Path, typer.Option(help="folder of the submissions")] = Path("leaderboard/submissions"),
    site: Annotated[Path, typer.Option("--out", help="folder to write the page into")] = Path("build/leaderboard"),
    readme: Annotated[Path | None, typer.Option(help="file whose table, between its markers, is made anew")] = None,
) -> None:
    """Make the page of valid submissions: static, for any web server or to open as a file."""
    from dgbench.leaderboard.page import build as make_page

    number = make_page(submissions, site, readme)
    said = f"{site / 'index.html'}: the page of {number} {'submission' if number == 1 else 'submissions'}."
    said += f" {readme}: its table." if readme is not None else ""
    out.print(said, highlight=False, markup=False, soft_wrap=True)


def import_domainbed(
    sweep_dir: Annotated[Path, typer.Argument(help="--output_dir of a DomainBed sweep: one folder per run.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="runs_dir of the records; else runs/NAME of the sweep's folder")
    ] = None,
) -> None:
    """Make records of a sweep by DomainBed (2020 or 2024)."""
    from dgbench.leaderboard.domainbed_import import import_sweep, report

    out_dir = Path("runs", sweep_dir.resolve().name) if out_dir is None else out_dir
    for line in report(import_sweep(sweep_dir, out_dir), sweep_dir, out_dir):
        out.print(line, highlight=False, soft_wrap=True, markup=False)


@on_wandb.command()
def dashboard(
    project: Annotated[str, typer.Option(help="of W&B, as WANDB_PROJECT names it")] = "dgbench",
    entity: Annotated[str | None, typer.Option(help="whose project it is, if not your own")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the workspace; ask and send nothing.")] = False,
) -> None:
    """Lay out a project on W&B as a saved view: test scores, validation, curves, penalties, cost."""
    from dgbench import wandb_dashboard

    if dry_run:
        sys.stdout.write(wandb_dashboard.printed(wandb_dashboard.workspace(project, entity or "")) + "\n")
    else:
        out.print(wandb_dashboard.dashboard(project, entity), highlight=False, markup=False, soft_wrap=True)


@on_wandb.command()
def pull(
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="e.g. my_team/dgbench")],
    runs_dir: Annotated[
        Path | None, typer.Option("--out", help="folder that receives the runs; runs/PROJECT if not named")
    ] = None,
) -> None:
    """Make runs that `logger=wandb` sent folders of runs again; the same command fetches what is new."""
    from dgbench import wandb_pull

    where = runs_dir or Path("runs") / project.rpartition("/")[2]
    with err.status(Text(f"Reading {project}")) as shown:

        def say(done: int, of: int) -> None:
            shown.update(Text(f"Reading {project}: {done} of {of} runs"))

        made = wandb_pull.pull(project, where, say)
    out.print(f"{where}: {made}", highlight=False, markup=False, soft_wrap=True)
