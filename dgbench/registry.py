"""The folder is the registry: a component is a file on a shelf, found by being there.

Listing names reads folders and imports nothing; looking a name up imports that one file.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class UnknownName(LookupError):
    """A name that no shelf, list or table holds; the text suggests the nearest and lists all."""

    def __init__(self, what: str, name: object, known: Iterable[str]):
        known = list(known)
        near = difflib.get_close_matches(str(name), known, n=1) or [
            k for k in known if len(str(name)) > 2 and k.startswith(str(name))
        ]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"{name!r} is not a known {what}.{hint} Known: {', '.join(known) or 'none'}.")


class ComponentError(ImportError):
    """A component's file exists but cannot be used; the text says why and what to install."""


class Place(NamedTuple):
    """Where a component lies: its file and the name by which it is imported."""

    path: Path
    module: str

    @property
    def family(self) -> str:
        """The folder of the file on its shelf, empty at the top."""
        parent = self.path.parent.name
        return "" if parent == self.module.split(".")[1] else parent


class Registry:
    """The components of one kind.

    Args:
        kind: singular, for messages, e.g. `algorithm`.
        shelf: package whose modules are the components, e.g. `dgbench.algorithms`.
        base: `module:Class` that every component of this kind inherits from.
        only: read this one sub-folder of the shelf alone.
        without: sub-folders of the shelf that hold another kind.
    """

    def __init__(self, kind: str, shelf: str, base: str, *, only: str | None = None, without: tuple[str, ...] = ()):
        self.kind, self.shelf, self.base = kind, shelf, base
        self._only, self._without = only, without
        self._classes: dict[str, Any] = {}

    def places(self) -> dict[str, Place]:
        """Name to place, sorted by name.

        Raises:
            ValueError: two files of the shelf share a name.
        """
        found: dict[str, Place] = {}
        for place in self._files():
            name = place.path.stem
            if name in found:
                raise ValueError(
                    f"Two {self.kind}s are called {name!r}: {found[name].path} and {place.path}. "
                    "Rename one of the files."
                )
            found[name] = place
        return dict(sorted(found.items()))

    def _files(self) -> Iterator[Place]:
        spec = find_spec(self.shelf)
        for folder in dict.fromkeys(map(Path, (spec and spec.submodule_search_locations) or ())):
            if self._only is None:
                yield from _modules(folder, self.shelf)
            for family in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))):
                if self._only in (None, family.name) and family.name not in self._without:
                    yield from _modules(family, f"{self.shelf}.{family.name}")

    def names(self) -> list[str]:
        """All names, sorted. Imports nothing."""
        return list(self.places())

    def __contains__(self, name: object) -> bool:
        return name in self.places()

    def place(self, name: str) -> Place:
        """Where `name` lies.

        Raises:
            UnknownName: no file of that name.
        """
        places = self.places()
        if name not in places:
            raise UnknownName(self.kind, name, places)
        return places[name]

    def __getitem__(self, name: str) -> Any:
        """The component's class; imports its file.

        Raises:
            UnknownName: no file of that name.
            ComponentError: the file cannot be imported, or does not hold exactly one public component.
        """
        if name not in self._classes:
            self._classes[name] = self._imported(name)
        return self._classes[name]

    def _imported(self, name: str) -> Any:
        place = self.place(name)
        try:
            module = import_module(place.module)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == self.shelf.split(".")[0]:
                raise  # a module of ours that is gone; nothing to install
            raise ComponentError(
                f"The {self.kind} {name!r} ({place.path}) needs the package {error.name!r}, "
                f"which is not installed. Install it: pip install {(error.name or '').split('.')[0]}"
            ) from error
        return self.component(module)

    def component(self, module: Any) -> Any:
        """The one public component that `module` defines."""
        base_module, base_name = self.base.split(":")
        base = getattr(import_module(base_module), base_name)
        found = [
            value
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, base)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
        found = list(dict.fromkeys(found))  # one class under two names is one component
        if len(found) != 1:
            names = ", ".join(c.__name__ for c in found) or "none"
            raise ComponentError(
                f"{module.__name__} holds {len(found)} public {base_name} classes ({names}), expected exactly one. "
                f"Give helpers a leading underscore or a file of their own."
            )
        return found[0]


def _modules(folder: Path, package: str) -> Iterator[Place]:
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            yield Place(path, f"{package}.{path.stem}")


algorithms = Registry("algorithm", "dgbench.algorithms", "dgbench.algorithm:Algorithm", without=("test_time",))
datasets = Registry("dataset", "dgbench.datasets", "dgbench.dataset:MultiDomainDataset")
