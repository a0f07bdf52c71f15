import pytest
import torch

from dgbench.hparams import Optim, draw, facts
from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    domainbed_generator,
    erm_loss,
    make,
    mlp,
    random_batches,
    train,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def built(linear_steps, sma_start, kind="classification", D=3, **more):
    hparams = {"linear_lr": 0.03, "linear_steps": linear_steps, "sma_start": sma_start}
    return make("erm_plus_plus", hparams, kind, D, **more)


def path(start, batches, linear_steps):
    """Weights after 0, 1, ... steps: Adam on the head with a learning rate of its own, then another on all."""
    weights = [w.detach().clone().requires_grad_() for w in start]
    head, everything = Adam(weights[-2:], lr=0.03), Adam(weights)
    visited = [[w.detach().clone() for w in weights]]
    for step, batch in enumerate(batches):
        grads = torch.autograd.grad(erm_loss(weights, batch), weights)
        head.step(grads[-2:]) if step < linear_steps else everything.step(grads)
        visited.append([w.detach().clone() for w in weights])
    return visited


def mean(visited, sma_start):
    """Arpit et al. 2022: the mean from t0 - 1 on, as DomainBed counts; before, the last weights."""
    held = visited[min(sma_start - 1, len(visited) - 1) :]
    return [sum(weights) / len(held) for weights in zip(*held, strict=True)]


def close(network, weights, tolerance=1e-9):
    return all((p - w).abs().max() < tolerance for p, w in zip(network.parameters(), weights, strict=True))


@KINDS
@pytest.mark.parametrize(("D", "linear_steps", "sma_start"), [(1, 2, 4), (2, 0, 1), (5, 4, 3), (3, 2, 6), (3, 9, 99)])
def test_weights_and_their_mean_after_six_steps(kind, D, linear_steps, sma_start):
    method, batches = built(linear_steps, sma_start, kind, D), random_batches(6, kind, D)
    visited = path(method.network.parameters(), batches, linear_steps)
    torch.testing.assert_close(method.loss(batches[0])["loss"], erm_loss(visited[0], batches[0]))
    train(method, batches).eval()
    assert method.step == 6
    assert close(method.network, visited[-1])
    assert close(method.average, mean(visited, sma_start))
    assert close(method.average, visited[-1], 1e-4) == (sma_start > 6)
    assert close(method.network, adam_steps(visited[0], batches, erm_loss), 1e-4) == (linear_steps == 0)


def test_the_mean_predicts():
    method, batches = built(1, 2), random_batches(5)
    visited, x = path(method.network.parameters(), batches, 1), batches[0].x[0]
    train(method, batches).eval()
    features, outputs = mlp(mean(visited, 2), x)
    torch.testing.assert_close(method.features(x), features)
    torch.testing.assert_close(method(x), outputs)
    assert (method(x) - method.network(x)).abs().max() > 1e-4


def test_the_body_rests_while_the_head_is_trained_alone():
    method = built(3, 600)
    start = [p.clone() for p in method.network.parameters()]
    train(method, random_batches(3))
    now = list(method.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(start[:-2], now[:-2], strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(start[-2:], now[-2:], strict=True))


def test_without_its_two_ideas_it_is_erm_bit_for_bit():
    pair = [built(0, 600, norm="batch", dropout=0.5).float(), make("erm", norm="batch", dropout=0.5).float()]
    for method in pair:
        method.seed = 3
        train(method, [b._replace(x=b.x.float()) for b in random_batches(4)])
    theirs = dict(pair[1].network.named_parameters())
    for network in (pair[0].network, pair[0].average):
        assert all(torch.equal(p, theirs[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize("sma_start", [1, 2, 99])
def test_statistics_of_the_mean_are_averaged_then_see_the_batch(sma_start):
    """At learning rate 0, by hand: statistics move by a tenth; the count is the network's and one more."""
    hparams = {"linear_lr": 0.0, "linear_steps": 1, "sma_start": sma_start}
    method = make("erm_plus_plus", hparams, optim=Optim(lr=0.0), norm="batch")
    batches, (W, b) = random_batches(4), list(method.network.parameters())[:2]
    own = average = torch.zeros(7, dtype=torch.float64)
    for t, batch in enumerate(batches, 1):
        seen = (batch.x.flatten(0, 1) @ W.T + b).mean(0)
        own = 0.9 * own + 0.1 * seen
        num = max(1, t - sma_start + 2)
        average = 0.9 * (average * (num - 1) + own) / num + 0.1 * seen
    train(method, batches)
    norms = [network.body.get_submodule("layer1.1") for network in (method.network, method.average)]
    torch.testing.assert_close([norm.running_mean for norm in norms], [own, average])
    assert [int(norm.num_batches_tracked) for norm in norms] == [4, 5]


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_frozen_statistics_stay():
    method = built(1, 2, norm="batch", freeze_bn=True)
    train(method, random_batches(3))
    assert all(not norm.any() for name, norm in method.average.named_buffers() if name.endswith("running_mean"))


def test_the_mean_has_neither_gradients_nor_a_graph():
    method, seen = built(1, 2, norm="batch"), []
    method.average.body.register_forward_hook(lambda _module, _inputs, output: seen.append(output.requires_grad))
    train(method, random_batches(3))
    assert seen == [False] * 3
    assert all(p.grad is None and not p.requires_grad for p in method.average.parameters())
    assert len(method.trainable()) == len(list(method.network.parameters()))


def test_a_checkpoint_continues_bit_for_bit(tmp_path):
    bench = Workbench(algorithms["erm_plus_plus"], tmp_path)
    hp = algorithms["erm_plus_plus"].HParams(linear_steps=2, sma_start=3)
    straight, fresh = bench.build(hp=hp), bench.build(hp=hp, seed=1)
    bench.train(straight, range(6))
    saved = bench.train(bench.build(hp=hp), range(4), save=True).saved
    bench.train(fresh, range(4, 6), resume=saved)
    assert any(name.startswith("average.") for name in straight.state_dict())
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"algorithm\.sma_start=0, expected at least 1, the number of a step"):
        built(0, 0)


def test_draws_are_domainbeds():
    HParams = algorithms["erm_plus_plus"].HParams
    drawn = draw(HParams, 1, 0)
    assert drawn.linear_lr == 10 ** domainbed_generator("linear_lr").uniform(-5, -3.5)
    assert (drawn.linear_steps, drawn.sma_start) == (500, 600)
    assert [fact.name for fact in facts(HParams).values() if fact.is_step] == ["linear_steps", "sma_start"]
