import importlib
import math

import pytest
import torch

from dgbench.hparams import draw
from dgbench.network import build_network
from dgbench.registry import algorithms
from tests.algorithms.reference import (
    Adam,
    domainbed_generator,
    example_losses,
    make,
    random_batches,
    train,
)

core = importlib.import_module("dgbench.algorithms.alignment.miro")
# The frozen network is meant to be.
pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode")
KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


@pytest.fixture
def pretrained(tmp_path):
    """Builds a method from the same weights in a file."""

    def build(name, /, hparams=None, kind="classification", D=3, shape=(5,), optim=None, **network):
        network = {"name": "mlp", "width": 7, **network}
        torch.manual_seed(1)
        torch.save(build_network(**network, input_shape=shape, num_outputs=4).state_dict(), tmp_path / "net.pt")
        return make(name, hparams, kind, D, optim, shape, weights=tmp_path / "net.pt", **network)

    return build


def objective(weights, frozen, raw, batch, penalty_weight):
    """Cha et al. 2022, as their code has it: per stage, the mean of half (f - f0)^2 / v + log v."""
    loss, x, x0 = 0.0, batch.x.flatten(0, 1), batch.x.flatten(0, 1)
    for i, r in enumerate(raw):
        x = (x @ weights[2 * i].T + weights[2 * i + 1]).clamp(min=0)
        x0 = (x0 @ frozen[2 * i].T + frozen[2 * i + 1]).clamp(min=0)
        variance = torch.log1p(r.exp()) + 1e-5
        loss = loss + penalty_weight * 0.5 * ((x - x0) ** 2 / variance + variance.log()).mean()
    outputs = (x @ weights[-2].T + weights[-1]).unflatten(0, batch.x.shape[:2])
    return loss + example_losses(outputs, batch.y).mean()


def steps(start, raw, batches, penalty_weight, multiplier):
    """Adam, whose learning rate for what makes the variances is a multiple of the network's."""
    weights, raw = ([w.detach().clone().requires_grad_() for w in values] for values in (start, raw))
    adams = Adam(weights, lr=0.01), Adam(raw, lr=0.01 * multiplier)
    for batch in batches:
        grads = torch.autograd.grad(objective(weights, start, raw, batch, penalty_weight), [*weights, *raw])
        adams[0].step(grads[: len(weights)])
        adams[1].step(grads[len(weights) :])
    return [*weights, *raw]


def close(miro, expected, tolerance=1e-9):
    return all((p - w).abs().max() < tolerance for p, w in zip(miro.trainable(), expected, strict=True))


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_four_steps(pretrained, kind, D):
    miro = pretrained("miro", {"penalty_weight": 2.0, "lr_multiplier": 7.0}, kind, D, depth=2)
    batches = random_batches(4, kind, D)
    start, raw = ([p.detach().clone() for p in part.parameters()] for part in (miro.network, miro.raw_variances))
    torch.testing.assert_close(miro.loss(batches[0])["loss"], objective(start, start, raw, batches[0], 2.0))
    train(miro, batches)
    assert close(miro, steps(start, raw, batches, 2.0, 7.0))
    assert not close(miro, steps(start, raw, batches, 0.0, 7.0), 1e-4)
    assert not close(miro, steps(start, raw, batches, 2.0, 1.0), 1e-4)
    torch.testing.assert_close(list(miro.frozen.parameters()), start)


NETS = [{"depth": 3}, {"norm": "batch", "freeze_bn": True}, {"name": "small_resnet", "width": 8, "freeze_bn": True}]


@pytest.mark.parametrize("net", NETS)
def test_at_the_pretrained_weights_the_term_is_a_constant_of_no_slope(pretrained, net):
    shape = (3, 8, 8) if "name" in net else (5,)
    miro, (batch,) = pretrained("miro", shape=shape, **net), random_batches(1, shape=shape)
    distance = miro.loss(batch)["distance"]
    expected = torch.tensor(len(miro.network.stages) / 2 * math.log(0.1), dtype=torch.float64)
    torch.testing.assert_close(distance, expected, rtol=1e-6, atol=0)
    grads = torch.autograd.grad(distance, list(miro.network.parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


@pytest.mark.parametrize("net", [{}, {"name": "small_resnet", "width": 8, "dropout": 0.5}])
def test_without_the_term_it_is_erm_bit_for_bit(pretrained, net):
    shape, pair = (3, 8, 8) if net else (5,), []
    for name, hparams in (("miro", {"penalty_weight": 0.0}), ("erm", {})):
        method = pretrained(name, hparams, shape=shape, **net).float()
        method.seed = 3
        train(method, [b._replace(x=b.x.float()) for b in random_batches(3, shape=shape)])
        pair.append(method.network.state_dict())
    for name, value in pair[1].items():
        assert torch.equal(pair[0][name], value), name


def test_the_frozen_network_stays_as_it_was(pretrained):
    miro = pretrained("miro", norm="batch", dropout=0.5)
    before = {name: value.clone() for name, value in miro.frozen.state_dict().items()}
    train(miro, random_batches(3)).train()
    assert miro.network.training
    assert not any(module.training for module in miro.frozen.modules())
    assert all(torch.equal(miro.frozen.state_dict()[name], value) for name, value in before.items())
    assert not any(p.requires_grad for p in miro.frozen.parameters())
    assert miro.network.body.state_dict()["layer1.1.running_mean"].any()


def test_variances_are_those_of_channels_and_start_at_a_tenth(pretrained):
    miro = pretrained("miro", name="small_cnn", shape=(3, 8, 8), depth=2)
    assert [tuple(v.shape) for v in miro.variances()] == [(7, 1, 1), (14, 1, 1)]
    assert all(((v - 0.1).abs() < 1e-7).all() for v in miro.variances())
    tokens = torch.zeros(2, 5, 8)
    assert core.initial_raw_variance(tokens).shape == (8,)


def test_prediction_is_the_networks(pretrained):
    miro, batches = pretrained("miro", depth=2), random_batches(3)
    train(miro, batches).eval()
    assert torch.equal(miro(batches[0].x[0]), miro.network(batches[0].x[0]))
    assert not torch.equal(miro(batches[0].x[0]), miro.frozen(batches[0].x[0]))


def test_what_it_needs(pretrained):
    with pytest.raises(ValueError, match="MIRO needs pretrained weights, got random ones"):
        make("miro")
    with pytest.raises(ValueError, match=r"MIRO compares features after each stage, but network=mlp .* has none. Use"):
        pretrained("miro", depth=0)


def test_draws():
    drawn = draw(algorithms["miro"].HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("miro_ld").uniform(-3, 0)
    assert drawn.lr_multiplier == 10.0
