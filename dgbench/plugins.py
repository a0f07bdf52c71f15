"""Components from outside the package: what `plugins=` or DGBENCH_PLUGINS names, and entry points of distributions.

A folder mirrors the shelves (`algorithms/<family>/x.py`, `datasets/y.py`); a file or a module holds one component. The
environment variable is the only list of what is in effect, so that processes started from this one have it too. Entry
points are read from the groups `dgbench.algorithms`, `dgbench.datasets` and so on, one per kind.

A file is imported as `dgbench.plugins.<folder>_<hash of its path>.<...>`: two folders never clash, relative imports
work, and whoever looks such a module up by its name (pickle in a worker process) imports this one first, which knows
where the folder is.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dgbench import registry
from dgbench.registry import VARIABLE, ComponentError, Place, Registry

# Makes this module a package, whose sub-packages `_Finder` finds.
__path__: list[str] = []
# Folders by the names under which they are imported.
_packages: dict[str, Path] = {}
SEPARATORS = ("," + os.pathsep).strip()


class Source(NamedTuple):
    """One plugin."""

    path: Path
    """Its folder or file."""
    module: str
    """The name by which that is imported."""
    is_folder: bool
    """Whether it mirrors the shelves; otherwise it holds one component."""


def in_effect() -> list[str]:
    """The plugins named so far, paths absolute.

    DGBENCH_PLUGINS separates them by commas or by `os.pathsep`, as PATH does.
    """
    written = re.split(f"[{re.escape(SEPARATORS)}]", os.environ.get(VARIABLE, ""))
    return list(dict.fromkeys(_absolute(name.strip()) for name in written if name.strip()))


def add(names: Iterable[str | Path] = ()) -> None:
    """Put plugins into effect, in this process and in those that it starts.

    Args:
        names: folders and files, relative to the working directory, or importable modules.

    Raises:
        ValueError: one that is none of these, or whose component has the name of another.
        ComponentError: a file that cannot be imported although its kind can be told only so.
    """
    added = [_absolute(str(name)) for name in names]
    for name in added:
        if set(name) & set(SEPARATORS):
            raise ValueError(
                f"The plugin {name!r} holds a character that separates plugins ({SEPARATORS}). "
                "Rename it, or name it by a link."
            )
    before = os.environ.get(VARIABLE)
    together = ",".join(dict.fromkeys([*in_effect(), *added]))
    if together == (before or ""):
        return
    os.environ[VARIABLE] = together
    try:
        for kind in registry.EVERY:
            kind.places()
    except (ValueError, ImportError):
        # In a notebook, the next call must not stumble over it again.
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        raise


def places(kind: Registry) -> Iterator[tuple[str, Place]]:
    """Name and place of every component of one kind that lies outside the package."""
    yield from _entries(f"dgbench.{kind.kind}s")
    for source in map(_source, in_effect()):
        if source.is_folder:
            shelf = _shelf(kind)
            if (source.path / shelf).is_dir():
                for place in kind.below(source.path / shelf, f"{source.module}.{shelf}"):
                    yield place.path.stem, place
        elif _kind(source) is kind:
            yield source.module.rpartition(".")[2], Place(source.path, source.module)


def imported(path: Path) -> ModuleType:
    """The module of a file, under the name that it has as a plugin.

    Raises:
        ComponentError: it cannot be imported.
    """
    return _imported(_of_path(path))


def only_component(path: Path, module: ModuleType) -> tuple[Registry, Any]:
    """The kind and the class of the one public component that a file holds.

    Raises:
        ComponentError: it holds none or several.
    """
    found = [(kind, cls) for kind in registry.EVERY for cls in registry.public(module, kind.base_class)]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for _, cls in found) or "none"
        bases = " or ".join(kind.base_class.__name__ for kind in registry.EVERY)
        raise ComponentError(
            f"{path} holds {len(found)} public subclasses of {bases} ({names}), expected exactly one. "
            "Give helpers a leading underscore or a file of their own."
        )
    return found[0]


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    is_path = path.is_dir() or path.suffix == ".py" or len(path.parts) > 1 or name.startswith((".", "~"))
    return str(path.resolve()) if is_path else name


@functools.cache
def _source(name: str) -> Source:
    path = Path(name)
    if path.is_absolute():
        if path.is_dir():
            return _of_folder(path)
        if path.suffix == ".py" and path.is_file():
            return _of_path(path)
        raise ValueError(
            f"The plugin {name} is no folder and no .py file. Name a folder that holds {_shelves()}, "
            "or the file of one component."
        )
    spec = _located(name)
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        if _mirrors(folder):
            return Source(folder, name, is_folder=True)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"The plugin {name!r} is no folder here ({Path.cwd()}) and no module that can be imported. Name a folder "
            f"that holds {_shelves()}, the .py file of one component, or an installed module."
        )
    return Source(Path(spec.origin), name, is_folder=False)


def _of_folder(path: Path) -> Source:
    if not _mirrors(path):
        above = f" Did you mean {path.parent}?" if _mirrors(path.parent) else ""
        raise ValueError(
            f"The plugin {path} holds no folder {_shelves()}. Put components into such folders, "
            f"as on the shelves of dgbench, or name the .py file of one component.{above}"
        )
    return Source(path, _package(path), is_folder=True)


def _of_path(file: Path) -> Source:
    # The same module whether it is named itself or its folder is.
    home = next((p.parent for p in file.parents[:2] if p.name in map(_shelf, registry.EVERY)), file.parent)
    inner = file.relative_to(home).with_suffix("").parts
    return Source(file, ".".join([_package(home), *inner]), is_folder=False)


def _package(folder: Path) -> str:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    name = f"{__name__}.{re.sub(r'[^a-zA-Z0-9]', '_', folder.name)}_{digest}"
    _packages[name] = folder
    return name


def _shelf(kind: Registry) -> str:
    return kind.shelf.rpartition(".")[2]


def _shelves() -> str:
    return " or ".join(dict.fromkeys(f"{_shelf(kind)}/" for kind in registry.EVERY))


def _mirrors(folder: Path) -> bool:
    return any((folder / _shelf(kind)).is_dir() for kind in registry.EVERY)


@functools.cache
def _kind(source: Source) -> Registry:
    """By the name of the base class if that tells, as importing it takes seconds; otherwise by importing it."""
    bases = {kind.base.rpartition(":")[2]: kind for kind in registry.EVERY}
    try:
        body = ast.parse(source.path.read_bytes()).body
    except SyntaxError:
        body = []
    classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    written = {ast.unparse(base).rpartition(".")[2] for node in classes for base in node.bases}
    if len(told := written & set(bases)) == 1:
        return bases[told.pop()]
    return only_component(source.path, _imported(source))[0]


def _imported(source: Source) -> ModuleType:
    importlib.invalidate_caches()  # the file may be a moment old
    try:
        return importlib.import_module(source.module)
    # A reader's file may fail in any way; what it said is the answer.
    except Exception as error:
        raise registry.unusable(source.path, error) from error


@functools.cache
def _entries(group: str) -> tuple[tuple[str, Place], ...]:
    found = []
    for entry in entry_points(group=group):
        spec = _located(entry.module)
        if spec is None or spec.origin is None:
            owner = entry.dist.name if entry.dist else "an unknown distribution"
            raise ComponentError(
                f"The entry point {entry.name} = {entry.value} ({group}, of {owner}) names a module that cannot be "
                f"found. Install {owner} again, or remove it."
            )
        found.append((entry.name, Place(Path(spec.origin), entry.module, attribute=entry.attr)))
    return tuple(found)


def _located(module: str) -> ModuleSpec | None:
    """Where a module is, without importing the packages above it, which may take seconds."""
    first, *others = module.split(".")
    try:
        spec = find_spec(first)
    except ValueError:  # no name of a module
        return None
    name = first
    for part in others:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


class _Finder:
    """Finds the folders of plugins as packages of this module."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.rpartition(".")[0] != __name__:
            return None
        if name not in _packages:
            # Another process gave it this name.
            for plugin in in_effect():
                _source(plugin)
        if name not in _packages:
            return None
        folder = _packages[name]
        if (folder / "__init__.py").is_file():
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


sys.meta_path.append(_Finder)
