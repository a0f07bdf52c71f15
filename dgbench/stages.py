"""The file of an experiment: its stages, and where it lies.

Reading one imports neither torch nor polars, so that lists are quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal, Self

import pydantic
from omegaconf import OmegaConf
from rich.text import Text
from yaml import YAMLError

import dgbench
from dgbench.registry import UnknownName


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class TableOptions(_Strict):
    """Options of `dgbench.table`."""

    criterion: str = "train_validation"
    metric: str | None = None
    format: str = "text"
    protocol: str | None = None
    of: Literal["train", "adapt"] = "train"
    """Whether of the trained runs, or of the adaptations so far."""


class CompareOptions(_Strict):
    """Options of `leaderboard.compare.compare`."""

    baseline: str
    criterion: str = "train_validation"
    metric: str | None = None


class Stage(_Strict):
    """One thing to do: a sweep, adaptations, a table or a comparison of all runs so far."""

    train: list[str] | None = None
    """Overrides as `dgbench train -m` takes them."""
    adapt: list[str] | None = None
    """Overrides as `dgbench adapt -m` takes them; `runs` are those of the stages before."""
    per_algorithm: dict[str, list[str]] = {}
    """Overrides added for one method: one sweep per method."""
    table: TableOptions | None = None
    compare: CompareOptions | None = None

    @property
    def kind(self) -> str:
        """What it does."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @pydantic.model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        said = [name for name in KINDS if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError(
                f"a stage says {' and '.join(said) or 'none'} of {', '.join(KINDS)}, expected one. Make a stage of each"
            )
        if self.per_algorithm and self.train is None:
            raise ValueError("per_algorithm belongs to a stage that trains. Write it beside train")
        return self


KINDS = ("train", "adapt", "table", "compare")


class Experiment(_Strict):
    """The content of a file."""

    summary: str
    stages: list[Stage]


_OPTIONS: dict[str, type[pydantic.BaseModel]] = {"table": TableOptions, "compare": CompareOptions}


def _folder() -> Path:
    (configs,) = import_module("dgbench.configs").__path__
    return Path(configs) / "experiment"


def names() -> list[str]:
    """The experiments that come with dgbench."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def find(name: str) -> Path:
    """The file of an experiment.

    Args:
        name: one of `names()`, or a path that ends in .yaml.

    Raises:
        UnknownName: there is none of that name.
        FileNotFoundError: there is no such file.
    """
    if name.endswith(".yaml"):
        if not (path := Path(name).expanduser()).is_file():
            raise FileNotFoundError(f"{name} is no file. Name an experiment's file, or one of: {', '.join(names())}.")
        return path
    if name not in names():
        raise UnknownName("experiment", name, names())
    return _folder() / f"{name}.yaml"


def load(path: Path) -> Experiment:
    """An experiment's file, its keys checked; names and overrides are checked by `plan`.

    Raises:
        ValueError: it is no experiment.
    """
    try:
        return Experiment.model_validate(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except pydantic.ValidationError as error:
        raise ValueError(f"{path.name}: {_sentence(error)}") from error
    except (YAMLError, OSError) as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from error


def summary(path: Path) -> str:
    """The first key of a file, for lists; a file that is no experiment says so."""
    try:
        return load(path).summary
    except ValueError as error:
        return f"no experiment: {error}"


def _sentence(error: pydantic.ValidationError) -> str:
    # A key that is unknown may be why another is missing.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = first["loc"]
    where = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        parent = place[-2] if len(place) > 1 else None
        model = Experiment if parent is None else _OPTIONS.get(str(parent), Stage)
        known = list(model.model_fields)
        return f"{where}: {UnknownName('key', str(place[-1]), known)}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}." if where else f"{said}."


def sheet(name: str) -> Iterator[Text]:
    """What `dgbench show experiment` prints: the file, whose comments say why it is as it is."""
    path = find(name)
    load(path)
    root = Path(dgbench.__file__).resolve().parent.parent
    shown = path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path
    yield Text.assemble((path.stem, "bold"), "  experiment")
    yield Text(str(shown), style="dim")
    yield Text()
    yield Text(path.read_text("utf-8").rstrip())
