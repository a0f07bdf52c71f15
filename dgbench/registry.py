"""The folder is the registry: a component is a file on a shelf, found by being there.

Listing names reads folders and imports nothing; looking a name up imports that one file. What lies outside the package
(`dgbench.plugins`, or a class handed over in Python) is found beside the shelf's own.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "DGBENCH_PLUGINS"
REMEDY = (
    f"One of your own is named by plugins=[folder or file] or the environment variable {VARIABLE}; "
    "a class by registry.{kind}s.add(cls)."
)


class UnknownName(LookupError):
    """A name that no shelf, list or table holds; the text suggests the nearest and lists all."""

    def __init__(self, what: str, name: object, known: Iterable[str], remedy: str = ""):
        known = list(known)
        near = difflib.get_close_matches(str(name), known, n=1) or [
            k for k in known if len(str(name)) > 2 and k.startswith(str(name))
        ]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"{name!r} is not a known {what}.{hint} Known: {', '.join(known) or 'none'}.{remedy}")


class ComponentError(ImportError):
    """A component's file exists but cannot be used; the text says why and what to install."""


class Place(NamedTuple):
    """Where a component lies."""

    path: Path
    module: str
    """The name by which its file is imported."""
    family: str = ""
    """The folder of the file on its shelf, empty at the top."""
    attribute: str = ""
    """The class within the module; empty: its one public component."""


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
        self._classes: dict[tuple[str | None, str], Any] = {}
        self._given: dict[str, Any] = {}

    def places(self) -> dict[str, Place]:
        """Name to place, sorted by name: the shelf's own, plugins, and classes that were handed over.

        Raises:
            ValueError: two components share a name; a plugin that cannot be read.
        """
        from dgbench import plugins

        found: dict[str, Place] = {}
        given = ((name, _place_of(cls)) for name, cls in self._given.items())
        for name, place in (*self._on_the_shelf(), *plugins.places(self), *given):
            other = found.setdefault(name, place)
            # One file may be reached twice, e.g. by its own name and by that of its folder.
            if (other.path, other.attribute) != (place.path, place.attribute):
                raise self._clash(name, other, place)
        return dict(sorted(found.items()))

    def _on_the_shelf(self) -> Iterator[tuple[str, Place]]:
        spec = find_spec(self.shelf)
        for folder in dict.fromkeys(map(Path, (spec and spec.submodule_search_locations) or ())):
            for place in self.below(folder, self.shelf):
                yield place.path.stem, place

    def below(self, folder: Path, package: str) -> Iterator[Place]:
        """The components in a folder that is laid out as the shelf is.

        Args:
            folder: where they lie.
            package: the name by which `folder` is imported.
        """
        if self._only is None:
            yield from _modules(folder, package)
        for family in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))):
            if self._only in (None, family.name) and family.name not in self._without:
                yield from _modules(family, f"{package}.{family.name}", family.name)

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
            raise UnknownName(self.kind, name, places, f" {REMEDY.format(kind=self.kind)}")
        return places[name]

    def __getitem__(self, name: str) -> Any:
        """The component's class; imports its file.

        Raises:
            UnknownName: no file of that name.
            ComponentError: the file cannot be imported, or does not hold exactly one public component.
        """
        if name in self._given:
            return self._given[name]
        key = (os.environ.get(VARIABLE), name)  # other plugins, other components of that name
        if key not in self._classes:
            self._classes[key] = self._imported(name)
        return self._classes[key]

    def add(self, cls: Any) -> str:
        """Make a class of the running process a component.

        It takes the name that it would have as a plugin: that of its file if it is the file's one public component,
        else its own in snake case. A later class of the same module and name takes its place, as when the cell of a
        notebook runs again.

        Args:
            cls: the class.

        Returns:
            Its name.

        Raises:
            TypeError: it is no component of this kind.
            ValueError: another component has that name.
        """
        if not (inspect.isclass(cls) and issubclass(cls, self.base_class)):
            raise TypeError(
                f"{cls!r} is no {self.base_class.__name__}, expected a subclass or a name. Inherit from it."
            )
        for name, place in self.places().items():
            if place.module == cls.__module__ and self[name] is cls:
                return name
        name = self._name_of(cls)
        former = self._given.get(name, cls)
        if (former.__module__, former.__qualname__) != (cls.__module__, cls.__qualname__):
            raise self._clash(name, _place_of(former), _place_of(cls))
        self._given[name] = cls
        try:
            self.places()
        except ValueError:
            del self._given[name]
            raise
        return name

    def _clash(self, name: str, one: Place, other: Place) -> ValueError:
        return ValueError(f"Two {self.kind}s are called {name!r}: {one.path} and {other.path}. Rename one of them.")

    def _name_of(self, cls: Any) -> str:
        module = sys.modules.get(cls.__module__)
        # A script that is run holds more than a component.
        if module is not None and module.__name__ != "__main__" and public(module, self.base_class) == [cls]:
            return module.__name__.rpartition(".")[2]
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @property
    def base_class(self) -> Any:
        """What every component of this kind inherits from."""
        module, _, name = self.base.partition(":")
        return getattr(import_module(module), name)

    def _imported(self, name: str) -> Any:
        place = self.place(name)
        try:
            module = import_module(place.module)
        # A reader's file may fail in any way; what it said is the answer.
        except Exception as error:
            package = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
            at_home = {self.shelf.split(".")[0], place.module.split(".")[0]}
            if package and package.split(".")[0] not in at_home:
                raise ComponentError(
                    f"The {self.kind} {name!r} ({place.path}) needs the package {package!r}, "
                    f"which is not installed. Install it: pip install {package.split('.')[0]}"
                ) from error
            if place.module.startswith(f"{self.shelf}."):
                raise  # a defect of ours, and nothing to install
            raise unusable(place.path, error) from error
        if not place.attribute:
            return self.component(module)
        found = getattr(module, place.attribute, None)
        if not (inspect.isclass(found) and issubclass(found, self.base_class)):
            raise ComponentError(
                f"{place.attribute} in {place.path} is {found!r}, expected a subclass of {self.base_class.__name__}. "
                "Mend it, or the entry point that names it."
            )
        return found

    def component(self, module: Any) -> Any:
        """The one public component that `module` defines."""
        base = self.base_class
        found = public(module, base)
        if len(found) != 1:
            names = ", ".join(c.__name__ for c in found) or "none"
            raise ComponentError(
                f"{module.__name__} holds {len(found)} public {base.__name__} classes ({names}), expected exactly "
                "one. Give helpers a leading underscore or a file of their own."
            )
        return found[0]


