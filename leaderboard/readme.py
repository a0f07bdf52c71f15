"""The leaderboard as a table in a README, between two lines that mark its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .standings import Board, Row
from .tabs import Tab

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
CRITERION = "train_validation"


def with_table(file: Path, made: Sequence[Tab]) -> str:
    """What a README holds, its table made anew.

    Args:
        file: with one line `BEGIN` and below it one line `END`.
        made: the tabs of the page.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the lines are not there.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. Name one that has a place for the table.")
    before, begin, rest = file.read_text("utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in after or END in before:
        raise ValueError(f"{file} has no place for the table. Mark it by one line {BEGIN} and below it one line {END}.")
    return f"{before}{BEGIN}\n{_tables(made)}{END}\n{after}"


def figure(board: Board, value: float, sign: str = "") -> str:
    """A number of a board, `-0.0` as `0.0`."""
    text = f"{100 * value:{sign}z.1f}" if board.is_percent else f"{value:{sign}z.3f}"
    return text.replace("-", "−")


def interval(ranks: tuple[int, int]) -> str:
    """Of ranks.

    >>> interval((2, 5)), interval((3, 3))
    ('2–5', '3')
    """
    return "–".join(map(str, dict.fromkeys(ranks)))


def _tables(made: Sequence[Tab]) -> str:
    """Per suite and setting the table of its ranked entries."""
    found = []
    for tab in (tab for tab in made if tab.is_suite):
        panels = [panel for panel in tab.panels if panel.board.criterion == CRITERION and panel.board.ranked]
        found += [_table(f"{tab.title}: {panel.setting}", panel.board) for panel in panels]
        if not panels:
            found.append(f"Suite `{tab.title}` ({', '.join(tab.datasets)}): no submissions yet.\n")
    return "\n".join(found)


def _table(title: str, board: Board) -> str:
    unit = f"{board.score}{' in %' if board.is_percent else ''}{' (lower is better)' if board.lower_is_better else ''}"
    said = f"Suite {title}; {unit}, selected by {board.criterion}."
    headings = ["rank", "95 %", "method", *board.columns, "Average", "worst domain"]
    lines = [_line(headings), _line(["--:", ":-:", ":--", *["--:"] * (len(board.columns) + 2)])]
    return "\n".join([said, "", *lines, *(_line(_cells(row, board)) for row in board.ranked), ""])


def _cells(row: Row, board: Board) -> Iterator[str]:
    yield str(row.rank)
    yield interval(row.rank_interval) if row.rank_interval else "—"
    yield row.entry.name
    for cell in (*row.cells, row.average):
        error = "" if cell.se is None else f" ± {figure(board, cell.se)}"
        yield "—" if cell.mean is None else f"{figure(board, cell.mean)}{error}"
    yield "—" if row.worst is None else figure(board, row.worst)


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"
