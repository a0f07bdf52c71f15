"""The contract of the adapters, and of their checker."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from dgbench import adapter, check
from dgbench.adapter import Needs, build_adapter
from dgbench.algorithm import build_algorithm
from dgbench.network import build_network
from dgbench.registry import UnknownName, adapters, algorithms
from dgbench.task import Task
from dgbench.workbench import Workbench, inputs
from tests import broken_adapters
from tests.broken_adapters import Healthy

NAMES = [clause.name for clause in check.ADAPTER_CLAUSES]


def failed(findings):
    return {finding.clause: finding.message for finding in findings if finding.passed is False}


@pytest.fixture
def model(tmp_path):
    return Workbench(algorithms["erm"], tmp_path).trained("classification")


@pytest.mark.parametrize("name", adapters.names())
def test_every_adapter_keeps_the_contract(name):
    findings = check.check_adapter(name)
    assert not failed(findings)
    assert [finding.clause for finding in findings] == NAMES


@pytest.mark.parametrize(
    ("clause", "cls", "text"), broken_adapters.BROKEN, ids=[cls.__name__ for _, cls, _ in broken_adapters.BROKEN]
)
def test_a_defect_fails_its_clause(clause, cls, text):
    messages = failed(check.check_adapter(cls, draws=1))
    assert clause in messages
    assert re.search(text, messages[clause]), messages[clause]
    assert "expected" in messages[clause]


def test_a_healthy_adapter_fails_nothing():
    findings = check.check_adapter(broken_adapters.Healthy)
    assert not failed(findings)
    assert {finding.clause for finding in findings if finding.passed is None} == set()


def test_a_demanding_adapter_is_given_what_it_needs():
    assert not failed(check.check_adapter(broken_adapters.Demanding))


def test_adapting_the_model_itself_instead_of_a_copy_is_found(monkeypatch):
    monkeypatch.setattr(adapter, "_copied", lambda algorithm: algorithm.eval().requires_grad_(False))
    messages = failed(check.check_adapter(Healthy, draws=1))
    assert "changes network.head.bias of the model it was handed, expected" in messages["leaves_the_model"]


def test_images_with_nan_are_answered_evenly_and_teach_nothing(model):
    adapting: Any = build_adapter(Healthy, model)
    clean: Any = build_adapter(Healthy, model)
    x = inputs(6)
    broken = torch.cat([x[:2], torch.full_like(x[:1], torch.nan), x[2:]])
    answers = adapting.step(broken)
    assert answers[2].tolist() == [0, 0, 0]
    assert torch.equal(answers[[0, 1, 3, 4, 5, 6]], clean.step(x))
    assert adapting.seen == clean.seen == 6
    assert torch.equal(adapting.bias, clean.bias)


def test_a_loss_that_is_not_finite_moves_nothing(model):
    adapting: Any = build_adapter(Healthy, model)
    before = adapting.bias.detach().clone()
    adapting.descend(adapting.bias.sum() * torch.nan, adapting.optimizer)
    adapting.descend(torch.tensor(1.0), adapting.optimizer)
    assert torch.equal(adapting.bias, before)


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        (Needs(tasks=("regression",)), "Healthy works for regression, but the task is classification"),
        (Needs(source=True), "Healthy reads the source data before the stream; hand it source="),
        (Needs(method="drm"), "Healthy adapts models trained by drm, got one trained by ERM"),
        (Needs(norms=("group",)), "needs a network with group normalisation, but small_cnn has batch; train with"),
        (Needs(composite=True), "needs predictions that are made from features, which those of ERM are not"),
    ],
)
def test_an_unmet_need_is_a_sentence(needs, text, model, monkeypatch):
    monkeypatch.setattr(Healthy, "needs", needs)
    monkeypatch.setattr(type(model), "composite", False)
    with pytest.raises(ValueError, match=re.escape(text)):
        build_adapter(Healthy, model)


def test_inputs_that_are_no_images_are_refused(monkeypatch):
    flat = build_algorithm("erm", task=Task("classification", 3), network=build_network("mlp", (5,), 3), num_domains=2)
    monkeypatch.setattr(Healthy, "needs", Needs(images=True))
    with pytest.raises(ValueError, match=r"needs images \(C, H, W\), got inputs of \(5,\)"):
        build_adapter(Healthy, flat)


def test_names_that_do_not_exist_are_refused(model):
    with pytest.raises(UnknownName, match=r"'tnet' is not a known adapter\. Did you mean 'tent'"):
        build_adapter("tnet", model)
    with pytest.raises(UnknownName, match="'rate' is not a known hyper-parameter of Healthy"):
        build_adapter(Healthy, model, hparams={"rate": 1})
    with pytest.raises(TypeError, match="is no Adapter"):
        check.check_adapter(Workbench)  # type: ignore[arg-type]


def test_an_adapter_without_adapt_says_so(model):
    class Silent(broken_adapters.Adapter):
        """Nothing."""

        HParams = broken_adapters.HParams

    with pytest.raises(TypeError, match=r"Silent does not say what to do with a batch: define adapt\(x\)"):
        build_adapter(Silent, model).step(inputs(2))
