import contextlib
import importlib
from typing import Any

import pytest
import torch

from dgbench.hparams import draw
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    domainbed_generator,
    erm_loss,
    make,
    random_batches,
    train,
    weights_of,
)

core = importlib.import_module("dgbench.algorithms.flatness._perturbation")
NETS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"norm": "batch", "dropout": 0.5}, (5,)),
    "cnn": ({"name": "small_cnn", "width": 8, "norm": "instance_aware", "dropout": 0.5}, (3, 8, 8)),
    "resnet": ({"name": "small_resnet", "width": 8}, (3, 16, 16)),
}


def sam_steps(weights, batches, rho):
    """Foret et al. 2021, algorithm 1 with eqs. 2 and 3, p = 2."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights)
    for batch in batches:
        grads = torch.autograd.grad(erm_loss(weights, batch), weights)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        nearby = [(w + rho * g / norm).detach().requires_grad_() for w, g in zip(weights, grads, strict=True)]
        adam.step(torch.autograd.grad(erm_loss(nearby, batch), nearby))
    return weights


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind, depth):
    sam, batches = make("sam", {"rho": 0.3}, kind, depth=depth), random_batches(3, kind)
    start = weights_of(sam)
    assert_weights(train(sam, batches), sam_steps(start, batches, 0.3))
    assert sam.step == 3
    assert differs(sam, adam_steps(start, batches, erm_loss))


@pytest.mark.parametrize("net", NETS)
def test_rho_zero_is_erm_bit_for_bit(net):
    options, shape = NETS[net]
    pair = []
    for name, hparams in (("sam", {"rho": 0.0}), ("erm", {})):
        method = make(name, hparams, shape=shape, **options).float()
        method.seed = 3
        batches = [b._replace(x=b.x.float()) for b in random_batches(3, shape=shape)]
        pair.append(train(method, batches).state_dict())
    for name, value in pair[1].items():
        assert torch.equal(pair[0][name], value), name


@pytest.mark.parametrize("net", NETS)
def test_only_the_first_pass_moves_running_statistics(net):
    options, shape = NETS[net]
    batches, buffers = random_batches(1, shape=shape), []
    for name, hparams in (("sam", {"rho": 0.5}), ("erm", {})):
        method = make(name, hparams, shape=shape, **options)
        method.seed = 3
        buffers.append(dict(train(method, batches).named_buffers()))
    assert any("running" in name for name in buffers[0])
    for name, value in buffers[1].items():
        assert torch.equal(buffers[0][name], value), name


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_bit_for_bit(fails):
    torch.manual_seed(0)
    weights = [torch.randn(50) * 10.0**e for e in range(-20, 20)]
    before = [w.clone() for w in weights]
    with contextlib.suppress(ZeroDivisionError), core.perturbed(weights, [torch.randn(50) for _ in weights]):
        assert not any(torch.equal(w, b) for w, b in zip(weights[:30], before, strict=False))
        if fails:
            raise ZeroDivisionError
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_gradient_of_a_quadratic():
    """For L = w'Aw / 2, the gradient at the perturbed weights is Aw + rho * A Aw / |Aw|."""
    torch.manual_seed(0)
    A = torch.randn(4, 4, dtype=torch.float64)
    A, w = A @ A.T, torch.randn(4, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(1, requires_grad=True)
    grads = core.gradients(w @ A @ w / 2, [w, unused])
    with core.perturbed([w, unused], core.ascent(grads, rho=0.2)):
        sharp = core.gradients(w @ A @ w / 2, [w, unused])
    Aw = A @ w.detach()
    torch.testing.assert_close(sharp[0], Aw + 0.2 * A @ Aw / Aw.norm())
    assert sharp[1] is None
    assert torch.equal(unused, torch.ones(1))


def test_perturbation_reaches_the_second_pass_under_autocast():
    sam, (batch,) = make("sam").float(), random_batches(1)
    weights, x = sam.trainable(), batch.x[0].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = sam.network(x)
        with core.perturbed(weights, [torch.ones_like(w) for w in weights]):
            assert not torch.equal(sam.network(x), before)
        assert torch.equal(sam.network(x), before)


def test_draw_is_the_published_grid():
    drawn = draw(type(make("sam")).HParams, 1, 0)
    assert drawn.rho == domainbed_generator("rho").choice([0.01, 0.02, 0.05, 0.1])
