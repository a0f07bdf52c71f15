import sys
from collections import Counter
from typing import Any

import pytest
import torch

import dgbench
from dgbench.hparams import Optim
from dgbench.runner import execute
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)
from tests.test_presets import each, resolved

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
OPTIM: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}


def visits(mldg):
    """The pairs (meta-train, meta-test) that it will visit, step after step, in one list."""
    seen: list[list[int]] = []
    loss = mldg.loss

    def spy(batch):
        (domain,) = batch.domain.unique().tolist()
        seen.append([*seen.pop(), domain] if seen and len(seen[-1]) == 1 else [domain])
        return loss(batch)

    mldg.loss = spy
    return seen


def one(batch, d):
    return type(batch)(batch.x[[d]], batch.y[[d]], batch.domain[[d]])


def meta_gradient(weights, batch, pairs, beta, inner_lr, weight_decay, D):
    """Sum over the pairs of (grad R_i(w) + beta * grad R_j(w_i)) / D, w_i after Adam's first step on R_i."""
    total = [torch.zeros_like(w) for w in weights]
    for i, j in pairs:
        grads = torch.autograd.grad(erm_loss(weights, one(batch, i)), weights)
        inner = [w.detach().clone().requires_grad_() for w in weights]
        if inner_lr:
            Adam(inner, lr=inner_lr, weight_decay=weight_decay).step(grads)
        there = torch.autograd.grad(erm_loss(inner, one(batch, j)), inner)
        total = [t + (g + beta * h) / D for t, g, h in zip(total, grads, there, strict=True)]
    return total


