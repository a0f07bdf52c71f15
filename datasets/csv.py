"""Any table of numbers as a dataset."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from torch import Tensor

from dgbench.dataset import DOMAIN_NAME, Card, FileOptions, MissingData, MultiDomainDataset, TensorDomain, option
from dgbench.registry import UnknownName
from dgbench.task import Task

from .image_folder import domain_name

TASKS = ("classification", "regression")
# Integers with more different values than this are quantities, unless dataset.task says otherwise.
MOST_CLASSES = 10


@dataclass(kw_only=True)
class CsvOptions(FileOptions):
    """Options of the reader's table."""

    root: str | None = option(None, "path of the file")
    target: str | None = option(None, "column to predict")
    domain: str | None = option(None, "column whose values are the domains")
    features: Sequence[str] | None = option(None, "columns to predict from; null: all others")
    task: str = option("auto", "classification or regression; auto: by the values of the target")
    target_scale: str = option("auto", "inner scale of regression targets: standard, minmax, none; auto: standard")

    def __post_init__(self) -> None:
        if self.task not in ("auto", *TASKS):
            raise UnknownName("task (dataset.task)", self.task, ("auto", *TASKS))


class CsvTable(MultiDomainDataset):
    """The reader's own table: `dataset=csv dataset.root=~/table.csv dataset.target=price dataset.domain=city`.

    The file has commas between columns and their names in the first line. Inputs are the columns
    `dataset.features`, (F,), by default all but target and domain; they are numbers, or true and false.

    `dataset.task=auto` is a classification for texts, for true and false, and for integers of at most 10
    different values; a regression for decimals and for other integers.

    Domains:
        The values of the column `dataset.domain`, numbers in numeric order, texts sorted; `New York` is called
        `new_york`, and 1990 in a column `year` is called `year_1990`.
    Classes:
        The values of the column `dataset.target`, sorted in the same way; a domain may lack some. None in a
        regression.
    Examples per domain:
        Rows of the file, in its order.
    Licence:
        The reader's.
    Source:
        `dataset.root`.
    Splits:
        None official.
    Known defects:
        None known; missing values, text among the inputs and clashing names are refused at the start.
    Reference:
        None.
    """

    Options: ClassVar[type[CsvOptions]] = CsvOptions
    options: CsvOptions
    card = Card(
        summary="Rows of the reader's table; what is the value in the column dataset.target?",
        domains=(),
        sizes=(),
        classes=(),
        regime="small",
        network="mlp",
        num_steps=500,
        evaluate_every=100,
        licence="the reader's",
        source="dataset.root",
        checksums={},
        citation="none",
    )

    def load(self) -> Iterator[TensorDomain]:
        """The domains; options that were left open hold afterwards what was chosen."""
        table = Table(self._path())
        target = table.choose("target", self.options.target)
        domain = table.choose("domain", self.options.domain)
        features = table.choose_features(self.options.features, target, domain)
        for column in (target, domain):
            table.refuse_gaps(column, "Fill it in, or delete the row.")
        for column in features:
            table.refuse_gaps(column, "Fill it in, delete the row, or leave the column out: dataset.features=[...].")
        task = self.options.task
        if task == "auto":
            task = table.task_of(target)
        scale = self.options.target_scale
        if scale == "auto":
            scale = "standard" if task == "regression" else "none"
        self.options = dataclasses.replace(self.options, features=features, task=task, target_scale=scale)
        self._classes = table.categories(target, "classes") if task == "classification" else ()
        x, y = table.inputs(features), table.targets(target, task)
        membership = table.index(domain)
        for i, name in enumerate(table.domain_names(domain)):
            yield TensorDomain(name, x[membership == i], y[membership == i])

    def make_task(self) -> Task:
        """A classification over the values of the target, or a regression of one value."""
        return Task("classification", len(self._classes)) if self._classes else Task("regression", 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Values of the target in index order."""
        return self._classes

    def sources(self) -> tuple[Path, ...]:
        """The table."""
        return (self._path(),)

    def _path(self) -> Path:
        if self.options.root is None:
            raise MissingData("csv reads a table of yours, but none is given. Set dataset.root to a file.")
        path = Path(self.options.root).expanduser()
        if not path.is_file():
            raise MissingData(f"csv looked for a table in {path}, which is not a file. Set dataset.root to one.")
        return path


class Table:
    """A table of the reader's, and what can be wrong with it.

    Messages count rows from 1, below the line of names.

    Args:
        path: of the file.

    Raises:
        UnknownName: a column that is not in the file.
        ValueError: anything else that is wrong.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.frame = pl.read_csv(path, infer_schema_length=None)
        except pl.exceptions.PolarsError as error:
            said = str(error).splitlines()[0]
            raise ValueError(
                f"{path} cannot be read as a table ({said}), expected UTF-8 text with a line of column names, then "
                "lines with one value for each of them, separated by commas. Export it so."
            ) from error
        if self.frame.is_empty():
            raise ValueError(f"{path} has no rows below its line of names, expected some. Add them.")
        # Row numbers without a name, or a second copy of the target, would be inputs that nobody meant.
        for column in self.frame.columns:
            if not column.strip():
                raise ValueError(f"{path} has a column without a name, expected a name for each. Add it in line 1.")
            name = re.sub(r"_duplicated_\d+$", "", column)
            if name != column and name in self.frame.columns:
                raise ValueError(f"{path} has several columns named {name!r}, expected one. Rename the others.")

    def choose(self, role: str, column: str | None) -> str:
        """The column for a role: `target` or `domain`."""
        if column is None:
            raise ValueError(
                f"csv needs a column for dataset.{role}, got none, "
                f"expected one of {', '.join(self.frame.columns)}. Set dataset.{role}."
            )
        self._find(column, f"dataset.{role}")
        return column

    def choose_features(self, columns: Sequence[str] | None, target: str, domain: str) -> tuple[str, ...]:
        """The columns of the inputs."""
        if target == domain:
            raise ValueError(
                f"dataset.target and dataset.domain both name {target!r} of {self.path}, "
                "expected two columns. Change one."
            )
        rest = [column for column in self.frame.columns if column not in (target, domain)]
        chosen = rest if columns is None else list(columns)
        for column in chosen:
            self._find(column, "dataset.features")
        if not chosen or target in chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"The inputs from {self.path} are [{', '.join(chosen)}], expected at least one column, each once, "
                f"and not the target {target}. Name them with dataset.features=[...]."
            )
        return tuple(chosen)

    def _find(self, column: str, key: str) -> None:
        if column not in self.frame.columns:
            raise UnknownName(f"column of {self.path} ({key})", column, self.frame.columns)

    def refuse_gaps(self, column: str, remedy: str) -> None:
        """Refuse a column in which a value is missing or is no finite number."""
        values = self.frame[column]
        is_gap = ~values.cast(pl.Float32).is_finite().fill_null(False) if values.dtype.is_float() else values.is_null()
        if is_gap.any():
            row = int(is_gap.arg_max() or 0)
            held = "no value" if values[row] is None else f"the value {values[row]}"
            raise ValueError(
                f"The column {column!r} of {self.path} has {held} in row {row + 1}, expected a value in every row, "
                f"and numbers finite in single precision. {remedy}"
            )

    def refuse_text(self, column: str, remedy: str) -> None:
        """Refuse a column that is not numbers."""
        if self.frame[column].dtype == pl.String:
            row = int(self._is_text(column).arg_max() or 0)
            raise ValueError(
                f"The column {column!r} of {self.path} holds the text {self.frame[column][row]!r} in row {row + 1}, "
                f"expected numbers. {remedy}"
            )

    def _is_text(self, column: str) -> pl.Series:
        return self.frame[column].cast(pl.Float64, strict=False).is_null()

    def task_of(self, target: str) -> str:
        """The task that the values of the target suggest."""
        values = self.frame[target]
        if values.dtype == pl.String and not self._is_text(target).all():
            self.refuse_text(target, "Mend it, or set dataset.task=classification if these are names of classes.")
        is_quantity = values.dtype.is_float() or (values.dtype.is_integer() and values.n_unique() > MOST_CLASSES)
        return "regression" if is_quantity else "classification"

    def inputs(self, features: Sequence[str]) -> Tensor:
        """The columns as numbers, (N, F)."""
        for column in features:
            self.refuse_text(column, "Encode it as numbers, or leave it out with dataset.features=[...].")
        return self.frame.select(pl.col(features).cast(pl.Float32)).to_torch()

    def targets(self, column: str, task: str) -> Tensor:
        """The column as class indices, (N,), or as numbers, (N, 1)."""
        if task == "classification":
            return self.index(column)
        self.refuse_text(column, "Mend it, or set dataset.task=classification.")
        return self.frame.select(pl.col(column).cast(pl.Float32)).to_torch()

    def index(self, column: str) -> Tensor:
        """The place of each row's value among the values of a column in order, (N,)."""
        place = {value: i for i, value in enumerate(self.frame[column].unique().sort())}
        return torch.tensor([place[value] for value in self.frame[column]])

    def categories(self, column: str, role: str) -> tuple[str, ...]:
        """The values of a column as texts, in order; at least two."""
        values = self.frame[column].unique().sort().cast(pl.String)
        if len(values) < 2:
            raise ValueError(
                f"The column {column!r} of {self.path} has the value {values[0]!r} in every row, "
                f"expected at least two {role}. Choose another column."
            )
        return tuple(values)

    def domain_names(self, column: str) -> tuple[str, ...]:
        """Names of the domains, in the order of their values."""
        made: dict[str, str] = {}
        for value in self.categories(column, "domains"):
            name = domain_name(value)
            if name and not DOMAIN_NAME.fullmatch(name):
                number = value.replace("-", "minus_", 1) if value.startswith("-") else value
                name = domain_name(f"{column}_{number}")
            if not DOMAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"The value {value!r} in the column {column!r} of {self.path} makes no domain name, "
                    "expected one with letters from a to z. Rename it in the file."
                )
            if name in made:
                raise ValueError(
                    f"The values {made[name]!r} and {value!r} in the column {column!r} of {self.path} both make the "
                    f"domain {name!r}, expected different names. Rename one in the file."
                )
            made[name] = value
        return tuple(made)
