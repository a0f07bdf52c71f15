import io
from collections import Counter

import pytest
import torch

from dgbench.hparams import Optim, draw
from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

FORMS = ("paper", "domainbed")


def visited(fish):
    """The domains that it will visit, step after step, in one list."""
    seen, loss = [], fish.loss

    def spy(batch):
        seen.append(batch.domain.unique().tolist())
        return loss(batch)

    fish.loss = spy
    return seen


def fish_steps(weights, batches, rate, orders, keeps_averages=True, lr=0.01):
    """Shi et al. 2022, algorithm Fish: inner steps on copies, one domain each, then w + rate * (copy - w)."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights, lr=lr)
    for batch, order in zip(batches, orders, strict=True):
        start = [w.detach().clone() for w in weights]
        if not keeps_averages:
            adam.restart()
        for d in order:
            domain = type(batch)(batch.x[[d]], batch.y[[d]], batch.domain[[d]])
            adam.step(torch.autograd.grad(erm_loss(weights, domain), weights))
        for w, before in zip(weights, start, strict=True):
            w.data = before + rate * (w.data - before)
    return weights


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("D", [2, 5])
def test_weights_of_the_domainbed_form(kind, D):
    fish, batches = make("fish", {"form": "domainbed", "meta_lr": 0.3}, kind, D), random_batches(3, kind, D)
    start, orders = weights_of(fish), [range(D)] * 3
    assert_weights(train(fish, batches), fish_steps(start, batches, 0.3, orders))
    assert fish.step == 3
    assert differs(fish, adam_steps(start, batches, erm_loss))
    assert differs(fish, fish_steps(start, batches, 1.0, orders))
    assert differs(fish, fish_steps(start, batches, 0.3, [range(D)[::-1]] * 3))
    assert differs(fish, fish_steps(start, batches, 0.3, orders, keeps_averages=False))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize(("meta_steps", "S"), [(1, 1), (2, 2), (5, 4)])
def test_weights_of_the_papers_form(kind, meta_steps, S):
    hparams = {"form": "paper", "meta_lr": 0.6, "meta_steps": meta_steps}
    fish, batches = make("fish", hparams, kind, D=4), random_batches(3, kind, D=4)
    start, seen = weights_of(fish), visited(fish)
    train(fish, batches)
    domains = [d for (d,) in seen]
    orders = [domains[i : i + S] for i in range(0, len(domains), S)]
    assert [len(set(order)) for order in orders] == [S, S, S]
    assert_weights(fish, fish_steps(start, batches, 0.6 / S, orders))
    if S > 1:
        assert differs(fish, fish_steps(start, batches, 0.6, orders))


def test_the_papers_form_visits_every_order_as_often():
    fish = make("fish", {"meta_steps": 2})
    torch.manual_seed(0)
    counts = Counter(tuple(fish.plan(3)[0]) for _ in range(1200))
    assert set(counts) == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_logged_loss_is_the_mean_over_the_visits():
    fish, (batch,) = make("fish", {"form": "domainbed"}, optim=Optim(lr=0.0)), random_batches(1)
    logged, training_step = {}, fish.training_step

    def spy(*arguments):
        logged.update(training_step(*arguments))
        return logged

    fish.training_step = spy
    train(fish, [batch])
    torch.testing.assert_close(logged, {"loss": erm_loss(weights_of(fish), batch)})


@pytest.mark.parametrize("form", FORMS)
def test_without_following_nothing_changes(form):
    fish = make("fish", {"form": form, "meta_lr": 0.0})
    start = weights_of(fish)
    train(fish, random_batches(3))
    assert all(torch.equal(a, b) for a, b in zip(weights_of(fish), start, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_one_row_followed_to_the_end_is_a_plain_step(form):
    optim = Optim(lr=0.1, optimizer="sgd")
    fish, batches = make("fish", {"form": form, "meta_lr": 1.0}, D=2, optim=optim), random_batches(1, D=1)
    start = [w.requires_grad_() for w in weights_of(fish)]
    grads = torch.autograd.grad(erm_loss(start, batches[0]), start)
    assert_weights(train(fish, batches), [w - 0.1 * g for w, g in zip(start, grads, strict=True)])


def test_running_statistics_follow_and_counts_stay():
    """At learning rate 0, by hand: each visit moves them by a tenth towards those of one domain."""
    fish = make("fish", {"form": "domainbed", "meta_lr": 0.3}, norm="batch", optim=Optim(lr=0.0))
    (batch,), before = random_batches(1), weights_of(fish)
    train(fish, [batch])
    mean = torch.zeros(7, dtype=torch.float64)
    for d in range(3):
        mean = 0.9 * mean + 0.1 * (batch.x[d] @ before[0].T + before[1]).mean(0)
    buffers = dict(fish.network.named_buffers())
    torch.testing.assert_close(buffers["body.layer1.1.running_mean"], 0.3 * mean)
    count = buffers["body.layer1.1.num_batches_tracked"]
    assert count == 3
    assert count.dtype is torch.int64


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_continues_bit_for_bit(form, tmp_path):
    bench = Workbench(algorithms["fish"], tmp_path)
    hp = algorithms["fish"].HParams(form=form, meta_steps=2)
    straight, fresh, bare = bench.build(hp=hp), bench.build(hp=hp, seed=1), bench.build(hp=hp, seed=1)
    bench.train(straight, range(6))
    saved = bench.train(bench.build(hp=hp), range(3), save=True).saved
    bench.train(fresh, range(3, 6), resume=saved)
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    # The inner averages are needed for that.
    state = torch.load(io.BytesIO(saved), weights_only=True)
    bare.load_state_dict(state["model"])
    bench.train(bare, range(3, 6))
    assert not torch.equal(bare.network.head.weight, fresh.network.head.weight)
    assert state["optimizers"][0]["state"][0]["step"] == 3 * (2 if form == "paper" else bench.num_domains)


def test_inner_steps_reach_the_next_visit_under_autocast():
    weights = []
    for caches in (True, False):
        fish = make("fish", {"form": "domainbed"}).float()
        fish.training_step = torch.autocast("cpu", torch.bfloat16, cache_enabled=caches)(fish.training_step)
        weights.append(weights_of(train(fish, [b._replace(x=b.x.float()) for b in random_batches(2)])))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_prediction_is_by_the_weights_that_follow():
    fish, batches = make("fish"), random_batches(2)
    train(fish, batches).eval()
    torch.testing.assert_close(fish(batches[0].x[0]), mlp(weights_of(fish), batches[0].x[0])[1])


def test_bad_values_are_refused():
    with pytest.raises(LookupError, match=r"'papr' is not a known form \(algorithm.form\). Did you mean 'paper'"):
        make("fish", {"form": "papr"})
    with pytest.raises(ValueError, match=r"algorithm\.meta_steps=0, expected at least 1 domain"):
        make("fish", {"meta_steps": 0})
    with pytest.raises(ValueError, match="Fish needs at least 2 training domains, got 1"):
        make("fish", D=1)


def test_draw_and_presets_are_domainbeds():
    HParams = algorithms["fish"].HParams
    assert draw(HParams, 1, 0).meta_lr == domainbed_generator("meta_lr").choice([0.05, 0.1, 0.5])
    assert [draw(HParams, 1, preset=p).form for p in (None, "domainbed_2020", "domainbed_2024")] == [
        "paper",
        "domainbed",
        "domainbed",
    ]
