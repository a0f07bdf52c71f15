"""Pictures of results: which there are, how one is made, how it is written.

Each kind is a module with `frame(request)`, the small table of numbers that is drawn, and `draw(frame, request)`, the
picture of such a table.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dgbench.registry import UnknownName

if TYPE_CHECKING:
    from ._style import Picture

FORMATS = (".svg", ".png")


@dataclass(frozen=True)
class Kind:
    """A kind of picture."""

    meaning: str
    options: tuple[str, ...]
    """Of `Request`, those that change it."""


_TRAINED = ("criterion", "metric", "dataset", "method")
KINDS = {
    "ranks": Kind(
        "mean ranks over datasets; bars connect methods that differ by less than the critical difference",
        (*_TRAINED, "baseline"),
    ),
    "domains": Kind("each test domain's mean with its 95 % interval over trials", (*_TRAINED, "baseline")),
    "selection": Kind("validation against test, a point per run: does the criterion work?", _TRAINED),
    "steps": Kind("the metric over training steps, the chosen checkpoint marked", (*_TRAINED, "baseline")),
    "cost": Kind("the metric against seconds, or against memory", (*_TRAINED, "baseline", "against")),
    "adaptation": Kind("adapters over the batches of a stream, beside source", ("dataset", "method")),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be drawn."""

    runs: str | Path | Sequence[str | Path]
    """Folders of runs, or single runs."""
    criterion: str = "train_validation"
    """How models are selected."""
    metric: str | None = None
    """What is drawn; None: the score by which is selected."""
    baseline: str | None = None
    """The method that the others are seen beside; None: `erm` where it is there."""
    dataset: tuple[str, ...] = ()
    """Which are drawn; none: all."""
    method: tuple[str, ...] = ()
    """Which are drawn, as tables name them; none: all."""
    against: str = "seconds"
    """The cost: `seconds` or `memory`."""


def plot(kind: str, request: Request, files: Sequence[Path] = ()) -> Picture:
    """Draw some runs.

    Args:
        kind: one of `KINDS`.
        request: which runs, and how they are read.
        files: what the picture is to be written to; names of other formats are refused before it is drawn.

    Raises:
        UnknownName: a kind, criterion, metric, baseline, dataset or method that is not there.
        ValueError: an option that the kind does not have, or there is nothing to draw.
    """
    _check_formats(files)
    if kind not in KINDS:
        raise UnknownName("kind of picture", kind, KINDS)
    for option in fields(Request)[1:]:
        value = getattr(request, option.name)
        if value != option.default and option.name not in KINDS[kind].options:
            raise ValueError(
                f"{option.name}={value} is no option of {kind}, which has {', '.join(KINDS[kind].options)}. Leave it "
                "out."
            )
    from ._style import paper

    module = importlib.import_module(f"{__name__}.{kind}")
    with paper():
        figure = module.draw(module.frame(request), request)
        figure.settle()
    return figure


def write(figure: Picture, files: Sequence[Path]) -> None:
    """Write a picture, as SVG or PNG by the files' names; the bytes are the same whenever it is made of the same runs.

    Raises:
        ValueError: another format.
        CannotWrite: the place cannot be written.
    """
    from dgbench.writing import replace_file, writable

    from ._style import encoded

    _check_formats(files)
    for file in files:
        image = encoded(figure, file.suffix[1:])
        with writable(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, functools.partial(_put, image))


def _put(image: bytes, target: IO[bytes]) -> None:
    target.write(image)


def _check_formats(files: Sequence[Path]) -> None:
    for file in files:
        if file.suffix not in FORMATS:
            raise ValueError(f"{file} ends in {file.suffix or 'nothing'}, expected {' or '.join(FORMATS)}.")
