"""What there is to choose from, a line each, read from the files without importing what they hold."""

from __future__ import annotations

import ast
import itertools
from importlib import import_module
from pathlib import Path

from dgbench import registry
from dgbench.registry import UnknownName

KINDS = {f"{kind.kind}s": kind for kind in registry.EVERY}
NAMES = (*KINDS, "experiments", "protocols")


def configs() -> Path:
    """The folder of the configuration's files."""
    (folder,) = import_module("dgbench.configs").__path__
    return Path(folder)


def presets() -> list[str]:
    """Names of the protocol's presets."""
    return sorted(path.stem for path in (configs() / "protocol").glob("*.yaml"))


def overview() -> list[tuple[str, ...]]:
    """Each shelf, how much is on it, and the command that lists it."""
    return [(name, str(len(lines(name))), f"dgbench list {name}") for name in NAMES]


def lines(shelf: str) -> list[tuple[str, ...]]:
    """Name, family if there are families, and first sentence of each thing on a shelf.

    Raises:
        UnknownName: there is no such shelf.
    """
    if shelf in KINDS:
        places = KINDS[shelf].places().items()
        return [(name, place.family, _first_line(place.path)) for name, place in places]
    if shelf == "experiments":
        from dgbench import stages

        return [(name, stages.summary(stages.find(name))) for name in stages.names()]
    if shelf == "protocols":
        return [(name, _first_comment(configs() / "protocol" / f"{name}.yaml")) for name in presets()]
    raise UnknownName("shelf", shelf, NAMES)


def _first_line(path: Path) -> str:
    """The first sentence of a file's docstring."""
    try:
        doc = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except SyntaxError as error:  # of a plugin that is being written
        return f"no Python: {error}"
    return doc.split("\n")[0]


def _first_comment(path: Path) -> str:
    """What a file of configuration begins with."""
    comment = itertools.takewhile(lambda line: line.startswith("# "), path.read_text("utf-8").splitlines())
    return " ".join(line.removeprefix("# ") for line in comment)
