import importlib
import io

import pytest
import torch
from torch import Tensor

from dgbench.hparams import Optim, draw
from dgbench.registry import algorithms
from dgbench.workbench import Workbench
from tests.algorithms.reference import (
    Adam,
    assert_weights,
    differs,
    domainbed_generator,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)
from tests.algorithms.test_sam import NETS

core = importlib.import_module("dgbench.algorithms.flatness._unknown_domain")
HP = {"rho": 0.3, "input_step": 2.0, "penalty_weight": 3.0}


def example_loss(weights, x, y):
    """Of examples of the mlp, (D, B), from normalised inputs (D, B, ...)."""
    return example_losses(mlp(weights, x.flatten(2))[1], y)


def norm_of(parts) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).norm()


def shifted(weights, x, y, form, eta, rho):
    """Shin et al. 2024: one step up the gradient of L + rho * |dL/dw| in x, or in each image's style (AdvStyle)."""
    mean, std = x.mean((-2, -1), keepdim=True), (x.var((-2, -1), keepdim=True) + 1e-5).sqrt()
    leaves = [leaf.detach().clone().requires_grad_() for leaf in ([mean, std] if form == "style" else [x])]
    moved = leaves[0] + (x - mean) / std * leaves[1] if form == "style" else leaves[0]
    loss = example_loss(weights, moved, y).mean()
    surrogate = loss + rho * norm_of(torch.autograd.grad(loss, weights, create_graph=True))
    uphill = torch.autograd.grad(surrogate, leaves)
    if form == "style":
        return mean + eta * uphill[0] + (x - mean) / std * (std + eta * uphill[1])
    over = (0, 1) if form == "batch" else tuple(range(2, x.ndim))
    length = (uphill[0] ** 2).sum(over, keepdim=True).sqrt()
    return x + eta * uphill[0] / length.clamp(min=1e-12)  # where no unit of the net is active, the gradient is zero


def inconsistency(weights, x, moved, y):
    """Of one domain: examples' gradients in the head by autograd, both variances around the source's mean."""
    grads = []
    for inputs in (x, moved):
        losses = example_loss(weights, inputs.unsqueeze(0), y.unsqueeze(0))[0]
        each = [torch.autograd.grad(one, weights[-2:], create_graph=True) for one in losses]
        grads.append([torch.stack([g[k].flatten() for g in each]) for k in (0, 1)])
    variances = []
    for parts in grads:
        spread = [((part - source.mean(0)) ** 2).mean(0) for part, source in zip(parts, grads[0], strict=True)]
        variances.append(torch.cat(spread))
    gap = sum(((variance - sum(variances) / 2) ** 2).mean() for variance in variances) / 2
    return gap + sum((part**2).sum(1).mean() / part.shape[1] for part in grads[1])


