from importlib import import_module

import numpy as np
import pytest
import torch

from dgbench.hparams import draw
from tests.algorithms.reference import (
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

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
mean_variance = import_module("dgbench.algorithms.risk._bottleneck").mean_variance


def variance(features):
    """Squared deviations from the domain's mean over B - 1, averaged; features (D, B, F)."""
    squares = [((own - own.sum(0) / len(own)) ** 2).sum(0) / (len(own) - 1) for own in features]
    return sum(each.sum() / len(each) for each in squares) / len(squares)


def objective(weight: float, anneal: int):
    """Ahuja et al. 2021, the risk and the variance of the features; no variance before the jump."""

    def loss(weights, batch, step):
        risk = erm_loss(weights, batch)
        return risk + weight * variance(mlp(weights, batch.x)[0]) if step >= anneal else risk

    return loss


@KINDS
@pytest.mark.parametrize("anneal", [0, 2, 9])
def test_weights_after_four_steps(kind, anneal):
    ib = make("ib_erm", {"penalty_weight": 3.0, "anneal_steps": anneal}, kind)
    batches, start = random_batches(4, kind), weights_of(ib)
    torch.testing.assert_close(ib.loss(batches[0])["loss"], objective(3.0, anneal)(start, batches[0], 0))
    train(ib, batches)
    assert_weights(ib, adam_steps(start, batches, objective(3.0, anneal), restart_at=anneal))
    assert ib.step == 4
    assert differs(ib, adam_steps(start, batches, erm_loss)) == (anneal < 4)
    assert differs(ib, adam_steps(start, batches, objective(3.0, anneal))) == (anneal == 2)


@pytest.mark.parametrize("D", [1, 3])
def test_without_penalty_it_is_erm(D):
    ib, batches = make("ib_erm", {"penalty_weight": 0.0, "anneal_steps": 0}, D=D), random_batches(3, D=D)
    expected = adam_steps(weights_of(ib), batches, erm_loss)
    assert_weights(train(ib, batches), expected)


def test_variance_is_that_of_numpy():
    features = np.random.default_rng(0).normal(size=(3, 6, 5))
    expected = features.var(1, ddof=1).mean()
    assert mean_variance(torch.tensor(features)).item() == pytest.approx(expected)
    assert mean_variance(100 + 2 * torch.tensor(features)).item() == pytest.approx(4 * expected)


def test_only_differences_within_a_domain_count():
    ib, (batch,) = make("ib_erm"), random_batches(1)
    batch = batch._replace(x=batch.x[:, :1].repeat(1, 6, 1))
    assert ib.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-20)
    flipped = batch._replace(x=batch.x.flip(0, 1), y=batch.y.flip(0, 1))
    torch.testing.assert_close(ib.loss(batch), ib.loss(flipped))


def test_one_example_has_no_variance():
    ib, (batch,) = make("ib_erm"), random_batches(1, B=1)
    with pytest.raises(ValueError, match=r"at least 2 examples of each domain, got 1; raise optim\.batch_size"):
        ib.loss(batch)


def test_draws_are_domainbeds():
    drawn = draw(type(make("ib_erm")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("ib_lambda").uniform(-1, 5)
    assert drawn.anneal_steps == int(10 ** domainbed_generator("ib_penalty_anneal_iters").uniform(0, 4))
