import sys
from typing import Any

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim, draw
from dgbench.network import build_network
from dgbench.registry import UnknownName
from dgbench.task import Task
from tests.algorithms.reference import (
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

SMALL = {"mlp_width": 6, "mlp_depth": 2, "lr_d": 0.02, "weight_decay_d": 0.1, "beta1": 0.3}
OPTIM: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}


def risks(network, adversary, batch, grad_penalty, C=4, balanced=True, conditional=True):
    """The risk of the task, and the discriminator's: a sum in which each of C classes weighs 1 / C."""
    features, outputs = mlp(network, batch.x)
    W, b, V, c, E = adversary
    y, domain = batch.y.flatten(), batch.domain.flatten()
    hidden = (features.flatten(0, 1) + (E[y] if conditional else 0 * E[y])) @ W.T + b
    logits = hidden.clamp(min=0) @ V.T + c
    losses = torch.logsumexp(logits, 1) - logits.gather(1, domain.unsqueeze(1)).squeeze(1)
    present = [losses[y == k] for k in range(C) if (y == k).any()]
    loss = sum(own.sum() / len(own) for own in present) / C if balanced else losses.mean()
    slope = ((logits.softmax(1) - torch.eye(logits.shape[1])[domain]) @ V * (hidden > 0)) @ W
    return example_losses(outputs, batch.y).mean(), loss + grad_penalty * (slope**2).sum(1).mean()


def steps(weights, batches, grad_penalty, lam, movers, **changes):
    return adversarial_steps(
        weights,
        -5,
        batches,
        lambda network, adversary, batch: risks(network, adversary, batch, grad_penalty, **changes),
        lam,
        movers,
        {"betas": (0.3, 0.9), **OPTIM},
        {"betas": (0.3, 0.9), "lr": 0.02, "weight_decay": 0.1},
    )


@pytest.mark.parametrize("grad_penalty", [0.0, 0.7])
@pytest.mark.parametrize("num_steps", [9, None])
def test_gradient_reversal(grad_penalty, num_steps):
    hparams = {"grad_penalty": grad_penalty, "adversarial_weight": 1.5, **SMALL}
    cdann = make("cdann", hparams, optim=Optim(num_steps=num_steps, **OPTIM))
    batches, start = random_batches(4), weights_of(cdann)
    values, expected = cdann.loss(batches[0]), risks(start[:-5], start[-5:], batches[0], grad_penalty)
    torch.testing.assert_close((values["nll"], values["domain_nll"], values["loss"]), (*expected, sum(expected)))
    train(cdann, batches)
    assert_weights(cdann, steps(start, batches, grad_penalty, reversal(1.5, num_steps), lambda t: "nd"))
    for change in ({"balanced": False}, {"conditional": False}):
        assert differs(cdann, steps(start, batches, grad_penalty, reversal(1.5, num_steps), lambda t: "nd", **change))
    assert differs(cdann, steps(start, batches, grad_penalty, reversal(0.0, num_steps), lambda t: "nd"))


@pytest.mark.parametrize("grad_penalty", [0.0, 0.7])
@pytest.mark.parametrize("k", [1, 2])
def test_alternating(grad_penalty, k):
    hparams = {"form": "alternating", "grad_penalty": grad_penalty, "d_steps_per_g_step": k, **SMALL}
    cdann = make("cdann", hparams, optim=Optim(**OPTIM))
    batches, start = random_batches(5), weights_of(cdann)
    train(cdann, batches)
    assert cdann.step == 5
    assert_weights(cdann, steps(start, batches, grad_penalty, lambda t: 1.0, domainbed_movers(k)))
    for change in ({"balanced": False}, {"conditional": False}):
        assert differs(cdann, steps(start, batches, grad_penalty, lambda t: 1.0, domainbed_movers(k), **change))
    assert differs(cdann, steps(start, batches, grad_penalty, lambda t: 0.0, domainbed_movers(k)))


def test_balanced_classes_and_equal_class_vectors_are_dann():
    cdann, (batch,) = make("cdann", SMALL), random_batches(1, D=3, B=8)
    dann = make("dann", SMALL)
    torch.nn.init.zeros_(cdann.class_vectors.weight)
    dann.load_state_dict(cdann.state_dict(), strict=False)
    batch = batch._replace(y=torch.arange(8).remainder(4).repeat(3, 1))
    torch.testing.assert_close(cdann.loss(batch), dann.loss(batch))


def test_a_batch_without_the_last_class():
    cdann, (batch,) = make("cdann", SMALL), random_batches(1)
    batch = batch._replace(y=batch.y.clamp(max=2))
    start = weights_of(cdann)
    torch.testing.assert_close(cdann.loss(batch)["domain_nll"], risks(start[:-5], start[-5:], batch, 0.0, C=4)[1])


def test_class_weights():
    class_divisor = sys.modules[type(make("cdann")).__module__].class_divisor
    y = torch.tensor([0, 1, 1, 2, 2, 2])
    weights = 1 / class_divisor(y, 3)
    torch.testing.assert_close(weights, torch.tensor([6, 3, 3, 2, 2, 2]) / 18)
    assert weights.sum() == pytest.approx(1)
    # The largest label of the batch does not count: a class that the batch lacks takes its share with it.
    torch.testing.assert_close(1 / class_divisor(y, 4), weights * 3 / 4)
    assert class_divisor(torch.tensor([0, 1, 2] * 2), 3).tolist() == [6] * 6


@pytest.mark.parametrize("form", ["grl", "alternating"])
def test_class_vectors_belong_to_the_discriminator(form):
    cdann = make("cdann", {"form": form, "lr_d": 0.02})
    made = cdann.configure_optimizers()
    group = made.param_groups[1] if form == "grl" else made[1].param_groups[0]
    assert group["lr"] == 0.02
    assert {id(p) for p in group["params"]} == {
        *map(id, cdann.discriminator.parameters()),
        id(cdann.class_vectors.weight),
    }


def test_single_logit():
    task, network = Task("classification", 2, single_logit=True), build_network("mlp", (5,), 1, width=7)
    cdann = build_algorithm("cdann", task=task, network=network, num_domains=3).double()
    (batch,) = random_batches(1)
    train(cdann, [batch._replace(y=batch.y % 2)])
    assert dict(cdann.named_parameters())["class_vectors.weight"].shape == (2, 7)


def test_regression_is_refused():
    with pytest.raises(ValueError, match="CDANN works for classification, but the task is regression"):
        make("cdann", kind="regression")


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="CDANN needs at least 2 training domains, got 1"):
        make("cdann", D=1)


def test_unknown_form_is_refused():
    with pytest.raises(UnknownName, match=r"'gradient' is not a known form \(algorithm.form\).*alternating"):
        make("cdann", {"form": "gradient"})


def test_draws_are_domainbeds():
    cls = type(make("cdann"))
    drawn, optim = draw(cls.HParams, 1, 0), draw(Optim, 1, 0, overrides=cls.optim_fields)
    assert drawn.adversarial_weight == 10 ** domainbed_generator("lambda").uniform(-2, 2)
    assert drawn.lr_d == 10 ** domainbed_generator("lr_d").uniform(-5, -3.5)
    assert optim.lr == 10 ** domainbed_generator("lr_g").uniform(-5, -3.5)
