"""The Python route: the same keys and the same records as the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from dgbench.composition import compose
from dgbench.config import resolve
from dgbench.runner import Outcome, execute
from dgbench.sweeper import Report, run_sweep

DOMAIN_KEYS = ("test_domains", "train_domains", "val_domains")


def _overrides(keys: Mapping[str, Any], *, sweep: bool) -> Iterator[str]:
    """Python keys as overrides: nested mappings become dotted keys, and in a sweep a list means several values."""
    for key, value in keys.items():
        if isinstance(value, Mapping):
            yield from _overrides({f"{key}.{inner}": item for inner, item in value.items()}, sweep=sweep)
            continue
        is_list = isinstance(value, list | tuple | range)
        takes_list = key in DOMAIN_KEYS and is_list and not any(isinstance(v, list | tuple) for v in value)
        if sweep and is_list and not takes_list:
            yield f"{key}={','.join(map(literal, value))}"
        else:
            yield f"{key}={literal(value)}"


def literal(value: Any) -> str:
    """A Python value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(literal, value))}]"
    return QuotedString(text=str(value), quote=Quote.single).with_quotes()


def train(**keys: Any) -> Outcome:
    """One run, as `dgbench train` with the same keys.

    Args:
        keys: e.g. `algorithm="vrex", dataset="digits_rot", test_domains=["rot0"], optim={"lr": 1e-3}`.

    Returns:
        An `Outcome`; its `folder` holds the record.
    """
    return execute(resolve(compose(list(_overrides(keys, sweep=False)))))


def sweep(**keys: Any) -> Report:
    """Many runs, as `dgbench train -m` with the same keys; a list means several values.

    Args:
        keys: e.g. `algorithm=["erm", "vrex"], dataset="digits_rot", test_domains="each", trial_seed=range(3)`.
    """
    return run_sweep(list(_overrides(keys, sweep=True)))
