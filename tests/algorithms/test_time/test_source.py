import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import facts
from dgbench.registry import adapters
from tests.algorithms.test_time.small_model import (
    logits,
    same,
    statistics_of,
    stream,
    trained,
    weights_of,
    with_single_logit,
)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_answers_as_the_model_bit_for_bit(kind, norm):
    model = trained(kind=kind, norm=norm)
    adapter = build_adapter("source", model)
    for x in stream():
        assert torch.equal(adapter.step(x), model(x))
        assert torch.equal(adapter.predict(x), model(x))
    assert adapter.adapted_parameters() == []


def test_answers_by_the_statistics_of_training():
    model = trained()
    adapter = build_adapter("source", model)
    for x in stream():
        same(adapter.step(x), logits(weights_of(model), x, statistics_of(model)))


def test_an_answer_does_not_depend_on_the_rest_of_the_batch():
    adapter, x = build_adapter("source", trained()), stream(1)[0]
    same(torch.cat([adapter.step(row) for row in x.split(1)]), adapter.step(x))


def test_a_single_logit_is_answered_as_two():
    model = with_single_logit(trained())
    adapter, x = build_adapter("source", model), stream(1)[0]
    same(adapter.step(x).softmax(1)[:, 1:], model(x).sigmoid())


def test_it_has_no_hyper_parameters():
    assert facts(adapters["source"].HParams) == {}
