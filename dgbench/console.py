"""What a person sees at the command line: where it is printed, how it ends, how it is laid out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dgbench.record import Interrupted
from dgbench.registry import ComponentError, UnknownName

# What is piped is cut by whoever reads it, not here.
PIPED_WIDTH = 200
# Beyond this, lines of prose are hard to read.
PAGE_WIDTH = 100


def _console(*, stderr: bool = False) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPED_WIDTH
    # Names and reasons hold brackets and colons, which are no markup.
    return Console(stderr=stderr, width=width, markup=False, emoji=False)


out = _console()
err = _console(stderr=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Interrupted`, so that a sentence is said and a launcher stops its workers."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    # Other handlers mean that whoever started this process has other plans.
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [number for number, handler in usual.items() if signal.getsignal(number) == handler]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def sentences(command: Callable[[], Any]) -> int:
    """Call a command; what a user or the disk can cause becomes a sentence and an exit code."""
    try:
        code = command()
    except (KeyboardInterrupt, Interrupted):
        err.print("Stopped. The same command continues.")
        return 130
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has seen enough; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UnknownName, ComponentError, ValueError, OSError, RuntimeError) as error:
        err.print(Text.assemble(("Error:", "red"), " ", _text(error)), highlight=False, soft_wrap=True)
        return 1
    return code if isinstance(code, int) else 0


def _text(error: BaseException) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def listing(rows: Sequence[Sequence[str]]) -> Table:
    """Rows of one line each, the first cell bold; where the line is too short, the last cell ends in an ellipsis."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    # A column in which no row says anything is left out.
    *names, last = [column for column in zip(*rows, strict=True) if any(column)]
    room = out.width - sum(max(map(len, column)) + 2 for column in names)
    for column in names:
        grid.add_column(style="bold" if column is names[0] else "", no_wrap=True)
    for *cells, text in zip(*names, last, strict=True):
        sentence = Text(text)
        sentence.truncate(room, overflow="ellipsis")
        grid.add_row(*map(Text, cells), sentence)
    return grid


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
