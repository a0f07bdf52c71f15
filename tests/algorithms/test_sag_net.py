import sys
from typing import Any

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim, draw
from dgbench.network import build_network
from dgbench.registry import algorithms
from dgbench.task import Task
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    seed_hash,
    train,
    weights_of,
)

D_NUMBERS = pytest.mark.parametrize("D", [1, 2, 5])
OPTIM = Optim(lr=0.01, weight_decay=0.05)


def moments(f):
    """Mean and unbiased variance of each row."""
    mean = f.sum(1, keepdim=True) / f.shape[1]
    return mean, ((f - mean) ** 2).sum(1, keepdim=True) / (f.shape[1] - 1)


def styled(content_of, mean, var):
    own_mean, own_var = moments(content_of)
    return (content_of - own_mean) / (own_var + 1e-5) ** 0.5 * (var + 1e-5) ** 0.5 + mean


def sag_net_steps(weights, batches, weight, seed, moves=("content", "style", "adversary")):
    """Nam et al. 2021 on flat features, as DomainBed's SagNet: three updates by three Adams."""
    weights = [w.clone().requires_grad_() for w in weights]
    body, head, style = weights[:-4], weights[-4:-2], weights[-2:]
    adams = [Adam(part, lr=0.01, weight_decay=0.05) for part in (body, head, style)]

    def linear(f, layer):
        return f @ layer[0].T + layer[1]

    def features(batch):
        return mlp([*body, *head], batch.x.flatten(0, 1))[0]

    def update(loss, *which):
        # All gradients before any weight moves.
        grads = [torch.autograd.grad(loss, adams[i].weights, retain_graph=True) for i in which]
        for i, grad in zip(which, grads, strict=True):
            adams[i].step(grad)

    def in_other_content(batch):
        f = features(batch)
        return styled(f.detach()[torch.randperm(len(f))], *moments(f))

    for step, batch in enumerate(batches):
        torch.manual_seed(seed_hash(seed, step))
        y, f = batch.y.flatten(), features(batch)
        share, other = torch.rand(len(y)).double().unsqueeze(1), torch.randperm(len(y))
        mixed = [share * own + (1 - share) * own[other] for own in moments(f)]
        if "content" in moves:
            update(example_losses(linear(styled(f, *mixed), head), y).mean(), 0, 1)
        guess = linear(in_other_content(batch), style)
        if "style" in moves:
            update(example_losses(guess, y).mean(), 2)
        guess = linear(in_other_content(batch), style)
        if "adversary" in moves:
            update(-weight * guess.log_softmax(1).mean(), 0)
    return weights


@D_NUMBERS
def test_weights_after_four_steps(D):
    sag_net, batches = make("sag_net", {"adversarial_weight": 2.0}, D=D, optim=OPTIM), random_batches(4, D=D)
    sag_net.seed = 5
    start = weights_of(sag_net)
    assert_weights(train(sag_net, batches), sag_net_steps(start, batches, 2.0, 5))
    assert sag_net.step == 4
    for moves in (("style", "adversary"), ("content", "adversary"), ("content", "style")):
        assert differs(sag_net, sag_net_steps(start, batches, 2.0, 5, moves))
    assert differs(sag_net, sag_net_steps(start, batches, 0.1, 5))
    assert differs(sag_net, [*adam_steps(start[:-2], batches, erm_loss, weight_decay=0.05), *weights_of(sag_net)[-2:]])


def test_each_update_moves_its_own_part():
    sag_net, (batch,) = make("sag_net"), random_batches(1)
    moved, update = [], sag_net.update

    def spy(loss, optimizer):
        before = {name: p.detach().clone() for name, p in sag_net.named_parameters()}
        update(loss, optimizer)
        moved.append({name.rsplit(".", 1)[0] for name, p in sag_net.named_parameters() if not p.equal(before[name])})

    sag_net.update = spy
    train(sag_net, [batch])
    assert moved == [{"network.body.layer1.0", "network.head"}, {"style_head"}, {"network.body.layer1.0"}]


def test_logged_values():
    """At learning rate 0, whose updates change nothing between the passes."""
    sag_net, (batch,) = make("sag_net", {"adversarial_weight": 2.0}, optim=Optim(lr=0.0)), random_batches(1)
    sag_net.seed, logged, training_step = 5, {}, sag_net.training_step

    def spy(*arguments):
        logged.update(training_step(*arguments))
        return logged

    sag_net.training_step = spy
    train(sag_net, [batch])
    torch.manual_seed(seed_hash(5, 0))
    expected = {"loss": sag_net.loss(batch)["loss"], "style_loss": sag_net.style_loss(batch)}
    expected["adversarial_loss"] = sag_net.adversarial_loss(batch)
    torch.testing.assert_close(logged, {name: value.detach() for name, value in expected.items()})


