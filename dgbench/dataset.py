"""The contract of a dataset: domains of examples, and a card that says what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dgbench.hparams import seed_hash
from dgbench.task import Task

DOMAIN_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Card:
    """The data sheet of a dataset. Every field is demanded; write `none known` where that is the truth."""

    summary: str
    """What the domains are and what is predicted, in one sentence."""
    domains: tuple[str, ...]
    """Names, in the order that gives them their index; empty if the reader's files decide."""
    sizes: tuple[int, ...]
    """Examples per domain, in the same order; empty if the reader's files or `data_seed` decide."""
    classes: tuple[str, ...]
    """Names of the classes in index order; empty for regression or if the reader's files decide."""
    regime: str
    """Which default learning rate, batch size and search ranges fit: small, large or domain_net."""
    network: str
    """What `network=auto` means here."""
    weights: str | None = None
    """Pretrained weights that `network=auto` starts from, a timm tag; None: random."""
    num_steps: int
    """Training steps of the standard protocol."""
    evaluate_every: int
    """Steps between evaluations in the standard protocol."""
    splits: str = "random"
    """The standard protocol's: random, or official where the data declare theirs."""
    train_domains: tuple[str, ...] = ()
    """Domains that the data designate to train on; empty: leave out one after the other."""
    test_domains: tuple[str, ...] = ()
    """Domains that the data designate to test on, all in one run: what `test_domains=each` then stands for."""
    val_domains: tuple[str, ...] = ()
    """Domains that the data designate to validate on, where official splits make whole domains of them."""
    licence: str
    source: str
    """Where the data come from and how to get them."""
    checksums: Mapping[str, str]
    """MD5 or SHA-256 of the source files by name; empty if there are none to pin."""
    citation: str
    defects: tuple[str, ...] = ()
    """What is known to be wrong with the data."""
    version: int = 1
    """Raised when the examples change."""


def option(default: Any, doc: str) -> Any:
    """A field of a dataset's options with its meaning."""
    return field(default=default, metadata={"doc": doc})


@dataclass(kw_only=True)
class DatasetOptions:
    """Options every dataset has; a dataset with more inherits from this class."""

    target_scale: str = option("none", "inner scale of regression targets: standard, minmax or none")


@dataclass(kw_only=True)
class GeneratedOptions(DatasetOptions):
    """Options of a dataset that draws something at random."""

    data_seed: int = option(0, "seed of everything random in the data")


@dataclass(kw_only=True)
class FileOptions(DatasetOptions):
    """Options of a dataset that reads files."""

    root: str | None = option(None, "folder of the files, if they are not where data_dir puts them")


@dataclass(kw_only=True)
class ImageOptions(FileOptions):
    """Options of a dataset of image files."""

    image_size: int = option(224, "side in pixels to which images are resized")


class Items(NamedTuple):
    """Examples of one domain."""

    x: Tensor
    """(N, *input_shape) float, images in [0, 1]."""
    y: Tensor
    """(N,) int64 or (N, C) float."""


class Domain:
    """One domain: its name, its targets, and its examples by index.

    Subclasses give `__getitems__`. What a training batch sees may be augmented (`training_items`).
    """

    def __init__(self, name: str, targets: Tensor, metadata: Tensor | None = None):
        self.name, self.targets, self.metadata = name, targets, metadata

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as they are evaluated."""
        raise TypeError(f"{type(self).__name__} does not say how to get examples: define __getitems__(indices).")

    def training_items(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as a training batch sees them, augmented by torch's global generator."""
        return self.__getitems__(indices)

    @property
    def resident(self) -> tuple[Tensor, Tensor] | None:
        """All inputs (float, or uint8 for images times 255) and targets, if they are in memory and never augmented."""
        return None


