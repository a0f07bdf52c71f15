import pytest
import torch

from dgbench.adapter import build_adapter
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


def affine_of(adapter):
    return [p.detach().clone() for p in adapter.algorithm.parameters() if p.requires_grad]


def by_hand(model, batches, num_updates, lr=0.01):
    """Answers, and scale and shift of the batch norm after Adam on the mean entropy, statistics of the batch."""
    weights = weights_of(model)
    affine = [w.requires_grad_() for w in weights[2:4]]
    optimizer, answers = Adam(affine, lr=lr), []
    for x in batches:
        for _ in range(num_updates):
            z = logits(weights, x, statistics_of(model), 0.0)
            optimizer.step(torch.autograd.grad(entropies(z).mean(), affine))
        answers.append(z.detach())
    return answers, [w.detach() for w in affine]


@pytest.mark.parametrize("num_updates", [1, 3])
@pytest.mark.parametrize("N", [2, 8])
def test_answers_and_weights_after_four_batches(num_updates, N):
    """Wang et al. 2021: entropy over scales and shifts; the answer is that of the last pass, before its update."""
    model, batches = trained(), stream(N=N)
    adapter = build_adapter("tent", model, hparams={"lr": 0.01, "num_updates": num_updates})
    answers, affine = by_hand(model, batches, num_updates)
    for x, expected in zip(batches, answers, strict=True):
        same(adapter.step(x), expected)
    for got, expected, start in zip(affine_of(adapter), affine, weights_of(model)[2:4], strict=True):
        same(got, expected)
        assert (expected - start).abs().max() > 1e-3


def test_a_single_logit_has_the_entropy_of_two_classes():
    model, batches = with_single_logit(trained()), stream(3)
    adapter = build_adapter("tent", model, hparams={"lr": 0.01})
    weights = weights_of(model)
    affine = [w.requires_grad_() for w in weights[2:4]]
    optimizer = Adam(affine, lr=0.01)
    for x in batches:
        adapter.step(x)
        p = torch.sigmoid(logits(weights, x, statistics_of(model), 0.0))
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
        optimizer.step(torch.autograd.grad(entropy, affine))
    for got, expected in zip(affine_of(adapter), affine, strict=True):
        same(got, expected.detach())


def test_at_learning_rate_0_it_is_bn_adapt_bit_for_bit():
    model = trained()
    tent, bn_adapt = build_adapter("tent", model, hparams={"lr": 0.0}), build_adapter("bn_adapt", model)
    for x in stream():
        assert torch.equal(tent.step(x), bn_adapt.step(x))


@pytest.mark.parametrize("lr", [1e-3, 1.0])
def test_the_first_answer_does_not_depend_on_the_learning_rate(lr):
    model, x = trained(), stream(1)[0]
    tent = build_adapter("tent", model, hparams={"lr": lr})
    assert torch.equal(tent.step(x), build_adapter("bn_adapt", model).step(x))
    assert not torch.equal(tent.predict(x), build_adapter("bn_adapt", model).step(x))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_only_scales_and_shifts_change(norm):
    model = trained(norm=norm)
    adapter = build_adapter("tent", model)
    names = ["network.body.layer1.1.weight", "network.body.layer1.1.bias"]
    assert adapter.adapted_parameters() == names
    assert changed_by(adapter, stream()) == names


@pytest.mark.parametrize("norm", ["group", "instance_aware"])
def test_maps_of_other_norms_keep_their_answer_before_the_update(norm):
    model = trained(name="small_cnn", width=4, depth=1, shape=(3, 8, 8), norm=norm)
    adapter = build_adapter("tent", model)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(adapter.step(x), model(x))
    assert not torch.equal(adapter.predict(x), model(x))


def test_a_small_step_lowers_the_entropy_of_its_batch():
    adapter = build_adapter("tent", trained(), hparams={"lr": 1e-4})
    for x in stream():
        before = entropies(adapter.step(x)).mean()
        assert entropies(adapter.predict(x)).mean() < before


def test_one_batch_again_and_again_becomes_certain():
    adapter, x = build_adapter("tent", trained(), hparams={"lr": 0.1}), stream(1)[0]
    first = entropies(adapter.step(x)).mean()
    for _ in range(300):
        last = entropies(adapter.step(x)).mean()
    assert first > 0.3
    assert last < 0.05


def test_answers_follow_a_permutation_of_the_batch():
    model, order = trained(), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    straight, permuted = (build_adapter("tent", model, hparams={"lr": 0.01}) for _ in range(2))
    for x in stream():
        torch.testing.assert_close(permuted.step(x[order]), straight.step(x)[order])


def test_dropout_is_off():
    model, x = trained(dropout=0.5), stream(1)[0]
    same(build_adapter("tent", model).step(x), logits(weights_of(model), x, statistics_of(model), 0.0))


def test_reset_is_idempotent():
    adapter, batches = build_adapter("tent", trained(), hparams={"lr": 0.01}), stream()
    first = [adapter.step(x) for x in batches]
    adapter.reset()
    adapter.reset()
    assert all(torch.equal(adapter.step(x), y) for x, y in zip(batches, first, strict=True))


def test_constant_inputs_leave_everything_finite():
    adapter = build_adapter("tent", trained())
    for _ in range(3):
        assert adapter.step(torch.full((6, 5), 0.5).double()).isfinite().all()
    assert all(p.isfinite().all() for p in affine_of(adapter))


def test_needs_a_normalisation_and_classes():
    with pytest.raises(ValueError, match=r"Tent needs a network with batch or group or layer or instance_aware norm"):
        build_adapter("tent", trained(norm="none"))
    with pytest.raises(ValueError, match="Tent works for classification, but the task is regression"):
        build_adapter("tent", trained(kind="regression"))


def test_weights_that_no_prediction_reads_are_not_adapted():
    """ERM++ predicts with an average of the network that it trains."""
    adapter = build_adapter("tent", trained("erm_plus_plus"))
    names = adapter.adapted_parameters()
    before = {name: value.clone() for name, value in adapter.algorithm.state_dict().items()}
    for x in stream():
        adapter.step(x)
    assert names == ["average.body.layer1.1.weight", "average.body.layer1.1.bias"]
    changed = [name for name, value in adapter.algorithm.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == names