def udim_steps(weights, batches, plan, rho, input_step, penalty_weight, form="batch"):
    """A letter of `plan` per batch: s is SAM's step, u is UDIM's, and x is one whose result is given up."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights)
    for batch, letter in zip(batches, plan, strict=True):
        if letter == "x":
            continue
        x, y = (batch.x - 0.2) / 2, batch.y
        grads = torch.autograd.grad(example_loss(weights, x, y).mean(), weights)
        nearby = [(w + rho * g / norm_of(grads)).detach().requires_grad_() for w, g in zip(weights, grads, strict=True)]
        update = list(torch.autograd.grad(example_loss(nearby, x, y).mean(), nearby))
        if letter == "u":
            moved = shifted(weights, x, y, form, input_step, rho)
            penalty = sum(inconsistency(weights, *domain) for domain in zip(x, moved, y, strict=True))
            extra = torch.autograd.grad(penalty_weight * penalty, weights)
            update = [g + p for g, p in zip(update, extra, strict=True)]
        adam.step(update)
    return weights


def udim_of(hparams, *args, **kwargs):
    udim = make("udim", hparams, *args, **kwargs)
    udim.network.normalise.set(torch.full((5,), 0.2), torch.full((5,), 2.0))
    return udim


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize(("form", "shape"), [("batch", (5,)), ("example", (2, 3, 3)), ("style", (2, 3, 3))])
def test_weights_after_three_steps(kind, D, form, shape):
    udim, batches = udim_of({**HP, "form": form}, kind, D, shape=shape), random_batches(3, kind, D, shape=shape)
    start = weights_of(udim)
    assert_weights(train(udim, batches), udim_steps(start, batches, "uuu", **HP, form=form))
    assert udim.step == 3
    for missing in ("rho", "input_step", "penalty_weight"):
        assert differs(udim, udim_steps(start, batches, "uuu", **{**HP, missing: 0.0}, form=form))
    assert differs(udim, udim_steps(start, batches, "sss", **{**HP, "rho": 0.0})), "ERM"


@pytest.mark.parametrize(
    ("values", "plan"),
    [({1: 0.1, 2: 0.5, 3: 0.3, 4: 0.5, 5: 0.9}, "ssxxuu"), ({2: 0.1, 4: 0.2}, "ssssuu"), ({}, "ssssuu")],
)
def test_the_second_stage_starts_from_the_best_evaluation(values, plan):
    udim = udim_of({**HP, "warm_up_ratio": 3}, optim=Optim(lr=0.01, num_steps=11))
    batches, start, training_step = random_batches(6), weights_of(udim), udim.training_step

    def spy(*arguments):
        if udim.step in values:
            udim.on_evaluation(values[udim.step])
        return training_step(*arguments)

    udim.training_step = spy
    assert udim.switch == 4
    assert_weights(train(udim, batches), udim_steps(start, batches, plan, **HP))
    assert float(udim.best_score) == max((value for step, value in values.items() if step <= 4), default=-float("inf"))
    assert differs(udim, udim_steps(start, batches, "ssssss", **HP))


def test_a_checkpoint_continues_bit_for_bit(tmp_path):
    """The bench evaluates after each step with the sine of the step: of stage A, the second is the best."""
    bench = Workbench(algorithms["udim"], tmp_path)
    hp = algorithms["udim"].HParams(warm_up_ratio=3)
    straight, fresh, forgetful = (bench.build(hp=hp, num_steps=12, seed=seed) for seed in (0, 1, 1))
    bench.train(straight, range(8))
    saved = bench.train(bench.build(hp=hp, num_steps=12), range(3), save=True).saved
    bench.train(fresh, range(3, 8), resume=saved)
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    state = torch.load(io.BytesIO(saved), weights_only=True)
    torch.save({**state, "best": None}, buffer := io.BytesIO())
    bench.train(forgetful, range(3, 8), resume=buffer.getvalue())
    assert not torch.equal(forgetful.network.head.weight, fresh.network.head.weight)


def trained_state(name, hparams, net, num=3):
    options, shape = NETS[net]
    method = make(name, hparams, shape=shape, **options).float()
    method.seed = 3
    return train(method, [b._replace(x=b.x.float()) for b in random_batches(num, shape=shape)]).state_dict()


@pytest.mark.parametrize("net", NETS)
def test_without_penalty_it_is_sam_bit_for_bit(net):
    udim = trained_state("udim", {"rho": 0.2, "penalty_weight": 0.0}, net)
    for name, value in trained_state("sam", {"rho": 0.2}, net).items():
        assert torch.equal(udim[name], value), name


@pytest.mark.parametrize("net", NETS)
def test_running_statistics_see_one_clean_pass(net):
    udim, erm = trained_state("udim", {}, net, num=1), trained_state("erm", {}, net, num=1)
    statistics = [name for name in erm if "running" in name or "num_batches" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(udim[name], erm[name]), name


def test_without_a_shift_only_the_size_is_left():
    """In a linear head, the gradient of the cross-entropy in the weight has the norm |p - y| |z|."""
    udim, (batch,) = make("udim"), random_batches(1)
    gap, size = udim.inconsistency(batch, torch.zeros(18, 5, dtype=torch.float64))
    z, outputs = mlp(weights_of(udim), batch.x)
    error = ((outputs.softmax(-1) - torch.eye(4, dtype=torch.float64)[batch.y]) ** 2).sum(-1)
    assert gap.item() == pytest.approx(0, abs=1e-25)
    torch.testing.assert_close(size, (error * (z**2).sum(-1) / (4 * 7) + error / 4).mean(1).sum())
    assert udim.inconsistency(batch, torch.ones(18, 5, dtype=torch.float64))[0] > 1e-6


def test_the_gap_is_symmetric_around_the_same_mean():
    torch.manual_seed(0)
    source, unknown = (torch.randn(2, 6, 5, dtype=torch.float64) * scale for scale in (1, 3))
    source, unknown = source - source.mean(1, keepdim=True), unknown - unknown.mean(1, keepdim=True)
    gap = core.variance_gap(source, unknown)
    torch.testing.assert_close(gap, core.variance_gap(unknown, source))
    torch.testing.assert_close(gap, (source.var(1, correction=0) - unknown.var(1, correction=0)).square().mean(1) / 4)


def test_bad_values_are_refused():
    with pytest.raises(LookupError, match=r"'bach' is not a known form \(algorithm.form\). Did you mean 'batch'"):
        make("udim", {"form": "bach"})
    with pytest.raises(ValueError, match=r"algorithm\.warm_up_ratio=1, expected at least 2, or stage B never begins"):
        make("udim", {"warm_up_ratio": 1})
    with pytest.raises(ValueError, match=r"images \(C, H, W\), got inputs of \(5,\)\. Use form batch or example"):
        make("udim", {"form": "style"})


def test_draws_are_the_published_values():
    drawn, rhos = draw(algorithms["udim"].HParams, 1, 0), [0.01, 0.02, 0.05, 0.1]
    assert (drawn.form, drawn.rho) == ("batch", domainbed_generator("udim_rho").choice(rhos))
    assert drawn.input_step == domainbed_generator("udim_input_step").choice([0.1, 1.0, 10.0])
    assert drawn.penalty_weight == domainbed_generator("udim_lambda").choice([0.1, 0.5, 1.0])
    assert drawn.warm_up_ratio == domainbed_generator("udim_warm_up_ratio").choice([3, 5])
