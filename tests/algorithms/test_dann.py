import math
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dgbench.hparams import Optim, draw, facts, filled
from dgbench.registry import UnknownName
from tests.algorithms.reference import (
    Adam,
    adversarial_steps,
    assert_weights,
    differs,
    domainbed_generator,
    domainbed_movers,
    example_losses,
    make,
    mlp,
    random_batches,
    reversal,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
SMALL = {"mlp_width": 6, "mlp_depth": 2, "lr_d": 0.02, "weight_decay_d": 0.1, "beta1": 0.3}
OPTIM: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}


def risks(network, discriminator, batch, grad_penalty):
    """The risk of the task, and the discriminator's with the slope of its loss in the features by hand."""
    features, outputs = mlp(network, batch.x)
    task = example_losses(outputs, batch.y).mean()
    W, b, V, c = discriminator
    features, domain = features.flatten(0, 1), batch.domain.flatten()
    hidden = features @ W.T + b
    logits = hidden.clamp(min=0) @ V.T + c
    adversary = (torch.logsumexp(logits, 1) - logits.gather(1, domain.unsqueeze(1)).squeeze(1)).mean()
    slope = ((logits.softmax(1) - F.one_hot(domain)) @ V * (hidden > 0)) @ W
    return task, adversary + grad_penalty * (slope**2).sum(1).mean()


def steps(weights, batches, grad_penalty, lam, movers):
    return adversarial_steps(
        weights,
        -4,
        batches,
        lambda network, discriminator, batch: risks(network, discriminator, batch, grad_penalty),
        lam,
        movers,
        {"betas": (0.3, 0.9), **OPTIM},
        {"betas": (0.3, 0.9), "lr": 0.02, "weight_decay": 0.1},
    )


def grl_steps(weights, batches, num_steps, grad_penalty=0.0, weight=1.0):
    """Ganin et al. 2016: one update of all, the network against the discriminator with weight lambda_p."""
    return steps(weights, batches, grad_penalty, reversal(weight, num_steps), lambda t: "nd")


def alternating_steps(weights, batches, k, grad_penalty=0.0, weight=1.0):
    return steps(weights, batches, grad_penalty, lambda t: weight, domainbed_movers(k))


@KINDS
@pytest.mark.parametrize("grad_penalty", [0.0, 0.7])
@pytest.mark.parametrize("num_steps", [9, None])
def test_gradient_reversal(kind, grad_penalty, num_steps):
    hparams = {"grad_penalty": grad_penalty, "adversarial_weight": 1.5, **SMALL}
    dann = make("dann", hparams, kind, optim=Optim(num_steps=num_steps, **OPTIM))
    batches, start = random_batches(4, kind), weights_of(dann)
    values = dann.loss(batches[0])
    expected = risks(start[:-4], start[-4:], batches[0], grad_penalty)
    torch.testing.assert_close((values["nll"], values["domain_nll"], values["loss"]), (*expected, sum(expected)))
    train(dann, batches)
    assert dann.step == 4
    assert_weights(dann, grl_steps(start, batches, num_steps, grad_penalty, 1.5))
    assert differs(dann, grl_steps(start, batches, num_steps, grad_penalty, 0.0))


@KINDS
@pytest.mark.parametrize("grad_penalty", [0.0, 0.7])
@pytest.mark.parametrize("k", [1, 2])
def test_alternating(kind, grad_penalty, k):
    hparams = {"form": "alternating", "grad_penalty": grad_penalty, "d_steps_per_g_step": k, **SMALL}
    dann = make("dann", hparams, kind, optim=Optim(**OPTIM))
    batches, start = random_batches(5, kind), weights_of(dann)
    train(dann, batches)
    assert dann.step == 5
    assert len(dann.training_state()["optimizers"]) == 2
    assert_weights(dann, alternating_steps(start, batches, k, grad_penalty))
    assert differs(dann, alternating_steps(start, batches, k, grad_penalty, weight=0.0))