def mldg_steps(weights, batches, pairs, beta=0.7, inner_lr=0.01, inner_decay=0.1, D=None):
    """Li et al. 2018, algorithm 1, first-order and in DomainBed's pairs."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights, **OPTIM)
    num = len(pairs) // len(batches)
    for step, batch in enumerate(batches):
        chosen = pairs[step * num : (step + 1) * num]
        adam.step(meta_gradient(weights, batch, chosen, beta, inner_lr, inner_decay, D or len(batch.x)))
    return weights


@KINDS
@pytest.mark.parametrize(("D", "num_meta_test", "num_pairs"), [(2, 1, 1), (2, 2, 1), (3, 2, 1), (5, 2, 3), (5, 9, 1)])
def test_weights_after_three_steps(kind, D, num_meta_test, num_pairs):
    mldg = make("mldg", {"beta": 0.7, "num_meta_test": num_meta_test}, kind, D, optim=Optim(**OPTIM))
    batches, start, pairs = random_batches(3, kind, D), weights_of(mldg), visits(mldg)
    train(mldg, batches)
    assert mldg.step == 3
    assert len(pairs) == 3 * num_pairs
    assert_weights(mldg, mldg_steps(start, batches, pairs))
    assert differs(mldg, adam_steps(start, batches, erm_loss, **OPTIM))
    for change in ({"beta": 0.0}, {"inner_lr": 0.0}, {"inner_decay": 0.0}, {"D": num_pairs}):
        assert differs(mldg, mldg_steps(start, batches, pairs, **change), by=1e-7), change


def test_the_inner_step_is_the_runs_optimizers():
    optim = Optim(lr=0.1, optimizer="sgd")
    mldg, (batch,) = make("mldg", {"beta": 0.7}, optim=optim), random_batches(1)
    start, pairs = [w.requires_grad_() for w in weights_of(mldg)], visits(mldg)
    train(mldg, [batch])
    ((i, j),) = pairs
    grads = torch.autograd.grad(erm_loss(start, one(batch, i)), start)
    inner = [(w - 0.1 * g).detach().requires_grad_() for w, g in zip(start, grads, strict=True)]
    there = torch.autograd.grad(erm_loss(inner, one(batch, j)), inner)
    assert_weights(mldg, [w - 0.1 * (g + 0.7 * h) / 3 for w, g, h in zip(start, grads, there, strict=True)])


def test_without_an_inner_step_the_risks_are_weighted():
    """At learning rate 0 the gradient is that of sum(R_i + beta * R_j) / D, and the loss its value."""
    mldg, (batch,) = make("mldg", {"beta": 0.7}, D=4, optim=Optim(lr=0.0)), random_batches(1, D=4)
    start, pairs = [w.requires_grad_() for w in weights_of(mldg)], visits(mldg)
    applied: list[torch.Tensor] = []
    mldg.apply_gradients = applied.extend
    values = mldg.training_step(batch, 0)
    losses = [[erm_loss(start, one(batch, d)) for d in pair] for pair in pairs]
    objective = torch.stack([here + 0.7 * there for here, there in losses]).sum() / 4
    torch.testing.assert_close(values["loss"], objective.detach())
    torch.testing.assert_close(values["meta_train_nll"], (losses[0][0] + losses[1][0]).detach() / 2)
    torch.testing.assert_close(values["meta_test_nll"], (losses[0][1] + losses[1][1]).detach() / 2)
    torch.testing.assert_close(tuple(applied), torch.autograd.grad(objective, start))


def test_pairs_are_of_a_random_split():
    random_pairs = sys.modules[type(make("mldg")).__module__].random_pairs
    torch.manual_seed(0)
    for D, num_meta_test, num_test in ((5, 1, 1), (5, 2, 2), (5, 4, 4), (5, 7, 4), (2, 2, 1)):
        pairs = random_pairs(D, num_meta_test)
        meta_train, meta_test = [i for i, _ in pairs], [j for _, j in pairs]
        assert len(set(meta_train)) == len(pairs) == D - num_test
        assert len(set(meta_test)) == min(num_test, D - num_test)
        assert not set(meta_train) & set(meta_test)
        assert meta_test[num_test:] == meta_test[:-num_test]
    counts = Counter(random_pairs(3, 2)[0] for _ in range(1200))
    assert set(counts) == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert all(abs(count - 200) < 60 for count in counts.values())


def test_after_the_inner_step_the_weights_are_what_they_were():
    mldg, (batch,) = make("mldg").float(), random_batches(1)
    weights, start = mldg.trainable(), weights_of(mldg)
    grads = torch.autograd.grad(mldg.loss(batch._replace(x=batch.x.float()))["loss"], weights)
    with mldg.inner_step(weights, grads):
        assert differs(mldg, start, by=1e-3)
    assert all(torch.equal(w, s) for w, s in zip(weights, start, strict=True))


@pytest.mark.parametrize("moves", [True, False])
def test_running_statistics_follow_the_meta_train_domains(moves):
    """By hand: each visit moves them by a tenth towards those of one domain, at the weights before the step."""
    mldg = make("mldg", {"num_meta_test": 1, "moves_statistics": moves}, norm="batch")
    (batch,), before, pairs = random_batches(1), weights_of(mldg), visits(mldg)
    train(mldg, [batch])
    mean = torch.zeros(7, dtype=torch.float64)
    for i, _ in pairs:
        mean = 0.9 * mean + 0.1 * (batch.x[i] @ before[0].T + before[1]).mean(0)
    buffers = dict(mldg.network.named_buffers())
    torch.testing.assert_close(buffers["body.layer1.1.running_mean"], mean if moves else torch.zeros_like(mean))
    assert buffers["body.layer1.1.num_batches_tracked"] == (2 if moves else 0)
    assert differs(mldg, before)


@each(True, False, False)
def test_the_presets_of_domainbed_keep_its_running_statistics(preset, expected):
    keys = ["dataset=digits_rot", "test_domains=[0]", "network=mlp", "network.width=4", "network.norm=batch"]
    keys += ["network.freeze_bn=false", "protocol.num_steps=2", "optim.batch_size=4"]
    moved = {}
    for name in ("mldg", "erm"):
        outcome = execute(resolved(preset, *keys, algorithm=name))
        assert outcome.status == "complete", outcome.reason
        state = dgbench.load(outcome.folder).state_dict()
        moved[name] = bool(state["network.body.layer1.1.running_mean"].abs().max() > 0)
    assert moved == {"mldg": expected, "erm": True}


def test_the_inner_step_reaches_meta_test_under_autocast():
    weights = []
    for caches in (True, False):
        mldg = make("mldg").float()
        mldg.seed = 0
        mldg.training_step = torch.autocast("cpu", torch.bfloat16, cache_enabled=caches)(mldg.training_step)
        weights.append(weights_of(train(mldg, [b._replace(x=b.x.float()) for b in random_batches(2)])))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_prediction_is_by_the_weights_themselves():
    mldg, batches = make("mldg"), random_batches(2)
    train(mldg, batches).eval()
    torch.testing.assert_close(mldg(batches[0].x[0]), mlp(weights_of(mldg), batches[0].x[0])[1])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"algorithm\.num_meta_test=0, expected at least 1 domain"):
        make("mldg", {"num_meta_test": 0})
    with pytest.raises(ValueError, match="MLDG needs at least 2 training domains, got 1"):
        make("mldg", D=1)
    with pytest.raises(ValueError, match=r"MLDG needs at least 2 domains in a batch, got 1\. Take more domains"):
        make("mldg").training_step(random_batches(1, D=1)[0], 0)
