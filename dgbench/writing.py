"""Writing so that a crash, a full disk or a reader at the wrong moment never meets half a file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

ASIDE = ".aside"


class CannotWrite(OSError):
    """The run's folder cannot be written; the text says why."""


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the system says of a full or read-only disk into a sentence.

    Raises:
        CannotWrite: the place cannot be written.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(
            error.errno,
            f"Cannot write under {folder}: {error.strerror}. Free room, make it writable or set runs_dir to another "
            "folder; what was written so far is whole, and the same command continues",
        ) from error


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a reader or a crash sees the old content or the new, never a part.

    Raises:
        CannotWrite: the place cannot be written; what was there stays.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{ASIDE}")
    with writable(path.parent):
        try:
            with open(aside, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def tidy(folder: Path) -> None:
    """Delete what killed processes were writing aside; nobody else may be writing there."""
    mine = f".{os.getpid()}."
    for file in folder.rglob(f".*{ASIDE}"):
        if mine not in file.name:
            file.unlink(missing_ok=True)
