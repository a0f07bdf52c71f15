"""Finite pixels that no image has, whose squares overflow: they poison no memory and no running statistics."""

import importlib

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.adapter_state import state_of
from dgbench.workbench import different
from tests.algorithms.test_time.memory_reference import parameters, statistics, stream, trained

HP = {"lr": 0.02, "momentum": 0.2, "memory_size": 4, "update_every": 4}
NORMS = {"note": "instance_aware", "rotta": "batch"}


@pytest.fixture(autouse=True)
def _without_augmentation(monkeypatch):
    monkeypatch.setattr(importlib.import_module("dgbench.algorithms.test_time.rotta"), "augment", lambda x, strength: x)


def poisoned(x, pixel):
    x = x.clone()
    x[1, 0, 2, 2] = pixel
    return x


def models_of(adapter):
    return [adapter.algorithm, adapter.student] if hasattr(adapter, "student") else [adapter.algorithm]


def state(adapter):
    return [value for model in models_of(adapter) for value in (*parameters(model), *statistics(model))]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("pixel", [1e155, -1e300])
def test_an_update_on_it_leaves_no_trace_and_the_next_is_made(name, pixel):
    model, (first, second, third, last) = trained(NORMS[name]), stream([4] * 4)
    adapter = build_adapter(name, model, hparams=HP)
    adapter.step(first)
    before, answer = state(adapter), adapter.predict(third)
    assert not torch.equal(before[1], parameters(model)[1]) or name == "rotta"  # the teacher follows slowly
    adapter.step(poisoned(second, pixel))
    assert all(torch.equal(a, b) for a, b in zip(before, state(adapter), strict=True))
    assert len(adapter.memory) == 0
    torch.testing.assert_close(adapter.step(third), answer)
    assert all(
        not torch.equal(parameters(part)[1], w) for part, w in zip(models_of(adapter), before[1::7], strict=True)
    )
    assert adapter.step(last).isfinite().all()


@pytest.mark.parametrize("name", NORMS)
def test_an_image_whose_answer_overflows_never_enters_the_memory(name):
    model, (first, second) = trained(NORMS[name]), stream([2, 3])
    with torch.no_grad():
        model.network.body.get_submodule("conv1.0").weight.mul_(1e10)
        assert not model(poisoned(first, 1e300)).isfinite().all()
    adapter = build_adapter(name, model, hparams=HP)
    adapter.step(poisoned(first, 1e300))
    assert (len(adapter.memory), adapter.num_seen) == (1, 2)
    assert torch.equal(adapter.memory.images[0], first[0])
    alone = build_adapter(name, model, hparams=HP)
    for _ in range(4):
        before = state_of(alone)
        alone.step(poisoned(first, 1e300)[1:])
    changed = different(state_of(alone), before)
    assert sorted(changed) == ["num_seen", "steps"]  # the fourth would have made an update, of nothing
    assert adapter.step(second).isfinite().all()
