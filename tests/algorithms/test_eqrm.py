import math
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from dgbench.hparams import draw
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
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
LEVELS = [0.02, 0.5, 0.75, 0.99]
kde = import_module("dgbench.algorithms.risk._quantile")


def samples(D, seed=0):
    return torch.tensor(np.random.default_rng(seed).gamma(2.0, size=D))


def scipy_kde(values):
    return stats.gaussian_kde(values, bw_method=1.06 * len(values) ** -0.2)


def scipy_quantile(values, level):
    """The root of the distribution function, found by Brent's method."""
    density, reach = scipy_kde(values), 20 * np.std(values, ddof=1)
    gap = lambda t: density.integrate_box_1d(-np.inf, t) - level  # noqa: E731
    return optimize.brentq(gap, values.min() - reach, values.max() + reach, xtol=1e-14, rtol=1e-14)


def risk_quantile(risks, alpha):
    """Eastwood et al. 2022, the KDE's quantile; its share of the way between the outermost kernels' is constant."""
    spread = ((risks - risks.sum() / len(risks)) ** 2).sum() / (len(risks) - 1)
    width = 1.06 * spread.sqrt() * len(risks) ** -0.2
    if alpha < 0:
        return (risks + width * math.sqrt(-2 * alpha)).sum() / len(risks)
    ordered = risks.sort().values
    ends = [end + width * stats.norm.ppf(alpha) for end in (ordered[0], ordered[-1])]
    low, high = (end.item() for end in ends)
    share = (scipy_quantile(risks.detach().numpy(), alpha) - low) / (high - low)
    return (1 - share) * ends[0] + share * ends[1]


def expected_weights(start, batches, alpha, burn_in, final_lr, restarts=True):
    weights = [w.clone().requires_grad_() for w in start]
    adam = Adam(weights)
    for step, batch in enumerate(batches):
        if step == burn_in:
            adam.lr = final_lr
            if restarts:
                adam.restart()
        risks = example_losses(mlp(weights, batch.x)[1], batch.y).mean(1)
        loss = risk_quantile(risks, alpha) if step >= burn_in else risks.sum() / len(risks)
        adam.step(torch.autograd.grad(loss, weights))
    return weights


@KINDS
@pytest.mark.parametrize("D", [2, 5])
@pytest.mark.parametrize("alpha", [0.9, -50.0])
@pytest.mark.parametrize("burn_in", [0, 2])
def test_weights_after_four_steps(kind, D, alpha, burn_in):
    eqrm = make("eqrm", {"quantile": alpha, "burn_in_steps": burn_in, "final_lr": 0.02}, kind, D)
    batches, start = random_batches(4, kind, D), weights_of(eqrm)
    train(eqrm, batches)
    assert_weights(eqrm, expected_weights(start, batches, alpha, burn_in, 0.02))
    assert eqrm.step == 4
    assert eqrm.optimizers(use_pl_optimizer=False).param_groups[0]["lr"] == 0.02
    assert differs(eqrm, expected_weights(start, batches, 0.5, burn_in, 0.02))
    assert differs(eqrm, expected_weights(start, batches, alpha, burn_in, 0.01))
    assert differs(eqrm, expected_weights(start, batches, alpha, burn_in, 0.02, restarts=False)) == (burn_in == 2)


@KINDS
def test_burn_in_is_erm(kind):
    eqrm, batches = make("eqrm", {"burn_in_steps": 3}, kind), random_batches(3, kind)
    expected = adam_steps(weights_of(eqrm), batches, erm_loss)
    assert_weights(train(eqrm, batches), expected)


@pytest.mark.parametrize("D", [2, 5, 40])
def test_density_is_scipys(D):
    values = samples(D)
    width, points = kde.bandwidth(values), torch.linspace(-3, 9, 13, dtype=torch.float64)
    assert width.item() == pytest.approx(scipy_kde(values.numpy()).covariance[0, 0] ** 0.5)
    expected = [scipy_kde(values.numpy()).integrate_box_1d(-np.inf, float(t)) for t in points]
    np.testing.assert_allclose(kde.cdf(points, values, width).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("D", [2, 5, 40])
@pytest.mark.parametrize("level", LEVELS)
def test_quantile_is_scipys(D, level):
    values = samples(D)
    expected = scipy_quantile(values.numpy(), level)
    assert kde.quantile(values, level).item() == pytest.approx(expected, abs=1e-8)
    assert kde.quantile(values.float(), level).item() == pytest.approx(expected, abs=1e-5)
    assert kde.quantile(values.flip(0) * 3 + 7, level).item() == pytest.approx(3 * expected + 7, abs=1e-8)


def test_by_hand():
    values = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    width = 1.06 * 0.5 * 4**-0.2
    share = (3 * stats.norm.cdf(0.2 / width) + stats.norm.cdf(-0.8 / width)) / 4
    assert kde.quantile(values, share).item() == pytest.approx(0.2, abs=1e-8)
    assert kde.far_quantile(values, -8.0).item() == pytest.approx(0.25 + 4 * width)


def test_gradient_is_that_of_the_ends_and_the_bandwidth():
    values = samples(5).requires_grad_()
    (got,) = torch.autograd.grad(kde.quantile(values, 0.9), values)
    (expected,) = torch.autograd.grad(risk_quantile(values, 0.9), values)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)
    assert got.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.9, -50.0])
def test_equal_risks_are_their_own_quantile(dtype, alpha):
    values = torch.full((4,), 0.7, dtype=dtype, requires_grad=True)
    found = kde.quantile(values, alpha) if alpha > 0 else kde.far_quantile(values, alpha)
    assert found.item() == pytest.approx(0.7, abs=1e-4)
    (gradient,) = torch.autograd.grad(found, values)
    torch.testing.assert_close(gradient, torch.full_like(values, 0.25))


def test_nan_goes_through():
    assert kde.quantile(torch.tensor([0.1, math.nan, 0.3]), 0.9).isnan()


def test_order_of_domains_does_not_matter():
    eqrm, (batch,) = make("eqrm", {"burn_in_steps": 0}), random_batches(1)
    flipped = type(batch)(*(part.flip(0) for part in batch[:3]))
    torch.testing.assert_close(eqrm.loss(batch), eqrm.loss(flipped))


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="EQRM needs at least 2 training domains, got 1"):
        make("eqrm", D=1)
    with pytest.raises(ValueError, match=r"at least 2 domains in a batch, got 1; use protocol\.sampling=balanced"):
        kde.bandwidth(torch.ones(1))


@pytest.mark.parametrize("quantile", [0.0, 1.0, 1.5, math.nan])
def test_quantiles_that_are_none_are_refused(quantile):
    with pytest.raises(ValueError, match=rf"quantile={quantile}, expected a probability between 0 and 1.*log"):
        make("eqrm", {"quantile": quantile})


def test_draws_are_domainbeds_with_a_whole_burn_in():
    drawn = draw(type(make("eqrm")).HParams, 1, 0)
    assert drawn.quantile == domainbed_generator("eqrm_quantile").uniform(0.5, 0.99)
    assert drawn.burn_in_steps == int(10 ** domainbed_generator("eqrm_burnin_iters").uniform(2.5, 3.5))
    assert drawn.final_lr == 10 ** domainbed_generator("eqrm_lr").uniform(-7, -5)
