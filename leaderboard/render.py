"""Tables as text, Markdown and LaTeX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from .tables import Cell, Line, Sheet

# Wider headings of columns break after an underscore.
HEADING = 9
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}_#$%&"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "—": "---",
    "†": r"$^\dagger$",
}


class Printed:
    """Something for a console that is a text elsewhere."""

    width: ClassVar[int] = 100
    """Columns of the text."""

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=self.width)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    __repr__ = __str__


def parts(cell: Cell, is_percent: bool) -> tuple[str, str | None, str, str]:
    """A cell in words: mean, error, sign of a diverged run, how many trials if some are missing."""
    sign = "†" if cell.num_diverged else ""
    trials = f"({cell.num_trials}/{cell.expected_trials})" if 0 < cell.num_trials < cell.expected_trials else ""
    if cell.mean is None:
        return "", None, sign, trials

    def number(value: float) -> str:
        return f"{100 * value:.1f}" if is_percent else f"{value:.3f}"

    return number(cell.mean), None if cell.se is None else number(cell.se), sign, trials


def gap(cell: Cell) -> str:
    """What stands where there is no number: a mean that would leave out something is not made."""
    return "—" if cell.is_average else "missing"


def text(sheets: Sequence[Sheet], console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
    """For a terminal; errors go below their means where the line is too short."""
    for place, sheet in enumerate(sheets):
        if place:
            yield Text()
        yield Text(sheet.title, style="bold")
        yield Text(sheet.subtitle, style="dim")
        grid = _grid(sheet, " ")
        if Measurement.get(console, options.update(max_width=10_000), grid).maximum > options.max_width:
            grid = _grid(sheet, "\n")
        yield grid
        for note in sheet.notes:
            yield Text(note, style="dim")


def _grid(sheet: Sheet, between: str) -> Grid:
    grid = Grid(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("#", justify="right")
    grid.add_column("method", overflow="fold")
    for name in sheet.columns:
        heading = name.replace("_", "_\n") if len(name) > HEADING else name
        grid.add_column(Text(heading), justify="right", overflow="fold")
    grid.add_column("found", justify="right")
    # Where one number of a column carries a sign, the others leave room for it.
    columns = zip(*(line.cells for line in sheet.lines), strict=True)
    signs = [any(cell.num_diverged for cell in column) for column in columns]
    for line in sheet.lines:
        cells = [_text_cell(*pair, sheet.is_percent, between) for pair in zip(line.cells, signs, strict=True)]
        rank = "" if line.rank is None else str(line.rank)
        grid.add_row(rank, Text(line.method), *cells, Text(line.found, style="" if is_full(line) else "yellow"))
    return grid


def is_full(line: Line) -> bool:
    """Whether all cells of the method are there."""
    return len(set(line.found.split("/"))) == 1


def _text_cell(cell: Cell, has_signs: bool, is_percent: bool, between: str) -> Text:
    mean, error, sign, trials = parts(cell, is_percent)
    if not mean:
        return Text(gap(cell), style="dim" if cell.is_average else "red")
    # On one line the error needs no space before it; below, it has the line to itself.
    shown = mean if error is None else f"{mean}{between.strip(' ')}±{error}"
    made = Text(shown + (sign or " " * has_signs), style="bold" if cell.is_average else "")
    return made.append(f"\n{trials}", style="yellow") if trials else made


def markdown(sheets: Sequence[Sheet]) -> str:
    """For a page on GitHub."""
    return "\n".join(_markdown(sheet) for sheet in sheets)


def _markdown(sheet: Sheet) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"([|\\*])", r"\\\1", cell) for cell in cells) + " |"

    lines = [
        row(["#", "method", *sheet.columns, "found"]),
        "|" + "|".join(["--:", ":--"] + ["--:"] * (len(sheet.columns) + 1)) + "|",
    ]
    for line in sheet.lines:
        cells = [_spaced(cell, sheet.is_percent) for cell in line.cells]
        lines.append(row([str(line.rank or ""), line.method, *cells, line.found]))
    notes = "\n".join(f"* {note}" for note in sheet.notes)
    return f"**{sheet.title}**\n\n{sheet.subtitle}\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def _spaced(cell: Cell, is_percent: bool) -> str:
    mean, error, sign, trials = parts(cell, is_percent)
    if not mean:
        return gap(cell)
    return (mean if error is None else f"{mean} ± {error}") + sign + (f" {trials}" if trials else "")


def latex(sheets: Sequence[Sheet]) -> str:
    """For a paper; needs no package."""
    return "\n".join(_latex(sheet) for sheet in sheets)


def _latex(sheet: Sheet) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(escape, cells)) + r" \\"

    body = [
        row(
            [
                str(line.rank or ""),
                line.method,
                *(_spaced(cell, sheet.is_percent) for cell in line.cells),
                line.found,
            ]
        )
        for line in sheet.lines
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(sheet.title)}. {escape(sheet.subtitle)}.}}",
            r"\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{rl{'r' * len(sheet.columns)}r}}",
            r"\hline",
            row(["#", "method", *sheet.columns, "found"]),
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\par\raggedright",
            *(f"{escape(note)}\\par" for note in sheet.notes),
            r"\end{table}",
            "",
        ]
    )


def escape(words: str) -> str:
    r"""Words as LaTeX prints them.

    >>> escape("hospital_0 ± 1 %")
    'hospital\\_0 $\\pm$ 1 \\%'
    """
    return "".join(LATEX.get(character, character) for character in words)
