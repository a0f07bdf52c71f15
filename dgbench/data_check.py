"""Are the data here what the dataset's card says? What `dgbench data check` looks at."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgbench import composition
from dgbench.card_contract import COMMON, Subject
from dgbench.dataset import Domain, FileOptions, ImageOptions, MultiDomainDataset
from dgbench.keys import typed
from dgbench.registry import datasets

DIGESTS = {32: "md5", 64: "sha256"}
"""Which sum a card means, by its number of hexadecimal digits."""

# Whether an image can be read does not depend on the size it is then given.
IMAGE_SIZE = 8

Track = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True)
class Row:
    """What one domain holds."""

    domain: str
    num_examples: int
    targets: dict[str, float]
    """Examples by class, or `mean`, `std`, `min` and `max` of regressed values, `y0 mean` if there are several."""

    @property
    def text(self) -> str:
        """The targets in one line."""
        return ", ".join(f"{k} {v if isinstance(v, int) else format(v, '.4g')}" for k, v in self.targets.items())


@dataclass(frozen=True)
class Report:
    """What a dataset holds, and where that is not what its card says."""

    rows: list[Row]
    problems: list[str]
    """One sentence per mismatch: got, expected, remedy."""
    notes: list[str]
    """What was not compared, and why."""
    fingerprint: str


def find_subject(name: str, data_dir: str | Path, overrides: Sequence[str] = ()) -> Subject:
    """The dataset to check, not yet read.

    Args:
        name: of the registry.
        data_dir: folder under which datasets keep their files.
        overrides: options as `dgbench train` takes them, e.g. `dataset.root=~/photos`.

    Raises:
        UnknownName: no such dataset, or no such option.
        ValueError: an override of something else, or a value of another type.
    """
    cls = datasets[name]
    for override in overrides:
        if not override.startswith("dataset."):
            raise ValueError(f"Got {override!r}, expected an option of the data: dataset.KEY=VALUE. Leave it out.")
    node = composition.compose([f"dataset={name}", *overrides])["dataset"]
    given = {key: value for key, value in node.items() if key != "name" and value is not None}
    options = dataclasses.asdict(typed(cls.Options, given, "dataset."))
    if issubclass(cls.Options, ImageOptions) and "image_size" not in given:
        options["image_size"] = IMAGE_SIZE
    return Subject(cls, data_dir, options)


def check_data(subject: Subject, *, quick: bool = False, track: Track = lambda indices, _: indices) -> Report:
    """Read a dataset and compare it with its card.

    Args:
        subject: the dataset, from `find_subject`.
        quick: do not decode the examples that are read when asked for.
        track: shows the progress over the indices of a domain, under its name.

    Raises:
        MissingData: the files are not there.
        ValueError: the dataset refuses the files.
    """
    dataset = subject.dataset
    problems = [*_against_card(subject), *_classes(dataset), *_sums(dataset)]
    for domain in dataset.domains:
        problems += _values(domain) if domain.resident else [] if quick else _unreadable(domain, track)
    rows = [Row(domain.name, len(domain), _targets(domain, dataset)) for domain in dataset.domains]
    return Report(rows, problems, list(_notes(subject, quick)), dataset.fingerprint())


def _targets(domain: Domain, dataset: MultiDomainDataset) -> dict[str, float]:
    if dataset.task.is_classification:
        counts = torch.bincount(domain.targets, minlength=len(dataset.class_names)).tolist()
        return dict(zip(dataset.class_names, counts, strict=True))
    columns = domain.targets.double().T  # (C, N)
    said: dict[str, float] = {}
    for index, y in enumerate(columns):
        prefix = f"y{index} " if len(columns) > 1 else ""
        statistics = {"mean": y.mean(), "std": y.std(correction=0), "min": y.min(), "max": y.max()}
        said |= {prefix + name: float(value) for name, value in statistics.items()}
    return said


def _against_card(subject: Subject) -> Iterator[str]:
    """Where names of domains and classes and the sizes differ, unless options of its own explain it."""
    dataset, card = subject.dataset, subject.cls.card
    if subject.has_own_options:
        return
    for what, found, expected in (
        ("domains", dataset.domain_names, card.domains),
        ("classes", dataset.class_names, card.classes),
    ):
        if expected and found != expected:
            yield f"The {what} are {', '.join(found)}, expected {', '.join(expected)}. {_remedy(dataset)}"
    sizes = {domain.name: len(domain) for domain in dataset.domains}
    for name, expected_size in zip(card.domains, card.sizes, strict=False):
        if name in sizes and sizes[name] != expected_size:
            yield f"{name} has {sizes[name]} examples, expected {expected_size}. {_remedy(dataset)}"


def _classes(dataset: MultiDomainDataset) -> Iterator[str]:
    """Domains that lack a class, unless a defect on the card names them."""
    if not dataset.task.is_classification:
        return
    for domain in dataset.domains:
        missing = [name for name, count in _targets(domain, dataset).items() if not count]
        if missing and not any(domain.name in defect for defect in dataset.card.defects):
            yield f"{domain.name} has no example of {', '.join(missing)}, expected every class. {_remedy(dataset)}"


def _sums(dataset: MultiDomainDataset) -> Iterator[str]:
    """Source files that are not those the card pins."""
    pinned = dict(dataset.card.checksums)
    for path in dataset.sources() if pinned else ():
        # A packed file is pinned by what is in it.
        expected = pinned.pop(path.name, None) or pinned.pop(path.name.removesuffix(".gz"), None)
        if expected is None:
            continue
        if len(expected) not in DIGESTS:
            yield (
                f"The card's sum of {path.name} has {len(expected)} digits, expected 32 (MD5) or 64 (SHA-256). "
                "Mend the card."
            )
            continue
        kind = DIGESTS[len(expected)]
        got = hashlib.new(kind, dataset.read_source(path)).hexdigest()
        if got != expected.lower():
            yield f"{path} has the {kind} sum {got}, expected {expected}. {_remedy(dataset)}"
    for name in pinned:
        yield f"{name} is on the card but not among the files that were read, expected it there. Mend the card."


def _values(domain: Domain) -> Iterator[str]:
    """Numbers that are none, where all examples are in memory."""
    assert domain.resident is not None
    for what, values in zip(("inputs", "targets"), domain.resident, strict=True):
        if count := _num_not_finite(values):
            yield f"{domain.name} has {count} {what} that are infinite or no numbers, expected none. Mend the data."


def _num_not_finite(values: Tensor) -> int:
    return int((~values.isfinite()).sum()) if values.is_floating_point() else 0


def _unreadable(domain: Domain, track: Track) -> Iterator[str]:
    """What reading said of the examples that cannot be read, each by itself."""
    for index in track(range(len(domain)), domain.name):
        try:
            domain.__getitems__([index])
        except (ValueError, OSError) as error:
            yield str(error)


def _notes(subject: Subject, quick: bool) -> Iterator[str]:
    dataset = subject.dataset
    default = subject.cls.Options()
    if subject.has_own_options:
        changed = [
            f"dataset.{name}={value}"
            for name, value in dataclasses.asdict(dataset.options).items()
            if name not in COMMON and value != getattr(default, name)
        ]
        yield f"Domains, classes and sizes were not compared: the card does not describe {', '.join(changed)}."
    if isinstance(dataset.options, FileOptions) and not dataset.card.checksums:
        yield "The card pins no checksums: the content of the files was not compared."
    if quick and not all(domain.resident for domain in dataset.domains):
        yield "The examples were not decoded: leave --quick out to find files that cannot be read."


def _remedy(dataset: MultiDomainDataset) -> str:
    """What to do where data are not those of the card."""
    options: Any = dataset.options
    if not isinstance(options, FileOptions):
        return "Mend load or the card, or install the release that the card was written for."
    return f"Get the files anew, from {dataset.card.source}"
