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

core = importlib.import_module("dgbench.algorithms.flatness._perturbation")


def largest_rise(weights, batch, rho, eta):
    """Kwon et al. 2021, with p = 2: `rho * T^2 g / |T g|`, T = |w| + eta of matrices, 1 of biases."""
    grads = torch.autograd.grad(erm_loss(weights, batch), weights)
    T = [w.detach().abs() + eta if w.ndim == 2 else torch.ones_like(w) for w in weights]
    norm = torch.cat([(t * g).flatten() for t, g in zip(T, grads, strict=True)]).norm()
    return [rho * t**2 * g / norm for t, g in zip(T, grads, strict=True)]


def asam_steps(weights, batches, rho, eta):
    weights = [w.clone().requires_grad_() for w in weights]
    adam = Adam(weights)
    for batch in batches:
        moves = largest_rise(weights, batch, rho, eta)
        nearby = [(w + move).detach().requires_grad_() for w, move in zip(weights, moves, strict=True)]
        adam.step(torch.autograd.grad(erm_loss(nearby, batch), nearby))
    return weights


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind, D, depth):
    asam, batches = make("asam", {"rho": 0.8, "eta": 0.05}, kind, D, depth=depth), random_batches(3, kind, D)
    start = weights_of(asam)
    assert_weights(train(asam, batches), asam_steps(start, batches, 0.8, 0.05))
    assert asam.step == 3
    assert differs(asam, asam_steps(start, batches, 0.8, 0.0))
    assert differs(asam, adam_steps(start, batches, erm_loss))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_rho_zero_is_erm_bit_for_bit(norm):
    pair = []
    for name, hparams in (("asam", {"rho": 0.0}), ("erm", {})):
        method = make(name, hparams, norm=norm, dropout=0.5).float()
        method.seed = 3
        batches = [b._replace(x=b.x.float()) for b in random_batches(3)]
        pair.append(train(method, batches).state_dict())
    for name, value in pair[1].items():
        assert torch.equal(pair[0][name], value), name


def risen(asam, batch):
    """The loss at the perturbed weights."""
    weights = asam.trainable()
    grads = core.gradients(asam.loss(batch)["loss"], weights)
    with core.perturbed(weights, asam.perturbation(grads)):
        return asam.loss(batch)["loss"].detach()


@pytest.mark.parametrize("c", [0.1, 7.0])
def test_rescaling_two_relu_layers_changes_nothing(c):
    """The network is the same function, and with eta = 0 its neighbourhood holds the same functions."""
    (batch,) = random_batches(1)
    values = []
    for factor in (1.0, c):
        asam, sam = make("asam", {"rho": 0.3, "eta": 0.0}), make("sam")
        for method in (asam, sam):
            with torch.no_grad():
                for name, parameter in method.named_parameters():
                    if name.endswith("bias"):
                        parameter.zero_().requires_grad_(False)
                    else:
                        parameter.mul_(1 / factor if "head" in name else factor)
        weights = sam.trainable()
        grads = core.gradients(sam.loss(batch)["loss"], weights)
        with core.perturbed(weights, core.ascent(grads, 0.3)):
            values.append((asam.loss(batch)["loss"].detach(), risen(asam, batch), sam.loss(batch)["loss"].detach()))
    (here, nearby, sams), (scaled_here, scaled_nearby, scaled_sams) = values
    torch.testing.assert_close(here, scaled_here)
    torch.testing.assert_close(nearby, scaled_nearby)
    assert nearby > here + 0.01
    assert (sams - scaled_sams).abs() > 0.01


def test_no_direction_of_that_length_rises_more():
    """To first order: `g @ move` is largest on the sphere `|move / T| = rho`, where it is `rho * |T g|`."""
    torch.manual_seed(0)
    g, T = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.1
    (move,) = core.adaptive_ascent([g], [T], rho=0.7)
    torch.testing.assert_close((move / T).norm(), torch.tensor(0.7, dtype=torch.float64))
    other = torch.randn(1000, 5, dtype=torch.float64)
    other = 0.7 * T * other / other.norm(dim=1, keepdim=True)
    assert (other @ g).max() <= g @ move
    torch.testing.assert_close(g @ move, 0.7 * (T * g).norm())


def test_unit_scales_are_sam():
    grads = [torch.randn(3, 2), None, torch.randn(4)]
    scales = [torch.ones(3, 2), torch.ones(1), torch.ones(4)]
    for got, expected in zip(core.adaptive_ascent(grads, scales, 0.3), core.ascent(grads, 0.3), strict=True):
        assert got is expected is None or torch.equal(got, expected)
