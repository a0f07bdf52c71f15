import sys

import pytest
import torch

from dgbench.hparams import Optim, draw, facts
from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    Adam,
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

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
HP = {"penalty_weight": 2.0, "delta": 0.05, "d_steps": 3, "lr_d": 0.05}


def gap(features, head, y):
    W, b = head
    risks = [example_losses(f @ W.T + b, t).mean() for f, t in zip(features, y, strict=True)]
    return max(risks) - min(risks)


def transfer_steps(weights, batches, penalty_weight, delta, d_steps, lr_d, weight_decay=0.0):
    """Zhang et al. 2021 as in their code: three updates; Adam counts the features' steps and the head's apart."""
    weights = [w.clone().requires_grad_() for w in weights]
    body, head = weights[:-2], weights[-2:]
    body_adam, head_adam = Adam(body, weight_decay=weight_decay), Adam(head, weight_decay=weight_decay)
    adversary, logged, radii = [w.detach().clone() for w in head], [], []
    for batch in batches:
        nll = erm_loss(weights, batch)
        grads = torch.autograd.grad(nll, weights)
        body_adam.step(grads[:-2])
        head_adam.step(grads[-2:])
        value = gap(mlp(weights, batch.x)[0], adversary, batch.y)
        body_adam.step(torch.autograd.grad(penalty_weight * value, body))
        logged.append((nll + penalty_weight * value, value))
        features = mlp(weights, batch.x)[0].detach()
        adversary = [w.detach().clone() for w in head]
        for _ in range(d_steps):
            adversary = [w.requires_grad_() for w in adversary]
            slopes = torch.autograd.grad(gap(features, adversary, batch.y), adversary)
            moved = [
                (a + lr_d * penalty_weight * s - w).detach() for a, s, w in zip(adversary, slopes, head, strict=True)
            ]
            length = float(sum((m**2).sum() for m in moved) ** 0.5)
            radii.append(length)
            scale = delta / max(delta, length)
            adversary = [w.detach() + scale * m for w, m in zip(head, moved, strict=True)]
    return weights, adversary, logged, radii


def logs_of(method):
    rows, training_step = [], method.training_step

    def spy(*arguments):
        rows.append(training_step(*arguments))
        return rows[-1]

    method.training_step = spy
    return rows


@KINDS
@pytest.mark.parametrize("D", [2, 3, 5])
@pytest.mark.parametrize("delta", [0.05, 5.0])
def test_weights_adversary_and_losses(kind, D, delta):
    hparams = HP | {"delta": delta}
    method, batches = make("transfer", hparams, kind, D), random_batches(4, kind, D)
    start, rows = weights_of(method), logs_of(method)
    expected, adversary, logged, radii = transfer_steps(start, batches, **hparams)
    assert_weights(train(method, batches), expected)
    torch.testing.assert_close(method.adversary, torch.cat([adversary[0], adversary[1].unsqueeze(1)], 1))
    torch.testing.assert_close([(r["loss"], r["gap"]) for r in rows], [(a.detach(), b.detach()) for a, b in logged])
    assert method.step == 4
    # The ball of the small radius is left, that of the large one never.
    assert all(radius < delta for radius in radii) == (delta == 5.0)
    assert differs(method, adam_steps(start, batches, erm_loss))
    assert differs(method, transfer_steps(start, batches, **hparams | {"d_steps": 0})[0])
    assert differs(method, transfer_steps(start, batches, **hparams | {"penalty_weight": 0.0})[0])


def test_the_gap_leaves_the_head():
    """The head moves as often as in ERM: after one step, exactly as far."""
    optim = Optim(lr=0.01, weight_decay=0.1)
    method, (batch,) = make("transfer", HP, optim=optim), random_batches(1)
    start = weights_of(method)
    erm = adam_steps(start, [batch], erm_loss, lr=0.01, weight_decay=0.1)
    assert_weights(train(method, [batch]), transfer_steps(start, [batch], **HP, weight_decay=0.1)[0])
    torch.testing.assert_close(weights_of(method)[-2:], [w.detach() for w in erm[-2:]])
    assert differs(method, erm)


@KINDS
def test_without_ascents_the_adversary_is_the_head(kind):
    for hparams in ({"d_steps": 0}, {"delta": 0.0}):
        method = train(make("transfer", HP | hparams, kind), random_batches(2, kind))
        head = method.network.head
        assert torch.equal(method.adversary, torch.cat([head.weight, head.bias.unsqueeze(1)], 1))


def test_equal_domains_have_no_gap():
    method, (batch,) = make("transfer", HP), random_batches(1, D=1)
    batch = type(batch)(*(value.repeat_interleave(3, 0) for value in batch[:3]))
    rows = logs_of(method)
    train(method, [batch])
    assert rows[0]["gap"].abs() < 1e-12
    assert rows[0]["loss"] == pytest.approx(float(rows[0]["nll"]))


def test_projection():
    projected = sys.modules[algorithms["transfer"].__module__].projected
    centre = torch.randn(3, 4)
    for radius in (0.0, 0.5, 2.0):
        for x in (centre, centre + 0.01 * torch.randn(3, 4), centre + 10 * torch.randn(3, 4)):
            got, far = projected(x, centre, radius), (x - centre).norm()
            torch.testing.assert_close((got - centre).norm(), far.clamp(max=radius))
            torch.testing.assert_close((got - centre) * far, (x - centre) * (got - centre).norm())


@pytest.mark.parametrize("hparams_seed", [0, 1, 2, 3])
def test_everything_is_trained_in_every_draw(hparams_seed):
    """DomainBed's random draws set `gda`, and then its features and head stay as they were drawn."""
    cls = algorithms["transfer"]
    assert {fact.key for fact in facts(cls.HParams).values()} == {"t_lambda", "delta", "d_steps_per_g", "lr_d"}
    method = make("transfer", draw(cls.HParams, hparams_seed))
    start, adversary = weights_of(method), method.adversary.clone()
    train(method, random_batches(1))
    assert all(not torch.equal(a, b) for a, b in zip(start, weights_of(method), strict=True))
    assert not torch.equal(adversary, method.adversary)


def test_a_checkpoint_continues_the_adversary(tmp_path):
    bench = Workbench(algorithms["transfer"], tmp_path)
    straight, fresh = bench.build(), bench.build(seed=1)
    bench.train(straight, range(6))
    bench.train(fresh, range(3, 6), resume=bench.train(bench.build(), range(3), save=True).saved)
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_updates_reach_the_next_pass_under_autocast():
    weights = []
    for caches in (True, False):
        method = make("transfer", HP).float()
        method.training_step = torch.autocast("cpu", torch.bfloat16, cache_enabled=caches)(method.training_step)
        weights.append(weights_of(train(method, [b._replace(x=b.x.float()) for b in random_batches(2)])))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="Transfer needs at least 2 training domains, got 1"):
        make("transfer", D=1)
