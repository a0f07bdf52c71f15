"""The W&B workspace of a project: what `logger=wandb` sends, laid out for somebody who compares methods.

Bars are means over the runs of a group, whatever their hyper-parameters: which draw speaks for a method, only
`dgbench table` decides.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import requests
import wandb

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "dgbench"
# Whatever the score is called: of data that are reported, and of data that validate.
REPORTED, VALIDATED = ("^(in|test)/[^/]+/(accuracy|rmse)$", "^(out|val)/[^/]+/(accuracy|rmse)$")
TEST, VALIDATION = "train_validation/test", "train_validation/validation"


def workspace(project: str, entity: str) -> Workspace:
    """The workspace, not saved.

    Args:
        project: of W&B.
        entity: whose project it is.

    Raises:
        ValueError: the library wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ValueError(
            "The dashboard is made by the library wandb-workspaces, which is not installed. "
            "Install it with pip install 'dgbench[dashboard]'."
        ) from error
    from wandb_workspaces import expr

    sections = [
        ws.Section(name=name, panels=panels, is_open=place < 3) for place, (name, panels) in enumerate(_panels())
    ]
    runs = ws.RunsetSettings(
        groupby=[expr.Config("dataset"), expr.Config("algorithm"), expr.Config("test_domains")],
        order=[expr.Ordering(expr.Summary(TEST), ascending=False)],
        pinned_columns=[f"config:{key}.value" for key in ("dataset", "algorithm", "test_domains")]
        + [f"summary:{key}" for key in (TEST, VALIDATION, "oracle/test", "status", "seconds")],
    )
    settings = ws.WorkspaceSettings(max_runs=100, group_by_prefix="first")
    return ws.Workspace(
        entity=entity, project=project, name=NAME, sections=sections, runset_settings=runs, settings=settings
    )


def _panels() -> list[tuple[str, list[Any]]]:
    import wandb_workspaces.reports.v2 as wr

    def bars(title: str, metric: str, by: str | None = None) -> Any:
        """The mean of a group; without `by`, of the groups in which the runs are listed."""
        group = None if by is None else wr.Config(by)
        plot = wr.BarPlot(title=title, metrics=[metric], groupby=group)
        if by is not None:
            plot.groupby_aggfunc, plot.groupby_rangefunc = "mean", "stderr"
        return plot

    def dots(title: str, x: str, y: str, **options: Any) -> Any:
        return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y), **options)

    def lines(title: str, pattern: str, x: str = "Step") -> Any:
        return wr.LinePlot(title=title, x=x, metric_regex=pattern)

    return [
        (
            "Test domains",
            [
                bars("Test score, chosen by train_validation, by algorithm and test domain", TEST),
                bars("Test score by algorithm", TEST, "algorithm"),
                bars("Test score by test domain", TEST, "test_domains"),
            ],
        ),
        (
            "Does validation tell?",
            [
                dots("Validation against test score", VALIDATION, TEST, regression=True),
                dots("Chosen by train_validation against the best step (oracle_best)", TEST, "oracle_best/test"),
                bars("Test score, last step chosen by the oracle", "oracle/test", "algorithm"),
            ],
        ),
        (
            "Over steps, by domain",
            [
                lines("Reported splits", REPORTED),
                lines("Held-out splits", VALIDATED),
                lines("Averaged weights", "^(ema|sma|swad)/.*/(accuracy|rmse)$"),
            ],
        ),
        (
            "Losses and penalties",
            [lines("Loss", "^train/loss$"), lines("All that the method's loss returns", "^train/")],
        ),
        (
            "Cost",
            [
                bars("Seconds by algorithm", "seconds", "algorithm"),
                bars("Peak memory by algorithm, bytes", "peak_memory", "algorithm"),
                dots("Seconds against test score", "seconds", TEST),
            ],
        ),
        (
            "Adaptation",
            [
                bars("Accuracy on the stream by adapter", "stream/accuracy", "adapter"),
                bars("Accuracy kept on the training domains by adapter", "source_after/accuracy", "adapter"),
                lines("Accuracy of each batch", "^curve/.*/accuracy$", "position"),
                bars("Seconds per batch by adapter", "seconds_per_batch", "adapter"),
            ],
        ),
    ]


def printed(made: Workspace) -> str:
    """The workspace as it would be sent, JSON."""
    model = made._to_model()
    said = {"entity": made.entity, "project": made.project, "name": made.name}
    spec = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps({**said, "spec": spec}, indent=1)


def dashboard(project: str, entity: str | None = None) -> str:
    """Save the workspace as a view of the project.

    Args:
        project: of W&B.
        entity: whose project it is; None: the user's own.

    Returns:
        Its address.

    Raises:
        ValueError: the library wandb-workspaces is not installed, or W&B refuses.
    """
    workspace(project, entity or "")  # says what is missing before anybody is asked
    try:
        owner = entity or wandb.Api().default_entity or ""
        return workspace(project, owner).save().url
    except (wandb.Error, requests.RequestException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"W&B does not take the dashboard of {project} ({reason}). Check the name, WANDB_BASE_URL and wandb login."
        ) from error
