"""The contract of a dataset, clause by clause: its domains and their examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgbench.card_contract import Subject
from dgbench.dataset import (
    Domain,
    GeneratedOptions,
    MissingData,
    MultiDomainDataset,
    as_float,
)
from dgbench.finding import (
    Clause,
    NotApplicable,
    Violation,
    clause,
    generators,
    moved_generators,
    seed_generators,
)
from dgbench.task import Task

CLAUSES: list[Clause] = []
SAMPLES = 16


@clause(CLAUSES, after=["card", "options"])
def loads(subject: Subject) -> None:
    """It can be constructed, and its task is the card's."""
    try:
        dataset = subject.dataset
    except MissingData as missing:
        raise NotApplicable(f"Not evaluated: {missing}", blocks=True) from missing
    task = dataset.make_task()
    if not isinstance(task, Task) or task is dataset.task:
        raise Violation("make_task() does not make a Task, expected a new one each time. Return Task(...).")
    if task.is_classification and task.num_classes != len(dataset.class_names):
        raise Violation(
            f"The task has {task.num_classes} classes, expected {len(dataset.class_names)}: "
            f"{', '.join(dataset.class_names)}. Name every class on the card."
        )


@clause(CLAUSES, after=["loads"])
def domains(subject: Subject) -> None:
    """There are at least two domains (one, if it both trains and tests), named and sized as on the card, each once."""
    dataset, card = subject.dataset, subject.cls.card
    names, sizes = dataset.domain_names, tuple(map(len, dataset.domains))
    least = 1 if set(card.train_domains) & set(card.test_domains) else 2
    if len(names) < least or len(set(names)) < len(names):
        raise Violation(f"The domains are {', '.join(names)}, expected at least two different ones. Rename or add.")
    if not card.domains:
        return
    expected = card.domains
    if subject.has_own_options:
        # An option may leave domains out, or add some; the others keep their order.
        known = tuple(name for name in card.domains if name in names)
        expected = names if tuple(name for name in names if name in known) == known else known
    if names != expected:
        raise Violation(f"The domains are {', '.join(names)}, expected {', '.join(expected)}. Mend load or the card.")
    if card.sizes and not subject.has_own_options and sizes != card.sizes:
        raise Violation(f"The domains have {sizes} examples, expected {card.sizes}. Mend load or the card.")


def _sample(domain: Domain) -> Tensor:
    """Indices spread over the whole domain."""
    return torch.linspace(0, len(domain) - 1, min(SAMPLES, len(domain))).long()


@clause(CLAUSES, after=["loads"])
def items(subject: Subject) -> None:
    """Inputs are finite floats of one shape, images in [0, 1]; targets are class indices or floats (N, C)."""
    dataset = subject.dataset
    for domain in dataset.domains:
        index = _sample(domain)
        for how, (x, y) in {"evaluation": domain.__getitems__(index), "training": _training_items(domain)}.items():
            where = f"{domain.name} (as in {how})"
            shape = (len(index), *dataset.input_shape)
            if x.dtype != torch.float32 or tuple(x.shape) != shape or not x.isfinite().all():
                raise Violation(
                    f"Inputs of {where} are {x.dtype} {tuple(x.shape)}, expected finite float32 {shape}. Convert them."
                )
            if len(shape) == 4 and (x.min() < 0 or x.max() > 1):
                raise Violation(
                    f"Images of {where} reach from {x.min():.3g} to {x.max():.3g}, expected [0, 1]. "
                    "Leave normalisation to the network."
                )
            _check_targets(y, len(index), dataset.task, where)
        _check_targets(domain.targets, len(domain), dataset.task, domain.name)


def _training_items(domain: Domain) -> Any:
    seed_generators(0)
    return domain.training_items(_sample(domain))