class TensorDomain(Domain):
    """A domain whose examples are in memory.

    Args:
        name: matches `[a-z][a-z0-9_]*`.
        inputs: (N, *input_shape), float, or uint8 for images times 255.
        targets: (N,) int64 or (N, C) float.
        metadata: optional description of the domain, (M,).
    """

    def __init__(self, name: str, inputs: Tensor, targets: Tensor, metadata: Tensor | None = None):
        super().__init__(name, targets, metadata)
        self.inputs = inputs

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as they are evaluated."""
        indices = torch.as_tensor(indices, device=self.inputs.device)
        return Items(as_float(self.inputs[indices]), self.targets[indices])

    @property
    def resident(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        return self.inputs, self.targets


class Augmented(Domain):
    """A domain whose examples are augmented also where they are evaluated.

    Args:
        domain: whose examples these are.
    """

    def __init__(self, domain: Domain):
        super().__init__(domain.name, domain.targets, domain.metadata)
        self.domain = domain

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Items:
        """Examples as a training batch sees them; the same ones are always augmented the same way."""
        # Whichever process reads them: with how many is no part of a run's identity.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_hash("augmented", self.name, torch.as_tensor(indices).tolist()))
            return self.domain.training_items(indices)

    @property
    def resident(self) -> tuple[Tensor, Tensor] | None:
        """What is in memory is never augmented."""
        return self.domain.resident


def as_float(inputs: Tensor) -> Tensor:
    """Inputs as the network takes them: uint8 images become float in [0, 1]."""
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs


class MultiDomainDataset:
    """Several domains that share a task.

    A subclass gives `card` and `load`; one with options of its own also `Options`. Whatever is random in `load` draws
    from `options.data_seed` alone, and `Options` inherits from `GeneratedOptions`.

    Args:
        data_dir: folder under which datasets keep their files.
        options: fields of `Options`.
    """

    card: ClassVar[Card]
    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    splits: Mapping[str, Mapping[str, Tensor]] | None = None
    """Official splits, {split: {domain: indices}}, set by `load`: `in` of the domains that may train, `val` if
    there is one, `test` of the domains that may be tested on; disjoint within a domain. None if there are none."""

    def __init__(self, data_dir: str | Path | None = None, **options: Any):
        self.data_dir = Path(data_dir if data_dir is not None else "data").expanduser()
        self.options = self.Options(**options)
        self.domains: tuple[Domain, ...] = tuple(self.load())
        self.domain_names = tuple(domain.name for domain in self.domains)
        for name in self.domain_names:
            if not DOMAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"{type(self).__name__} has a domain called {name!r}, expected a lower-case letter followed by "
                    "letters, digits and underscores. Rename it."
                )
        self.task = self.make_task()

    @property
    def designated(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Domains that the data designate to train and to test on, both empty if they leave that open."""
        return self.card.train_domains, self.card.test_domains

    def load(self) -> Iterable[Domain]:
        """The domains, in the card's order."""
        raise TypeError(f"{type(self).__name__} does not say what its domains are: define load().")

    def make_task(self) -> Task:
        """The task; by default a classification over the card's classes."""
        return Task("classification", len(self.class_names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in index order."""
        return self.card.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's input."""
        return tuple(self.domains[0].__getitems__([0]).x.shape[1:])

    def sources(self) -> Iterable[Path]:
        """Files whose content decides the data; hashed into the fingerprint."""
        return ()

    def read_source(self, path: Path) -> bytes:
        """Content of a source file as the fingerprint and the card's checksums take it."""
        return path.read_bytes()

    def fingerprint(self) -> str:
        """Identifies the data: names, sizes and targets of the domains and the content of the source files.

        Inputs that are computed from the sources are left out: their last bits depend on the processor.
        """
        digest = hashlib.sha256()
        for domain in self.domains:
            digest.update(f"{domain.name} {tuple(domain.targets.shape)}".encode())
            digest.update(domain.targets.cpu().contiguous().numpy().tobytes())
        for path in self.sources():
            digest.update(self.read_source(path))
        return digest.hexdigest()[:16]

    def describe_options(self) -> dict[str, Any]:
        """Options that decide the data, without paths: part of a run's identity."""
        return {name: value for name, value in dataclasses.asdict(self.options).items() if name != "root"}


class MissingData(FileNotFoundError):
    """Files of a dataset are not there; the text says where they were looked for and what to do."""
