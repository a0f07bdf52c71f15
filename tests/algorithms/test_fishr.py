import sys

import numpy as np
import pytest
import torch

from dgbench.hparams import draw
from dgbench.task import Task
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
NOW = {"penalty_weight": 30.0, "anneal_steps": 0}


def head_gradients(weights, x, y):
    """Of each example, by differentiating its own loss, (B, P)."""
    rows = []
    for i in range(len(x)):
        loss = example_losses(mlp(weights, x[i : i + 1])[1], y[i : i + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights[-2:], create_graph=True)]))
    return torch.stack(rows)


def objective(weight: float, anneal: int, ema: float, D: int):
    """Rame et al. 2022, the distance of the domains' gradient variances from their mean, times lambda."""
    average = [0.0] * D

    def loss(weights, batch, step):
        used = []
        for x, y, domain in zip(batch.x, batch.y, batch.domain[:, 0].tolist(), strict=True):
            grads = head_gradients(weights, x, y)
            variance = ((grads - grads.sum(0) / len(grads)) ** 2).sum(0) / len(grads)
            new = ema * average[domain] + (1 - ema) * variance
            average[domain] = new.detach()
            used.append(new / (1 - ema))
        mean = sum(used) / len(used)
        penalty = sum(((each - mean) ** 2).mean() for each in used) / len(used)
        return erm_loss(weights, batch) + (weight if step >= anneal else 0.0) * penalty

    return loss


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("anneal", [0, 2, 9])
def test_weights_after_four_steps(kind, D, anneal):
    fishr = make("fishr", {"penalty_weight": 30.0, "anneal_steps": anneal, "ema": 0.7}, kind, D)
    batches, start = random_batches(4, kind, D), weights_of(fishr)
    assert_weights(
        train(fishr, batches), adam_steps(start, batches, objective(30.0, anneal, 0.7, D), restart_at=anneal)
    )
    assert fishr.step == 4
    assert differs(fishr, adam_steps(start, batches, erm_loss, restart_at=anneal)) == (D > 1 and anneal < 4)
    if D > 1 and anneal < 4:
        assert differs(fishr, adam_steps(start, batches, objective(30.0, anneal, 0.0, D), restart_at=anneal))


@KINDS
def test_loss_of_one_step(kind):
    fishr, (batch,) = make("fishr", NOW, kind), random_batches(1, kind)
    weights = [w.requires_grad_() for w in weights_of(fishr)]
    expected = objective(30.0, 0, 0.95, 3)(weights, batch, 0).detach()
    torch.testing.assert_close(fishr.loss(batch)["loss"].detach(), expected)
    assert expected - erm_loss(weights, batch) > 0.01


def test_a_batch_of_some_domains():
    fishr = make("fishr", {**NOW, "ema": 0.7}, D=4)
    rows, made = [[3, 1], [0, 2], [1, 0], [2, 3]], random_batches(4, D=4)
    batches = [type(b)(*(part[r] for part in b[:3])) for b, r in zip(made, rows, strict=True)]
    start = weights_of(fishr)
    assert_weights(train(fishr, batches), adam_steps(start, batches, objective(30.0, 0, 0.7, 4)))


def per_sample():
    return sys.modules[type(make("fishr")).__module__.replace("fishr", "_per_sample")]


@pytest.mark.parametrize("task", [Task("classification", 4), Task("classification", 2, single_logit=True)])
def test_gradients_of_classes_are_those_of_autograd(task):
    check_gradients(task, torch.tensor(np.random.default_rng(2).integers(task.num_classes, size=(2, 6))))


def test_gradients_of_values_are_those_of_autograd():
    task = Task("regression", 3)
    task.shift, task.scale = torch.full((3,), 5.0), torch.tensor([1.0, 2.0, 3.0])
    check_gradients(task, torch.tensor(np.random.default_rng(2).normal(5, 3, size=(2, 6, 3))))


def check_gradients(task, y):
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(5, task.num_outputs).double()
    features = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)

    def loss(parameters, z, target):
        output = torch.func.functional_call(head, parameters, (z.unsqueeze(0),))
        return task.losses(output, target.unsqueeze(0)).squeeze(0)

    parameters = {name: p.detach() for name, p in head.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    expected = each(parameters, features.flatten(0, 1), y.flatten(0, 1))
    got = per_sample().head_gradients(features, per_sample().residuals(task, head(features), y))
    torch.testing.assert_close(
        got.flatten(0, 1), torch.cat([expected["weight"].flatten(1), expected["bias"]], 1), rtol=1e-10, atol=1e-12
    )
    assert per_sample().residuals(task, head(features).bfloat16(), y.float() if y.ndim == 3 else y).dtype is (
        torch.float32
    )


def test_equal_domains_are_not_penalised():
    fishr, (batch,) = make("fishr", NOW), random_batches(1, D=1)
    same = type(batch)(batch.x.repeat(3, 1, 1), batch.y.repeat(3, 1), torch.arange(3).unsqueeze(1).repeat(1, 6))
    assert fishr.loss(same)["penalty"].item() == pytest.approx(0, abs=1e-20)
    assert make("fishr", NOW).loss(random_batches(1)[0])["penalty"].item() > 1e-4


def test_the_average_goes_with_the_checkpoint_and_evaluation_leaves_it_alone():
    fishr, batches = make("fishr", NOW), random_batches(2)
    train(fishr, batches)
    fresh = make("fishr", NOW, seed=1)
    fresh.load_state_dict(fishr.state_dict())
    assert torch.equal(fresh.average, fishr.average)
    assert fresh.average.abs().max() > 1e-3
    fresh.eval().loss(batches[0])
    assert torch.equal(fresh.average, fishr.average)


def test_one_example_per_domain_is_refused():
    with pytest.raises(ValueError, match=r"over each domain's examples, got 1, .* raise optim.batch_size"):
        make("fishr").loss(random_batches(1, B=1)[0])


@pytest.mark.parametrize("ema", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(ema):
    with pytest.raises(ValueError, match=f"algorithm.ema={ema}, expected at least 0 and less than 1"):
        make("fishr", {"ema": ema})


def test_draws_are_domainbeds():
    drawn = draw(type(make("fishr")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("lambda").uniform(1, 4)
    assert drawn.anneal_steps == int(domainbed_generator("penalty_anneal_iters").uniform(0, 5000))
    assert drawn.ema == domainbed_generator("ema").uniform(0.90, 0.99)