def _check_targets(y: Tensor, num: int, task: Task, where: str) -> None:
    C = task.num_classes
    if task.is_classification:
        is_right = y.dtype == torch.int64 and y.shape == (num,) and bool(y.min() >= 0 and y.max() < C)
        expected = f"int64 ({num},) from 0 to {C - 1}"
    else:
        is_right = y.is_floating_point() and y.shape == (num, C) and bool(y.isfinite().all())
        expected = f"finite floats ({num}, {C})"
    if not is_right:
        raise Violation(
            f"Targets of {where} are {y.dtype} {tuple(y.shape)} from {y.min()} to {y.max()}, expected {expected}. "
            "Mend what load hands to the domain."
        )


@clause(CLAUSES, after=["items"])
def targets(subject: Subject) -> None:
    """`domain.targets` are the targets of its items, for evaluation and for training."""
    for domain in subject.dataset.domains:
        index = _sample(domain)
        for name, (_, y) in {
            "__getitems__": domain.__getitems__(index),
            "training_items": _training_items(domain),
        }.items():
            if not torch.equal(domain.targets[index], y):
                raise Violation(
                    f"{name} of {domain.name} has other targets than domain.targets, expected the same. "
                    "Index both alike."
                )


@clause(CLAUSES, after=["items"])
def order(subject: Subject) -> None:
    """An example is the same in any order, repeated, alone, and by a list or a tensor of indices."""
    for domain in subject.dataset.domains:
        index = _sample(domain)
        x, _ = domain.__getitems__(index)
        places = torch.cat([torch.arange(len(index)).flip(0), torch.tensor([0, 0, len(index) - 1])])
        asked: dict[str, tuple[Any, Tensor]] = {
            "in another order": (index[places], x[places]),
            "by a list": (index[places].tolist(), x[places]),
            "alone": (index[-1:], x[-1:]),
        }
        for how, (wanted, expected) in asked.items():
            if not torch.equal(domain.__getitems__(wanted).x, expected):
                raise Violation(
                    f"Examples of {domain.name} asked for {how} are others, expected the same. "
                    "__getitems__ is a function of the index alone; randomness belongs to load or training_items."
                )


@clause(CLAUSES, after=["items"])
def resident(subject: Subject) -> None:
    """If a domain says that it is in memory, what is there is what its items are."""
    if all(domain.resident is None for domain in subject.dataset.domains):
        raise NotApplicable("Its examples are not in memory.")
    for domain in subject.dataset.domains:
        if domain.resident is None:
            continue
        index = _sample(domain)
        x, y = domain.resident
        same = torch.equal(as_float(x[index]), domain.__getitems__(index).x)
        if not same or not torch.equal(y, domain.targets):
            raise Violation(
                f"resident of {domain.name} holds other examples than __getitems__ returns, expected the same. "
                "Transform them in load, or leave resident None."
            )


@clause(CLAUSES, after=["items"])
def augmentation(subject: Subject) -> None:
    """Training examples are a function of torch's global generator: after the same seed, the same."""
    for domain in subject.dataset.domains:
        first = _training_items(domain).x
        seed_generators(1)
        torch.manual_seed(0)
        if not torch.equal(first, domain.training_items(_sample(domain)).x):
            raise Violation(
                f"Training examples of {domain.name} differ after the same torch.manual_seed, expected the same. "
                "Augment with torch's global generator alone."
            )


@clause(CLAUSES, after=["items", "domains"])
def classes(subject: Subject) -> None:
    """Every class is present in every domain, or a defect on the card names the domain that lacks one."""
    dataset = subject.dataset
    if not dataset.task.is_classification:
        raise NotApplicable("It is no classification.")
    if not dataset.card.domains:
        raise NotApplicable("The reader's files decide.")
    for domain in dataset.domains:
        counts = torch.bincount(domain.targets, minlength=dataset.task.num_classes)
        missing = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
        if missing and not any(domain.name in defect for defect in dataset.card.defects):
            raise Violation(
                f"{domain.name} has no example of {', '.join(missing)}, expected every class, or a defect that names "
                "the domain. Mend load, or say so in card.defects."
            )