def public(module: Any, base: type) -> list[Any]:
    """The public subclasses of `base` that a module defines; one class under two names is one."""
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return list(dict.fromkeys(found))


def unusable(path: Path, error: Exception) -> ComponentError:
    """What is said of a file that cannot be imported."""
    trace, where = error.__traceback__, ""
    # A SyntaxError says itself where it is; its last frame is the import's.
    while trace and not isinstance(error, SyntaxError):
        if not trace.tb_frame.f_code.co_filename.startswith("<"):
            where = f" at line {trace.tb_lineno} of {trace.tb_frame.f_code.co_filename}"
        trace = trace.tb_next
    return ComponentError(f"{path} cannot be imported ({type(error).__name__}: {error}){where}. Mend it.")


def _place_of(cls: Any) -> Place:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Place(Path(file or f"<class {cls.__module__}.{cls.__qualname__}>"), cls.__module__)


def _modules(folder: Path, package: str, family: str = "") -> Iterator[Place]:
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            yield Place(path, f"{package}.{path.stem}", family)


algorithms = Registry("algorithm", "dgbench.algorithms", "dgbench.algorithm:Algorithm", without=("test_time",))
datasets = Registry("dataset", "dgbench.datasets", "dgbench.dataset:MultiDomainDataset")
adapters = Registry("adapter", "dgbench.algorithms", "dgbench.adapter:Adapter", only="test_time")
EVERY = (algorithms, datasets, adapters)
