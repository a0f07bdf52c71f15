from itertools import combinations

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


def penalty(features):
    """Sun and Saenko 2016, eq. 1, over all pairs, with means, averaged over entries; features (D, B, F)."""
    total, pairs = 0.0, list(combinations(features, 2))
    for a, b in pairs:
        centred_a, centred_b = a - a.mean(0), b - b.mean(0)
        gap = centred_a.T @ centred_a / (len(a) - 1) - centred_b.T @ centred_b / (len(b) - 1)
        total = total + ((a.mean(0) - b.mean(0)) ** 2).mean() + (gap**2).mean()
    return total / len(pairs)


def objective(gamma: float):
    return lambda weights, batch, step: erm_loss(weights, batch) + gamma * penalty(mlp(weights, batch.x)[0])


@KINDS
@pytest.mark.parametrize("D", [2, 4])
def test_weights_after_three_steps(kind, D):
    coral = make("coral", {"penalty_weight": 3.0}, kind, D)
    batches, start = random_batches(3, kind, D), weights_of(coral)
    torch.testing.assert_close(coral.loss(batches[0])["loss"], objective(3.0)(start, batches[0], 0))
    assert_weights(train(coral, batches), adam_steps(start, batches, objective(3.0)))
    assert coral.step == 3
    assert differs(coral, adam_steps(start, batches, objective(0.0)))


def test_without_penalty_it_is_erm():
    coral, batches = make("coral", {"penalty_weight": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(coral), batches, erm_loss)
    assert_weights(train(coral, batches), expected)


def test_covariance_is_numpys():
    coral, (batch,) = make("coral", depth=0), random_batches(1, D=2)
    (a, b) = batch.x.numpy()
    expected = ((a.mean(0) - b.mean(0)) ** 2).mean() + ((np.cov(a.T) - np.cov(b.T)) ** 2).mean()
    assert coral.loss(batch)["penalty"].item() == pytest.approx(expected)


def test_equal_domains_cost_nothing():
    coral, (batch,) = make("coral"), random_batches(1, D=1)
    batch = type(batch)(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in batch[:3]))
    assert coral.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)


def test_order_of_examples_and_domains_does_not_matter():
    coral, (batch,) = make("coral"), random_batches(1)
    flipped = type(batch)(*(part.flip(0, 1) for part in batch[:3]))
    torch.testing.assert_close(coral.loss(batch), coral.loss(flipped))


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="CORAL needs at least 2 training domains, got 1"):
        make("coral", D=1)


def test_one_example_has_no_covariance():
    coral, (batch,) = make("coral"), random_batches(1, B=1)
    with pytest.raises(ValueError, match=r"at least 2 examples.*got 1"):
        coral.loss(batch)


def test_draw_is_domainbeds():
    drawn = draw(type(make("coral")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("mmd_gamma").uniform(-1, 1)