@clause(CLAUSES, after=["items"])
def deterministic(subject: Subject) -> None:
    """Two constructions are equal wherever the global generators are, and leave them alone."""
    seed_generators(1)
    before = generators()
    again = subject.again
    moved = moved_generators(before)
    if moved:
        raise Violation(
            f"Construction draws from or seeds the generator of {' and '.join(moved)}, expected none. "
            "Make a generator from options.data_seed."
        )
    for name in _different(subject.dataset, again):
        raise Violation(
            f"{name} differs between two constructions with one data_seed, expected equality. "
            "Draw from a generator made from options.data_seed alone."
        )


def _different(a: MultiDomainDataset, b: MultiDomainDataset) -> list[str]:
    """Names of the domains in which examples differ, as far as samples tell."""
    if a.domain_names != b.domain_names:
        return ["The list of domains"]
    return [
        p.name
        for p, q in zip(a.domains, b.domains, strict=True)
        if len(p) != len(q)
        or not torch.equal(p.targets, q.targets)
        or not torch.equal(p.__getitems__(_sample(p)).x, q.__getitems__(_sample(q)).x)
    ]


@clause(CLAUSES, after=["deterministic"])
def data_seed(subject: Subject) -> None:
    """`data_seed` changes examples, but neither the domains nor the sizes that the card states."""
    dataset = subject.dataset
    if not isinstance(dataset.options, GeneratedOptions):
        raise NotApplicable("It draws nothing at random: it has no data_seed.")
    other = subject.construct(data_seed=dataset.options.data_seed + 1)
    if dataset.domain_names != other.domain_names:
        raise Violation(
            f"Another data_seed gives the domains {', '.join(other.domain_names)}, "
            f"expected {', '.join(dataset.domain_names)}. Let it change examples only."
        )
    sizes = [list(map(len, made.domains)) for made in (dataset, other)]
    if dataset.card.sizes and sizes[0] != sizes[1]:
        raise Violation(
            f"Another data_seed gives the sizes {sizes[1]}, expected {sizes[0]}. "
            "Draw a fixed number, or leave card.sizes empty."
        )
    if not _different(dataset, other):
        raise Violation(
            "Another data_seed gives the same examples, expected others. "
            "Draw from it, or inherit Options from DatasetOptions, which has none."
        )


@clause(CLAUSES, after=["deterministic"])
def fingerprint(subject: Subject) -> None:
    """The fingerprint is a text, and the same in every construction."""
    first, second = subject.dataset.fingerprint(), subject.again.fingerprint()
    if not isinstance(first, str) or not first or first != second:
        raise Violation(
            f"The fingerprints are {first!r} and {second!r}, expected twice the same text. "
            "Hash content alone: no times, no paths, no hash() of texts."
        )


@clause(CLAUSES, after=["loads"])
def splits(subject: Subject) -> None:
    """Official splits name domains and hold their indices, each in one split at most."""
    dataset = subject.dataset
    if dataset.splits is None:
        raise NotApplicable("It declares no official splits.")
    sizes = {domain.name: len(domain) for domain in dataset.domains}
    seen: dict[str, Tensor] = {name: torch.zeros(size, dtype=torch.int64) for name, size in sizes.items()}
    for split, parts in dataset.splits.items():
        for name, indices in parts.items():
            if name not in sizes:
                raise Violation(f"splits[{split!r}] names {name!r}, expected one of {', '.join(sizes)}. Rename it.")
            if len(indices) and (indices.min() < 0 or indices.max() >= sizes[name]):
                raise Violation(
                    f"splits[{split!r}][{name!r}] reaches from {indices.min()} to {indices.max()}, "
                    f"expected 0 to {sizes[name] - 1}. Count from 0, within the domain."
                )
            seen[name] += torch.bincount(indices, minlength=sizes[name])
    for name, counts in seen.items():
        if (counts > 1).any():
            raise Violation(
                f"Example {int(counts.argmax())} of {name} is in several splits or twice in one, expected once. "
                "Make the splits disjoint."
            )
