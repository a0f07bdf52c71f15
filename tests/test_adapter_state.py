"""What the checker sees of the state of an adapter."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dgbench import check
from dgbench.adapter import build_adapter
from dgbench.adapter_state import state_of
from dgbench.registry import algorithms
from dgbench.workbench import Workbench, different
from tests.broken_adapters import Healthy


class Keeping(Healthy):
    """Keeps something of what it is merely asked."""

    def prepare(self, source):
        super().prepare(source)
        self.kept = deque([torch.zeros(3)], maxlen=9)
        self.sums = {"sums": np.zeros(3)}

    def answer(self, x):
        logits = self.logits(x)
        self.keep(logits.sum(0))
        return logits

    def keep(self, total):
        """What the subclasses do otherwise."""


class Queueing(Keeping):
    """In a queue."""

    def keep(self, total):
        self.kept.append(total)


class Summing(Keeping):
    """In an array."""

    def keep(self, total):
        self.sums["sums"] += total.numpy()


@pytest.mark.parametrize(("cls", "where"), [(Queueing, "kept.1"), (Summing, "sums.sums")])
def test_a_trace_in_a_queue_or_an_array_is_found(cls, where):
    failed = {f.clause: f.message for f in check.check_adapter(cls, draws=0) if f.passed is False}
    assert failed.keys() == {"predicts_without_trace"}
    assert f"predict of {cls.__name__} changes {where} " in failed["predicts_without_trace"]


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (np.arange(3), np.arange(1, 4)),
        (np.array(["a"]), np.array(["b"])),
        (np.array([{"a": 1}]), np.array([{"a": 2}])),
        (np.float32(0.5), np.float32(0.25)),
        (np.array([1 + 2j]), np.array([1 + 3j])),
        (deque([1, 2]), deque([1, 3])),
        (deque([np.zeros(2)]), deque([np.ones(2)])),
        (SimpleNamespace(a=[1]), SimpleNamespace(a=[2])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_differ_are_different_states(value, other, tmp_path):
    adapter = build_adapter(Healthy, Workbench(algorithms["erm"], tmp_path).build())
    states = []
    for held in (value, value, other):
        adapter.held = held
        states.append(state_of(adapter))
    assert not different(states[0], states[1])
    assert all(name.startswith("held") for name in different(states[0], states[2]))
    assert different(states[0], states[2])


def test_a_state_is_a_copy_in_which_nan_is_found(tmp_path):
    adapter: Any = build_adapter(Healthy, Workbench(algorithms["erm"], tmp_path).build())
    adapter.held = np.zeros(2)
    before = state_of(adapter)
    adapter.held[0] = np.nan
    assert before["held"].tolist() == [0, 0]
    assert state_of(adapter)["held"].isnan().tolist() == [True, False]
