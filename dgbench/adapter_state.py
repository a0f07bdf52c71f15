"""Everything that an adapter remembers, found by walking through its attributes."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgbench.adapter import Adapter
from dgbench.algorithm import Algorithm


def state_of(adapter: Adapter) -> dict[str, Any]:
    """Everything that an adapter remembers, cloned, by a name that tells where it is."""
    return dict(_walk({k: v for k, v in adapter.__dict__.items() if k != "_start"}, "", set()))


def _walk(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield name, value.detach().clone()
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, np.ndarray | np.generic):
        # As tensors, in which NaN is found; some dtypes have no tensors.
        array = np.array(value)
        yield name, torch.from_numpy(array) if array.dtype.kind in "bif" else repr(array.tolist())
    elif id(value) not in seen:
        seen.add(id(value))
        parts: Mapping[Any, Any] = {}
        if isinstance(value, nn.Module):
            own = {} if isinstance(value, Algorithm) else value.__dict__
            plain = {key: part for key, part in own.items() if not key.startswith("_") and key != "training"}
            parts = {**value._parameters, **value._buffers, **value._modules, **plain}
        elif isinstance(value, torch.Generator):
            parts = {"generator": value.get_state()}
        elif isinstance(value, torch.optim.Optimizer):
            parts = value.state_dict()
        elif isinstance(value, Mapping):
            parts = value
        elif isinstance(value, list | tuple | deque):
            parts = dict(enumerate(value))
        elif dataclasses.is_dataclass(value) or type(value).__module__ != "builtins":
            parts = getattr(value, "__dict__", {})
        for key, part in parts.items():
            yield from _walk(part, f"{name}.{key}".strip("."), seen)
