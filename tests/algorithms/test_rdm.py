import numpy as np
import pytest
import torch

from dgbench.hparams import Optim, draw
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
HPARAMS = {"penalty_weight": 20.0, "variance_weight": 0.7, "final_lr": 0.003}


def kernel(a, b):
    gammas = 10.0 ** torch.arange(-4, 4, dtype=torch.float64)
    return torch.exp(-gammas.view(8, 1, 1) * (a.unsqueeze(1) - b) ** 2).sum(0).mean()


def terms(weights, batch):
    """Nguyen et al. 2024: MMD^2 between the losses of the worst domain and of all; and the sum of their variances."""
    losses = example_losses(mlp(weights, batch.x)[1], batch.y)
    worst, pooled = max(losses, key=lambda domain: domain.mean().item()), losses.flatten()
    distance = kernel(worst, worst) + kernel(pooled, pooled) - 2 * kernel(worst, pooled)
    variance = sum(((one - one.mean()) ** 2).sum() / (len(one) - 1) for one in (worst, pooled))
    return losses.mean(), distance, variance


def rdm_steps(weights, batches, anneal: int, penalty=20.0, variance=0.7, lr=0.003):
    """Adam with learning rate 0.01 on the risk, from step `anneal` on afresh, with `lr`, on all terms."""
    weights = [w.clone().requires_grad_() for w in weights]
    optimizer = Adam(weights)
    for step, batch in enumerate(batches):
        loss, distance, spread = terms(weights, batch)
        if step == anneal:
            optimizer.restart()
            optimizer.lr = lr
        if step >= anneal:
            loss = loss + penalty * distance + variance * spread
        optimizer.step(torch.autograd.grad(loss, weights))
    return weights


@KINDS
@pytest.mark.parametrize("D", [2, 4])
@pytest.mark.parametrize("anneal", [0, 2])
def test_weights_after_four_steps(kind, D, anneal):
    rdm = make("rdm", {**HPARAMS, "anneal_steps": anneal}, kind, D)
    batches, start = random_batches(4, kind, D), weights_of(rdm)
    train(rdm, batches)
    assert_weights(rdm, rdm_steps(start, batches, anneal))
    assert rdm.step == 4
    for change in ({"penalty": 0.0}, {"variance": 0.0}, {"lr": 0.01}):
        assert differs(rdm, rdm_steps(start, batches, anneal, **change))


@KINDS
def test_loss_before_and_after_the_jump(kind):
    rdm, (batch,) = make("rdm", {**HPARAMS, "anneal_steps": 5}, kind), random_batches(1, kind)
    nll, distance, variance = terms(weights_of(rdm), batch)
    for step, loss in ((4, nll), (5, nll + 20 * distance + 0.7 * variance)):
        rdm.set_step(step)
        got = rdm.loss(batch)
        torch.testing.assert_close(got["loss"], loss)
        torch.testing.assert_close((got["penalty"], got["variance"]), (distance, variance))


def test_before_the_jump_it_is_erm():
    rdm, batches = make("rdm", {**HPARAMS, "anneal_steps": 3}), random_batches(3)
    expected = adam_steps(weights_of(rdm), batches, erm_loss)
    assert_weights(train(rdm, batches), expected)


def test_terms_are_numpys():
    rdm, (batch,) = make("rdm", kind="regression", D=2), random_batches(1, "regression", D=2)
    with torch.no_grad():
        losses = rdm.task.losses(rdm.network(batch.x.flatten(0, 1)), batch.y.flatten(0, 1)).numpy()
    worst = max(np.split(losses, 2), key=np.mean)
    got = rdm.loss(batch)
    assert got["worst_nll"].item() == pytest.approx(worst.mean())
    assert got["variance"].item() == pytest.approx(losses.var(ddof=1) + worst.var(ddof=1))
    grids = [np.subtract.outer(a, b) ** 2 for a, b in ((worst, worst), (losses, losses), (worst, losses))]
    within, pooled, across = (sum(np.exp(-(10.0**g) * grid).mean() for g in range(-4, 4)) for grid in grids)
    assert got["penalty"].item() == pytest.approx(within + pooled - 2 * across)


def test_equal_domains_have_one_distribution():
    rdm, (batch,) = make("rdm"), random_batches(1, D=1)
    batch = type(batch)(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in batch[:3]))
    assert rdm.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)


def test_one_domain_keeps_the_variance():
    rdm, batches = make("rdm", {**HPARAMS, "anneal_steps": 1}, D=1), random_batches(3, D=1)
    start = weights_of(rdm)
    assert_weights(train(rdm, batches), rdm_steps(start, batches, 1, penalty=0.0))


def test_order_of_domains_and_examples_does_not_matter():
    rdm, (batch,) = make("rdm", {"anneal_steps": 0}), random_batches(1)
    flipped = type(batch)(*(part.flip(0, 1) for part in batch[:3]))
    torch.testing.assert_close(rdm.loss(batch), rdm.loss(flipped))


def test_one_example_has_no_variance():
    rdm, (batch,) = make("rdm"), random_batches(1, B=1)
    with pytest.raises(ValueError, match=r"RDM needs the variance .* got 1 .*; raise optim.batch_size"):
        rdm.loss(batch)


@pytest.mark.parametrize(
    ("regime", "weight", "steps", "size"),
    [
        ("small", (0.1, 10), (800, 2700), None),
        ("large", (0.1, 10), (800, 2700), (70, 100)),
        ("domain_net", (0.1, 1), (1500, 3000), (30, 60)),
    ],
)
def test_draws_are_domainbeds(regime, weight, steps, size):
    cls = type(make("rdm"))
    drawn, optim = draw(cls.HParams, 1, regime=regime), draw(Optim, 1, regime=regime, overrides=cls.optim_fields)
    assert drawn.penalty_weight == domainbed_generator("rdm_lambda").uniform(*weight)
    assert drawn.anneal_steps == int(domainbed_generator("rdm_penalty_anneal_iters").uniform(*steps))
    assert drawn.final_lr == domainbed_generator("rdm_lr").uniform(8e-6, 2e-5)
    r = domainbed_generator("variance_weight")
    assert drawn.variance_weight == (0 if regime == "domain_net" else r.uniform(0.001, 0.007))
    r = domainbed_generator("batch_size")
    assert optim.batch_size == int(r.uniform(*size) if size else 2 ** r.uniform(3, 9))