def test_alternating_without_adversary_is_erm_with_its_own_betas():
    hparams = {"form": "alternating", "adversarial_weight": 0.0, "d_steps_per_g_step": 0, **SMALL}
    dann, batches = make("dann", hparams, optim=Optim(**OPTIM)), random_batches(3)
    start = weights_of(dann)
    expected = [w.clone().requires_grad_() for w in start]
    adam = Adam(expected[:-4], betas=(0.3, 0.9), **OPTIM)
    for batch in batches:
        loss = example_losses(mlp(expected[:-4], batch.x)[1], batch.y).mean()
        adam.step(torch.autograd.grad(loss, expected[:-4]))
    assert_weights(train(dann, batches), expected)


@pytest.mark.parametrize("k", [1, 7])
def test_alternating_trains_every_parameter_within_a_cycle(k):
    dann = make("dann", {"form": "alternating", "d_steps_per_g_step": k}, optim=Optim(lr=0.01))
    start = weights_of(dann)
    train(dann, random_batches(k + 1))
    assert all(not torch.equal(a, b) for a, b in zip(start, weights_of(dann), strict=True))


def test_reversed_gradient():
    adversary = sys.modules[type(make("dann")).__module__]
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    y = adversary.reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    upstream = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(y, x, upstream)[0], -0.3 * upstream)
    assert adversary.reversal_schedule(0.0) == 0
    assert adversary.reversal_schedule(1.0) == pytest.approx(0.99991, abs=5e-6)
    assert adversary.reversal_schedule(math.inf) == 1


def test_discriminator_is_domainbeds():
    layers = make("dann", {"mlp_width": 11, "mlp_depth": 4, "mlp_dropout": 0.1}).discriminator
    shapes = [tuple(p.shape) for p in layers.parameters() if p.ndim == 2]
    assert shapes == [(11, 7), (11, 11), (11, 11), (3, 11)]


@pytest.mark.parametrize("form", ["grl", "alternating"])
def test_sgd_has_no_betas(form):
    dann = make("dann", {"form": form}, optim=Optim(optimizer="sgd"))
    assert train(dann, random_batches(2)).step == 2


def test_unknown_form_is_refused():
    with pytest.raises(UnknownName, match=r"'gradient' is not a known form \(algorithm.form\).*alternating"):
        make("dann", {"form": "gradient"})


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="DANN needs at least 2 training domains, got 1"):
        make("dann", D=1)


def test_draws_are_domainbeds():
    cls = type(make("dann"))
    drawn, optim = draw(cls.HParams, 1, 0), draw(Optim, 1, 0, overrides=cls.optim_fields)
    assert {f.key for f in facts(cls.HParams).values()} == {
        *("form", "lambda", "d_steps_per_g_step", "grad_penalty", "lr_d", "weight_decay_d", "beta1"),
        *("mlp_width", "mlp_depth", "mlp_dropout"),
    }
    assert drawn.adversarial_weight == 10 ** domainbed_generator("lambda").uniform(-2, 2)
    assert drawn.d_steps_per_g_step == int(2 ** domainbed_generator("d_steps_per_g_step").uniform(0, 3))
    assert drawn.grad_penalty == 10 ** domainbed_generator("grad_penalty").uniform(-2, 1)
    assert drawn.weight_decay_d == 10 ** domainbed_generator("weight_decay_d").uniform(-6, -2)
    assert drawn.beta1 == domainbed_generator("beta1").choice([0.0, 0.5])
    assert drawn.mlp_width == int(2 ** domainbed_generator("mlp_width").uniform(6, 10))
    assert drawn.mlp_depth == domainbed_generator("mlp_depth").choice([3, 4, 5])
    assert drawn.mlp_dropout == domainbed_generator("mlp_dropout").choice([0.0, 0.1, 0.5])
    assert drawn.lr_d == 10 ** domainbed_generator("lr_d").uniform(-5, -3.5)
    assert optim.lr == 10 ** domainbed_generator("lr_g").uniform(-5, -3.5)
    assert optim.weight_decay == 10 ** domainbed_generator("weight_decay_g").uniform(-6, -2)
    assert filled(cls.HParams(), "small").lr_d == 1e-3
    assert draw(Optim, 1, 0, regime="small", overrides=cls.optim_fields).weight_decay == 0
