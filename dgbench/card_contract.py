"""The contract of a dataset, clause by clause: its card, its data sheet, its options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dgbench.dataset import (
    DOMAIN_NAME,
    Card,
    DatasetOptions,
    GeneratedOptions,
    ImageOptions,
    MultiDomainDataset,
)
from dgbench.finding import Clause, Violation, clause
from dgbench.hparams import REGIMES
from dgbench.network import NETWORKS
from dgbench.protocol import SPLITS

CLAUSES: list[Clause] = []
HEADINGS = ("Domains", "Classes", r"\w+ per domain", "Licence", "Source", "Splits", "Known defects", "Reference")
COMMON = {field.name for kind in (GeneratedOptions, ImageOptions) for field in dataclasses.fields(kind)}


@dataclass
class Subject:
    """A dataset, and how to construct it."""

    cls: type[MultiDomainDataset]
    data_dir: str | Path | None
    options: Mapping[str, Any]

    def construct(self, **options: Any) -> MultiDomainDataset:
        """Afresh, with changes to the options."""
        return self.cls(self.data_dir, **{**self.options, **options})

    @cached_property
    def dataset(self) -> MultiDomainDataset:
        """The one that most clauses look at."""
        return self.construct()

    @cached_property
    def again(self) -> MultiDomainDataset:
        """A second one, to compare."""
        return self.construct()

    @property
    def has_own_options(self) -> bool:
        """Whether an option that only this dataset has may leave out domains or examples."""
        default, given = self.cls.Options(), self.dataset.options
        return any(
            getattr(given, field.name) != getattr(default, field.name)
            for field in dataclasses.fields(given)
            if field.name not in COMMON
        )


@clause(CLAUSES)
def card(subject: Subject) -> None:
    """Every field of the card is filled with what it is for."""
    found = getattr(subject.cls, "card", None)
    if not isinstance(found, Card):
        raise Violation(f"{subject.cls.__name__}.card is {found!r}, expected a Card. Write one.")

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and bool(value.strip())

    def is_positive(value: Any) -> bool:
        return type(value) is int and value > 0

    def are(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, tuple) and all(map(test, value))

    def is_part(value: Any) -> bool:
        return isinstance(value, tuple) and set(value) <= set(found.domains)

    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "domains": (are(lambda v: is_text(v) and bool(DOMAIN_NAME.fullmatch(v))), "a tuple of names like art_painting"),
        "sizes": (are(is_positive), "a tuple of positive integers"),
        "classes": (are(is_text), "a tuple of names"),
        "regime": (lambda v: v in REGIMES, f"one of {', '.join(REGIMES)}"),
        "network": (
            lambda v: is_text(v) and (v in NETWORKS or v.startswith("timm:")),
            f"one of {', '.join(NETWORKS)} or timm:<name>",
        ),
        "weights": (lambda v: v is None or is_text(v), "a tag of timm's or None"),
        "num_steps": (is_positive, "a positive integer"),
        "evaluate_every": (is_positive, "a positive integer"),
        "splits": (lambda v: v in SPLITS, f"one of {', '.join(SPLITS)}"),
        "train_domains": (lambda v: is_part(v), "a tuple of some of its domains"),
        "test_domains": (lambda v: is_part(v), "a tuple of some of its domains"),
        "val_domains": (lambda v: is_part(v), "a tuple of some of its domains"),
        "checksums": (
            lambda v: isinstance(v, Mapping) and all(map(is_text, [*v, *v.values()])),
            "a mapping of file names to sums",
        ),
        "defects": (are(is_text), "a tuple of sentences"),
        "version": (is_positive, "a positive integer"),
    }
    for field in dataclasses.fields(Card):
        test, said = expected.get(field.name, (is_text, "a text that is not empty"))
        value = getattr(found, field.name)
        if not test(value):
            raise Violation(f"card.{field.name} is {value!r}, expected {said}. Fill it in.")
    if found.sizes and len(found.domains) != len(found.sizes):
        raise Violation(
            f"The card has {len(found.domains)} domains but {len(found.sizes)} sizes, expected one size each. Count."
        )


@clause(CLAUSES)
def data_sheet(subject: Subject) -> None:
    """The docstring is a data sheet under fixed headings."""
    text = subject.cls.__dict__.get("__doc__") or ""
    for heading in HEADINGS:
        if not re.search(rf"^\s*{heading}:", text, re.MULTILINE):
            shown = heading.replace(r"\w+", "Images")
            raise Violation(f"The docstring has no heading {shown!r}, expected one. Write `None` where that is true.")


@clause(CLAUSES)
def options(subject: Subject) -> None:
    """`Options` is a dataclass that inherits from DatasetOptions; every field has a default and a meaning."""
    found = subject.cls.Options
    if not (isinstance(found, type) and issubclass(found, DatasetOptions)):
        raise Violation(f"Options is {found!r}, expected a subclass of DatasetOptions. Inherit from it.")
    if "__annotations__" in vars(found) and "__dataclass_fields__" not in vars(found):
        raise Violation(f"{found.__name__} is no dataclass, expected one. Decorate it: @dataclass(kw_only=True).")
    for field in dataclasses.fields(found):
        if not field.metadata.get("doc", "").strip():
            raise Violation(
                f'{found.__name__}.{field.name} has no meaning, expected option(default, "meaning"). Write it so.'
            )
