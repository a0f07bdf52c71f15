"""The commands that read results: tables, comparisons, pictures, submissions, W&B.

Each imports what it needs when it is called, so that `--help` and `list` stay quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dgbench.console import err, out

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs (a sweep's runs_dir), or single runs.")]
leaderboard = typer.Typer(help="Submissions, and the page that they make.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Make them commands of `dgbench`."""
    for command in (table, compare, submit):
        app.command()(command)
    app.add_typer(leaderboard, name="leaderboard")


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
) -> None:
    """Select models and rank the methods."""
    from dgbench import record
    from dgbench.leaderboard.tables import table as make_table

    if record.kinds(runs) == {"adapt"}:
        from dgbench.leaderboard.adaptation import adaptations, ranks_adaptations

        ranks_adaptations(criterion, format, protocol)
        out.print(adaptations(runs, metric))
        return
    made = make_table(runs, criterion=criterion, metric=metric, format=format, protocol=protocol)
    if isinstance(made, str):
        sys.stdout.write(made if made.endswith("\n") else made + "\n")
    else:
        out.print(made)


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
    from dgbench.leaderboard.submit import submit as make_submission
    from dgbench.leaderboard.submit import write
    from dgbench.leaderboard.validate import validate as judge

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
