"""Does a component keep its contract? One finding per clause, for the shelves and for a file of one's own."""

from __future__ import annotations

import inspect
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from dgbench import adapter_contract, algorithm_contract, card_contract, dataset_contract, plugins, training_contract
from dgbench.adapter import Adapter
from dgbench.algorithm import Algorithm
from dgbench.dataset import MultiDomainDataset
from dgbench.finding import Finding, examine
from dgbench.registry import Registry, adapters, algorithms, datasets
from dgbench.workbench import Workbench

__all__ = [
    "ADAPTER_CLAUSES",
    "ALGORITHM_CLAUSES",
    "DATASET_CLAUSES",
    "Finding",
    "check_adapter",
    "check_algorithm",
    "check_dataset",
    "check_file",
]

ALGORITHM_CLAUSES = (*algorithm_contract.CLAUSES, *training_contract.CLAUSES)
DATASET_CLAUSES = (*card_contract.CLAUSES, *dataset_contract.CLAUSES)
ADAPTER_CLAUSES = tuple(adapter_contract.CLAUSES)

BASES = {algorithms: Algorithm, datasets: MultiDomainDataset, adapters: Adapter}


def check_algorithm(component: str | type[Algorithm], *, draws: int = 5) -> list[Finding]:
    """Examine a training method by every clause of `ALGORITHM_CLAUSES`.

    Args:
        component: a name of the registry, or a class.
        draws: how many random draws of hyper-parameters are trained.

    Raises:
        UnknownName: no such method.
        TypeError: the class is no Algorithm.
    """
    cls = _component(component, algorithms)
    # The weights that `needs.pretrained` asks for; a network may read them again while it is trained.
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(cls, Path(folder))
        return examine(ALGORITHM_CLAUSES, algorithm_contract.Subject(cls, bench, draws))


def check_adapter(component: str | type[Adapter], *, draws: int = 2) -> list[Finding]:
    """Examine a test-time adapter by every clause of `ADAPTER_CLAUSES`.

    Args:
        component: a name of the registry, or a class.
        draws: how many random draws of hyper-parameters adapt.

    Raises:
        UnknownName: no such adapter.
        TypeError: the class is no Adapter.
    """
    cls = _component(component, adapters)
    with tempfile.TemporaryDirectory() as folder:
        return examine(ADAPTER_CLAUSES, adapter_contract.Subject(cls, Path(folder), draws))


def check_dataset(
    component: str | type[MultiDomainDataset], data_dir: str | Path | None = None, **options: Any
) -> list[Finding]:
    """Examine a dataset by every clause of `DATASET_CLAUSES`.

    Args:
        component: a name of the registry, or a class.
        data_dir: folder under which datasets keep their files.
        options: fields of the dataset's `Options`.

    Raises:
        UnknownName: no such dataset.
        TypeError: the class is no MultiDomainDataset.
    """
    cls = _component(component, datasets)
    return examine(DATASET_CLAUSES, card_contract.Subject(cls, data_dir, options))


def _component(component: Any, registry: Any) -> Any:
    cls, base = registry[component] if isinstance(component, str) else component, BASES[registry]
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise TypeError(f"{cls!r} is no {base.__name__}, expected a subclass or a name. Inherit from it.")
    return cls


def check_file(
    path: str | Path, data_dir: str | Path | None = None, **options: Any
) -> list[tuple[str, str, list[Finding]]]:
    """Examine the one public component that a file holds, on a shelf or anywhere: kind, name, findings.

    Args:
        path: the file, or the name of a component.
        data_dir: as in `check_dataset`.
        options: as in `check_dataset`.

    Raises:
        FileNotFoundError: there is no such file.
        ComponentError: it cannot be imported, or holds no component or several.
    """
    for registry in BASES:
        if str(path) in registry:
            path = registry.place(str(path)).path
    path = Path(path).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise FileNotFoundError(f"{path} is no Python file. Name the file that holds your component, or a component.")
    name, registry, cls = _found(path)
    checks: dict[Any, Any] = {
        algorithms: check_algorithm,
        adapters: check_adapter,
        datasets: partial(check_dataset, data_dir=data_dir, **options),
    }
    return [(registry.kind, name, checks[registry](cls))]


def _found(path: Path) -> tuple[str, Registry, Any]:
    for registry in BASES:
        for name, place in registry.places().items():
            if place.path.resolve() == path:
                # Under its own name, so that it finds its siblings and is not imported twice.
                return name, registry, registry[name]
    return path.stem, *plugins.only_component(path, plugins.imported(path))
