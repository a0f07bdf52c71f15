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

sagm_module = importlib.import_module("dgbench.algorithms.flatness.sagm")


def sagm_steps(weights, batches, rho, alpha):
    """Wang et al. 2023, the authors' update: half the gradient at w, half at w + (rho / |g| - alpha) * g."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights)
    for batch in batches:
        grads = torch.autograd.grad(erm_loss(weights, batch), weights)
        scale = rho / torch.cat([g.flatten() for g in grads]).norm() - alpha
        moved = [(w + scale * g).detach().requires_grad_() for w, g in zip(weights, grads, strict=True)]
        nearby = torch.autograd.grad(erm_loss(moved, batch), moved)
        adam.step([0.5 * g + 0.5 * g_p for g, g_p in zip(grads, nearby, strict=True)])
    return weights


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind, D, depth):
    sagm, batches = make("sagm", {"rho": 0.3, "alpha": 0.2}, kind, D, depth=depth), random_batches(3, kind, D)
    start = weights_of(sagm)
    assert_weights(train(sagm, batches), sagm_steps(start, batches, 0.3, 0.2))
    assert sagm.step == 3
    assert differs(sagm, sagm_steps(start, batches, 0.3, 0.0))
    assert differs(sagm, sagm_steps(start, batches, 0.0, 0.2))
    assert differs(sagm, adam_steps(start, batches, erm_loss))


def test_without_both_steps_it_is_erm_bit_for_bit():
    pair = []
    for name, hparams in (("sagm", {"rho": 0.0, "alpha": 0.0}), ("erm", {})):
        method = make(name, hparams, norm="batch", dropout=0.5).float()
        method.seed = 3
        batches = [b._replace(x=b.x.float()) for b in random_batches(3)]
        pair.append(train(method, batches).state_dict())
    for name, value in pair[1].items():
        assert torch.equal(pair[0][name], value), name


def test_without_alpha_it_is_the_mean_of_erm_and_sam():
    sagm: Any = make("sagm", {"alpha": 0.0, "rho": 0.2})
    sam: Any = make("sam", {"rho": 0.2})
    grads: list[Any] = [torch.randn(3), None, torch.randn(2, 2)]
    nearby: list[Any] = [torch.randn(3), None, torch.randn(2, 2)]
    for ours, theirs in zip(sagm.perturbation(grads), sam.perturbation(grads), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    for mean, g, g_p in zip(sagm.descent(grads, nearby), grads, sam.descent(grads, nearby), strict=True):
        assert (mean is None and g is None) or torch.equal(mean, torch.stack([g, g_p]).mean(0))


def test_gradient_of_a_quadratic():
    """For L = w'Aw / 2 and s = rho / |Aw| - alpha, the mean of Aw and A(w + s Aw) is Aw + s A Aw / 2."""
    torch.manual_seed(0)
    A = torch.randn(4, 4, dtype=torch.float64)
    A, w = A @ A.T, torch.randn(4, dtype=torch.float64)
    sagm: Any = make("sagm", {"rho": 0.2, "alpha": 0.1})
    g = A @ w
    (move,) = sagm.perturbation([g])
    (made,) = sagm.descent([g], [A @ (w + move)])
    torch.testing.assert_close(made, g + (0.2 / g.norm() - 0.1) * A @ g / 2)


def test_draws_are_the_published_grids():
    drawn = draw(sagm_module.HParams, 1, 0)
    assert drawn.rho == domainbed_generator("sagm_rho").choice([0.01, 0.02, 0.05, 0.1])
    assert drawn.alpha == domainbed_generator("sagm_alpha").choice([0.0005, 0.001])
