import math

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import Optim, draw
from dgbench.registry import adapters
from tests.algorithms.reference import Adam
from tests.algorithms.test_time.small_model import (
    changed_by,
    entropies,
    logits,
    same,
    statistics_of,
    stream,
    trained,
    weights_of,
    with_single_logit,
)


def objective(p):
    """Liang et al. 2020 as in the code: mean entropy plus sum of p log(p + 1e-5) over the mean prediction."""
    mean = p.mean(0)
    return -(p * p.log()).sum(1).mean() + (mean * (mean + 1e-5).log()).sum()


def by_hand(model, batches, num_updates, lr, weight_decay=0.0, term=objective):
    weights = weights_of(model)
    learned = [w.requires_grad_() for w in weights[:4]]
    optimizer, answers = Adam(learned, lr=lr, weight_decay=weight_decay), []
    for x in batches:
        for _ in range(num_updates):
            z = logits(weights, x, statistics_of(model))
            optimizer.step(torch.autograd.grad(term(torch.softmax(z, 1)), learned))
        answers.append(z.detach())
    return answers, [w.detach() for w in weights]


@pytest.mark.parametrize(("num_updates", "weight_decay"), [(1, 0.0), (3, 0.1)])
@pytest.mark.parametrize("N", [2, 8])
def test_answers_and_weights_after_four_batches(N, num_updates, weight_decay):
    model, batches = trained(optim=Optim(lr=0.1, weight_decay=weight_decay)), stream(N=N)
    adapter = build_adapter("shot_im", model, hparams={"lr_factor": 0.1, "num_updates": num_updates})
    answers, weights = by_hand(model, batches, num_updates, 0.01, weight_decay)
    for x, expected in zip(batches, answers, strict=True):
        same(adapter.step(x), expected)
    got = weights_of(adapter.algorithm)
    for mine, expected in zip(got, weights, strict=True):
        same(mine, expected)
    # Both terms matter.
    for term in (lambda p: -(p * p.log()).sum(1).mean(), lambda p: (p.mean(0) * (p.mean(0) + 1e-5).log()).sum()):
        _, other = by_hand(model, batches, num_updates, 0.01, weight_decay, term)
        assert max((a - b).abs().max() for a, b in zip(got, other, strict=True)) > 1e-3


def test_the_objective_of_two_predictions():
    from dgbench.algorithms.test_time.shot_im import negative_information

    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    assert round(float(negative_information(p.log())), 4) == -0.2754
    assert abs(float(negative_information(p[:1].log()))) < 3e-5
    certain = negative_information(torch.eye(3).mul(50))
    assert float(certain) == pytest.approx(-math.log(3), abs=1e-4)


def test_the_classifier_stays():
    adapter = build_adapter("shot_im", trained())
    names = [name for name, _ in adapter.algorithm.named_parameters()][:4]
    assert adapter.adapted_parameters() == names
    assert changed_by(adapter, stream()) == names


def test_one_example_teaches_nothing():
    """Its objective is constant but for the 1e-5, whose gradient Adam would scale up; weight decay rests too."""
    model, batches = trained(optim=Optim(lr=0.01, weight_decay=0.1)), stream()
    adapter = build_adapter("shot_im", model)
    adapter.step(batches[0])
    before = weights_of(adapter.algorithm)
    for x in batches:
        adapter.step(x[:1])
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(adapter.algorithm), strict=True))
    same(adapter.step(batches[1][:1]), logits(before, batches[1][:1], statistics_of(model)))


def test_a_single_logit_has_two_classes():
    model, x = with_single_logit(trained()), stream(1)[0]
    adapter = build_adapter("shot_im", model)
    weights = weights_of(model)
    learned = [w.requires_grad_() for w in weights[:4]]
    p = torch.sigmoid(logits(weights, x, statistics_of(model)))
    Adam(learned, lr=0.01).step(torch.autograd.grad(objective(torch.cat([1 - p, p], 1)), learned))
    adapter.step(x)
    for got, expected in zip(weights_of(adapter.algorithm), weights, strict=True):
        same(got, expected.detach())


def test_at_learning_rate_0_it_is_the_source_bit_for_bit():
    model = trained(optim=Optim(lr=0.01, weight_decay=0.1))
    adapter = build_adapter("shot_im", model, hparams={"lr_factor": 0.0, "num_updates": 3})
    source = build_adapter("source", model)
    for x in stream():
        assert torch.equal(adapter.step(x), source.step(x))


def test_the_first_answer_is_the_sources_and_the_next_is_not():
    model, x = trained(), stream(1)[0]
    adapter = build_adapter("shot_im", model)
    assert torch.equal(adapter.step(x), model(x))
    assert (adapter.step(x) - model(x)).abs().max() > 1e-3


def test_a_batch_again_and_again_becomes_certain_and_diverse():
    adapter, x = build_adapter("shot_im", trained()), stream(1, N=12)[0]
    first = adapter.step(x)
    for _ in range(150):
        last = adapter.step(x)
    assert entropies(last).mean() < 0.2 < entropies(first).mean()
    assert len(last.argmax(1).unique()) >= 3


def test_needs_features_and_classes():
    with pytest.raises(ValueError, match="SHOTIM needs predictions that are made from features, which those of MTL"):
        build_adapter("shot_im", trained("mtl"))
    with pytest.raises(ValueError, match="SHOTIM works for classification, but the task is regression"):
        build_adapter("shot_im", trained(kind="regression"))
    with pytest.raises(ValueError, match=r"The featurizer of ERM on network=mlp has no weights, .* with stages"):
        build_adapter("shot_im", trained(depth=0, norm="none"))


def test_defaults_and_draws():
    HParams = adapters["shot_im"].HParams
    assert (HParams().lr_factor, HParams().num_updates) == (1.0, 1)
    drawn = [draw(HParams, seed) for seed in range(1, 30)]
    assert {d.lr_factor for d in drawn} == {0.1, 1.0, 10.0}
    assert {d.num_updates for d in drawn} == {1, 3}
