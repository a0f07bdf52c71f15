import importlib

import pytest
import torch

from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    make,
    random_batches,
    train,
    weights_of,
)

gsam_module = importlib.import_module("dgbench.algorithms.flatness.gsam")


def gsam_steps(weights, batches, rho, alpha):
    """Zhuang et al. 2022, algorithm 1, with a constant radius."""
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights)
    for batch in batches:
        grads = torch.autograd.grad(erm_loss(weights, batch), weights)
        g = torch.cat([part.flatten() for part in grads])
        nearby = [(w + rho * part / g.norm()).detach().requires_grad_() for w, part in zip(weights, grads, strict=True)]
        g_p = torch.cat([part.flatten() for part in torch.autograd.grad(erm_loss(nearby, batch), nearby)])
        cosine = g @ g_p / (g.norm() * g_p.norm())
        orthogonal = g - cosine * g.norm() * g_p / g_p.norm()
        direction = (g_p - alpha * orthogonal).split([w.numel() for w in weights])
        adam.step([part.view_as(w) for part, w in zip(direction, weights, strict=True)])
    return weights


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind, D, depth):
    gsam, batches = make("gsam", {"rho": 0.3, "alpha": 0.6}, kind, D, depth=depth), random_batches(3, kind, D)
    start = weights_of(gsam)
    assert_weights(train(gsam, batches), gsam_steps(start, batches, 0.3, 0.6))
    assert gsam.step == 3
    assert differs(gsam, gsam_steps(start, batches, 0.3, 0.0))
    assert differs(gsam, adam_steps(start, batches, erm_loss))


@pytest.mark.parametrize(("other", "hparams"), [("sam", {"rho": 0.2, "alpha": 0.0}), ("erm", {"rho": 0.0})])
def test_limits_bit_for_bit(other, hparams):
    pair = []
    shared = {"rho": 0.2} if other == "sam" else {}
    for name, values in (("gsam", {"alpha": 0.0, **hparams}), (other, shared)):
        method = make(name, values, norm="batch", dropout=0.5).float()
        method.seed = 3
        batches = [b._replace(x=b.x.float()) for b in random_batches(3)]
        pair.append(train(method, batches).state_dict())
    for name, value in pair[1].items():
        assert torch.equal(pair[0][name], value), name


def test_what_is_taken_off_is_orthogonal_to_the_perturbed_gradient():
    torch.manual_seed(0)
    shapes = [(3, 2), (4,), (1,)]
    grads, nearby = ([torch.randn(shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    made = gsam_module.decomposed([*grads, None], [*nearby, None], alpha=0.4)
    assert made.pop() is None
    off = torch.cat([(g_p - m).flatten() for g_p, m in zip(nearby, made, strict=True)]) / 0.4
    g, g_p = (torch.cat([part.flatten() for part in parts]) for parts in (grads, nearby))
    torch.testing.assert_close(off @ g_p, torch.zeros((), dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(g - off, (g @ g_p) / (g_p @ g_p) * g_p)
    torch.testing.assert_close(off @ g, off @ off)


def test_parallel_or_vanished_gradients_leave_the_perturbed_one():
    g_p = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(gsam_module.decomposed([3 * g_p], [g_p], alpha=0.9)[0], g_p)
    zero = torch.zeros(5)
    assert torch.equal(gsam_module.decomposed([zero], [zero], alpha=0.9)[0], zero)
