import math
import sys

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.contrast_reference import bottleneck, supervised_contrast
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

FORMS = pytest.mark.parametrize(("is_flipped", "is_normalized"), [(True, False), (False, False), (True, True)])


def objective(weight, T, **form):
    """DomainBed's AbstractCAD.update."""

    def loss(weights, batch, step):
        features, outputs = mlp(weights, batch.x)
        penalty = bottleneck(features.flatten(0, 1), batch.y.flatten(), batch.domain.flatten(), T, **form)
        return example_losses(outputs, batch.y).mean() + weight * penalty

    return loss


def contrast(name="cad"):
    return sys.modules[type(make(name)).__module__.rpartition(".")[0] + "._contrast"]


def random_features(N=12, seed=0):
    r = torch.Generator().manual_seed(seed)
    z = torch.randn(N, 3, generator=r, dtype=torch.float64)
    return z, torch.randint(3, (N,), generator=r), torch.randint(2, (N,), generator=r)


@FORMS
@pytest.mark.parametrize("D", [2, 5])
def test_weights_after_some_steps(is_flipped, is_normalized, D):
    hparams = {"penalty_weight": 0.7, "temperature": 0.5, "is_flipped": is_flipped, "is_normalized": is_normalized}
    cad, batches = make("cad", hparams, D=D), random_batches(4, D=D)
    form = {"flipped": is_flipped, "normalized": is_normalized}
    start, values = weights_of(cad), cad.loss(batches[0])
    torch.testing.assert_close(values["loss"], objective(0.7, 0.5, **form)(start, batches[0], 0))
    torch.testing.assert_close(values["nll"], erm_loss(start, batches[0]))
    train(cad, batches)
    assert_weights(cad, adam_steps(start, batches, objective(0.7, 0.5, **form)))
    for other in (erm_loss, objective(0.7, 1.0, **form), objective(0.7, 0.5, conditional=True, **form)):
        assert differs(cad, adam_steps(start, batches, other))


def test_without_weight_it_is_erm():
    cad, batches = make("cad", {"penalty_weight": 0.0}), random_batches(3)
    start = weights_of(cad)
    assert_weights(train(cad, batches), adam_steps(start, batches, erm_loss))


@pytest.mark.parametrize("is_conditional", [False, True])
@FORMS
def test_bottleneck(is_conditional, is_flipped, is_normalized):
    for seed in range(5):
        z, y, d = random_features(seed=seed)
        form = {"is_conditional": is_conditional, "is_flipped": is_flipped, "is_normalized": is_normalized}
        got = contrast().domain_bottleneck(z, y, d, 0.4, **form)
        torch.testing.assert_close(got, bottleneck(z, y, d, 0.4, *form.values()))
        order = torch.randperm(len(y))
        again = contrast().domain_bottleneck(z[order], y[order], d[order], 0.4, **form)
        torch.testing.assert_close(again, got)


def test_equal_features_pick_others_evenly():
    domains = torch.tensor([0, 0, 1, 1, 2, 2])
    got = contrast().domain_bottleneck(torch.ones(6, 2).double(), torch.zeros(6).long(), domains, 0.07)
    assert got.item() == pytest.approx(-math.log(4 / 5))


def test_it_is_lower_where_neighbours_are_of_other_domains():
    bottleneck_of, labels = contrast().domain_bottleneck, torch.zeros(4).long()
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    apart, mixed = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    for is_flipped in (True, False):
        values = [bottleneck_of(z, labels, domains, 0.1, is_flipped=is_flipped) for domains in (apart, mixed)]
        assert values[0] > values[1]


@pytest.mark.parametrize("is_conditional", [False, True])
def test_nothing_to_compare_is_zero_with_gradient_zero(is_conditional):
    z, y, _ = random_features()
    z.requires_grad_()
    lone = torch.arange(len(y))  # every example is the only one of its class
    for labels, domains in ((y, torch.zeros_like(y)), (lone, lone)):
        value = contrast().domain_bottleneck(z, labels, domains, 0.1, is_conditional=is_conditional)
        assert value == 0
        assert torch.equal(torch.autograd.grad(value, z)[0], torch.zeros_like(z))


def test_examples_left_out_leave_gradients_finite():
    z, y, d = random_features()
    y[0], d[:] = 7, torch.arange(len(d)) % 2
    y[1:4] = 5
    d[1:4] = 0  # a class of one domain
    z.requires_grad_()
    value = contrast().domain_bottleneck(z, y, d, 0.05, is_conditional=True)
    (grad,) = torch.autograd.grad(value, z)
    assert grad.isfinite().all()
    assert torch.equal(grad[:4], torch.zeros(4, 3).double())
    assert grad[4:].abs().sum() > 0


def test_similarities_keep_their_precision_under_autocast():
    z, y, d = random_features()
    with torch.autocast("cpu", torch.bfloat16):
        got = contrast().domain_bottleneck(z.float(), y, d, 0.1)
    torch.testing.assert_close(got, bottleneck(z, y, d, 0.1).float())
    assert contrast().domain_bottleneck(30 * z.half(), y, d, 0.05).isfinite()


def test_supervised_contrast():
    ours = contrast().supervised_contrast
    z, y = random_features(9)[0], torch.tensor([0, 0, 1, 1, 1, 2, 0, 1, 0])
    torch.testing.assert_close(ours(z, y), supervised_contrast(z, y))
    torch.testing.assert_close(ours(5 * z, y), ours(z, y))
    z.requires_grad_()
    alone = ours(z, torch.arange(9))
    assert alone == 0
    assert torch.equal(torch.autograd.grad(alone, z)[0], torch.zeros_like(z))


@pytest.mark.parametrize("name", ["cad", "cond_cad"])
def test_rows_of_mixed_domains_and_one_logit(name):
    task = Task("classification", 2, single_logit=True)
    network = build_network("mlp", (5,), task.num_outputs, width=7)
    cad = build_algorithm(name, task=task, network=network, num_domains=3, optim=Optim(lr=0.01)).double()
    (batch,) = random_batches(1)
    batch = batch._replace(y=batch.y % 2)
    values, features = cad.loss(batch), cad.features(batch.x.flatten(0, 1))
    expected = bottleneck(features, batch.y.flatten(), batch.domain.flatten(), 0.1, conditional=name == "cond_cad")
    torch.testing.assert_close(values["penalty"], expected)
    assert values["penalty"] != 0
    order = torch.randperm(18)
    pooled = type(batch)(*(t.flatten(0, 1)[order].unsqueeze(0) for t in batch[:3]))
    torch.testing.assert_close(cad.loss(pooled), values)


@pytest.mark.parametrize("name", ["cad", "cond_cad"])
def test_what_it_cannot_do_is_refused(name):
    with pytest.raises(ValueError, match="needs at least 2 training domains, got 1"):
        make(name, D=1)
    with pytest.raises(ValueError, match="works for classification, but the task is regression"):
        make(name, kind="regression")
    with pytest.raises(ValueError, match=r"algorithm\.temperature=0\.0, expected more than 0"):
        make(name, {"temperature": 0.0})
