"""The Python route: the same keys and the same records as the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dgbench import devices, registry
from dgbench.composition import compose, literal
from dgbench.config import resolve
from dgbench.runner import Outcome, execute
from dgbench.sweeper import Report, run_sweep

# Lists that are one value, not several.
LIST_KEYS = ("test_domains", "train_domains", "val_domains", "criteria", "plugins", "devices")


def overrides_of(keys: Mapping[str, Any], *, sweep: bool) -> Iterator[str]:
    """Python keys as overrides: nested mappings become dotted keys, and in a sweep a list means several values."""
    for key, value in keys.items():
        if isinstance(value, Mapping):
            yield from overrides_of({f"{key}.{inner}": item for inner, item in value.items()}, sweep=sweep)
            continue
        value = _named(key, value)
        is_list = isinstance(value, list | tuple | range)
        takes_list = key in LIST_KEYS and is_list and not any(isinstance(v, list | tuple) for v in value)
        if sweep and is_list and not takes_list:
            yield f"{key}={','.join(map(literal, value))}"
        else:
            yield f"{key}={literal(value)}"


def _named(key: str, value: Any) -> Any:
    """Names for classes, which become components."""
    if isinstance(value, list | tuple):
        return [_named(key, item) for item in value]
    kinds = {kind.kind: kind for kind in registry.EVERY}
    return kinds[key].add(value) if key in kinds and isinstance(value, type) else value


def train(**keys: Any) -> Outcome:
    """One run, as `dgbench train` with the same keys.

    A method or a dataset may be given as a class: then it is a component from here on, under the name that
    `registry.Registry.add` gives it.

    Args:
        keys: e.g. `algorithm="vrex", dataset="digits_rot", test_domains=["rot0"], optim={"lr": 1e-3}`.

    Returns:
        An `Outcome`; its `folder` holds the record.
    """
    run = resolve(compose(list(overrides_of(keys, sweep=False))))
    with devices.taken(run.keys.devices, run.keys.runs_per_device):
        return execute(run)


def sweep(**keys: Any) -> Report:
    """Many runs, as `dgbench train -m` with the same keys; a list means several values.

    Args:
        keys: e.g. `algorithm=["erm", "vrex"], dataset="digits_rot", test_domains="each", trial_seed=range(3)`.
    """
    return run_sweep(list(overrides_of(keys, sweep=True)))