def test_style_and_content_change_hands():
    module = sys.modules[type(make("sag_net")).__module__]
    torch.manual_seed(0)
    f = (torch.arange(1.0, 7).unsqueeze(1) * torch.randn(6, 50, dtype=torch.float64)).requires_grad_()
    content, mean, var = module.split_style(f)
    torch.testing.assert_close(content.mean(1), torch.zeros(6).double())
    torch.testing.assert_close(content.var(1), torch.ones(6).double(), rtol=1e-3, atol=0)
    swapped, restyled = module.swap_content(f), module.mix_style(f)
    torch.testing.assert_close(module.split_style(restyled)[0], content, rtol=1e-3, atol=1e-4)  # content stays
    torch.testing.assert_close(swapped.mean(1, keepdim=True), mean)  # style stays
    torch.testing.assert_close(swapped.var(1, keepdim=True), var, rtol=1e-3, atol=0)
    assert restyled.mean(1).min() >= mean.min()  # between two of the batch
    assert not torch.allclose(restyled, f)
    assert not torch.allclose(swapped, f)
    # The gradient of swapped features goes through the style alone: two directions for each row.
    slope = torch.autograd.grad((swapped * torch.randn(6, 50)).sum(), f)[0]
    for row, x in zip(slope, content.detach(), strict=True):
        basis = torch.stack([torch.ones(50).double(), x], 1)
        residual = row - basis @ torch.linalg.lstsq(basis, row).solution
        assert residual.abs().max() < 1e-10


def test_clueless_style_head_has_the_least_adversarial_loss():
    sag_net, (batch,) = make("sag_net", {"adversarial_weight": 1.0}), random_batches(1)
    chance = torch.tensor(4.0).double().log()
    assert sag_net.adversarial_loss(batch) > chance
    with torch.no_grad():
        sag_net.style_head.weight.zero_()
        sag_net.style_head.bias.zero_()
    torch.testing.assert_close(sag_net.adversarial_loss(batch), chance)


def test_one_logit_is_trained_as_two_are():
    values = []
    for single in (True, False):
        task = Task("classification", 2, single_logit=single)
        network = build_network("mlp", (5,), task.num_outputs, depth=0)
        sag_net: Any = build_algorithm("sag_net", task=task, network=network, num_domains=2).double()
        w = torch.arange(5.0).double().unsqueeze(0)
        for head in (sag_net.network.head, sag_net.style_head):
            with torch.no_grad():
                head.weight.copy_(w if single else torch.cat([0 * w, w]))
                head.bias.zero_()
        (batch,) = random_batches(1, D=2)
        batch = batch._replace(y=batch.y % 2)
        torch.manual_seed(0)
        values.append([sag_net.loss(batch)["loss"], sag_net.style_loss(batch), sag_net.adversarial_loss(batch)])
    torch.testing.assert_close(*values)


def test_a_checkpoint_continues_both_optimizers(tmp_path):
    bench = Workbench(algorithms["sag_net"], tmp_path)
    straight, fresh = bench.build(), bench.build(seed=1)
    bench.train(straight, range(6))
    bench.train(fresh, range(3, 6), resume=bench.train(bench.build(), range(3), save=True).saved)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in straight.state_dict().items())
    assert len(fresh.training_state()["optimizers"]) == 2


def test_steps_reach_the_next_pass_under_autocast():
    weights = []
    for caches in (True, False):
        sag_net = make("sag_net").float()
        sag_net.training_step = torch.autocast("cpu", torch.bfloat16, cache_enabled=caches)(sag_net.training_step)
        weights.append(weights_of(train(sag_net, [b._replace(x=b.x.float()) for b in random_batches(2)])))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_refusals_and_draw():
    with pytest.raises(ValueError, match="SagNet takes the variance over features, got 1 feature, expected at least 2"):
        make("sag_net", width=1)
    with pytest.raises(ValueError, match="SagNet works for classification, but the task is regression"):
        make("sag_net", kind="regression")
    drawn = draw(algorithms["sag_net"].HParams, 1, 0)
    assert drawn.adversarial_weight == 10 ** domainbed_generator("sag_w_adv").uniform(-2, 1)
