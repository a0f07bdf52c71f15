import math
from importlib import import_module
from itertools import combinations

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
kernels = import_module("dgbench.algorithms.alignment._kernels")


def kernel(a, b):
    squares = ((a.unsqueeze(1) - b) ** 2).sum(-1)
    gammas = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)
    return torch.exp(-gammas.view(7, 1, 1) * squares).sum(0).mean()


def penalty(features):
    """Gretton et al. 2012, the biased estimate, over all pairs; features (D, B, F)."""
    pairs = list(combinations(features, 2))
    return sum(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in pairs) / len(pairs)


def objective(gamma: float):
    return lambda weights, batch, step: erm_loss(weights, batch) + gamma * penalty(mlp(weights, batch.x)[0])


@KINDS
@pytest.mark.parametrize("D", [2, 4])
def test_weights_after_three_steps(kind, D):
    mmd = make("mmd", {"penalty_weight": 3.0}, kind, D)
    batches, start = random_batches(3, kind, D), weights_of(mmd)
    torch.testing.assert_close(mmd.loss(batches[0])["loss"], objective(3.0)(start, batches[0], 0))
    assert_weights(train(mmd, batches), adam_steps(start, batches, objective(3.0)))
    assert mmd.step == 3
    assert differs(mmd, adam_steps(start, batches, objective(0.0)))


def test_without_penalty_it_is_erm():
    mmd, batches = make("mmd", {"penalty_weight": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(mmd), batches, erm_loss)
    assert_weights(train(mmd, batches), expected)


def test_by_hand():
    x, y = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
    expected = (2 + 2 * math.exp(-0.5)) / 4 + 1 - 2 * (math.exp(-0.5 * 9) + math.exp(-0.5 * 4)) / 2
    assert kernels.mmd(x, y, [0.5]).item() == pytest.approx(expected)


def test_pairs_are_those_of_two_samples():
    samples = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = [kernels.mmd(a, b) for a, b in combinations(samples, 2)]
    torch.testing.assert_close(kernels.mean_pairwise_mmd(samples), torch.stack(pairs).mean())
    torch.testing.assert_close(kernels.mean_pairwise_mmd(samples), penalty(samples))
    apart = kernels.mmd(samples[0], samples[1, :3] + 100)
    torch.testing.assert_close(apart, kernel(samples[0], samples[0]) + kernel(*[samples[1, :3]] * 2), atol=1e-4, rtol=0)


def test_equal_domains_cost_nothing():
    mmd, (batch,) = make("mmd"), random_batches(1, D=1)
    batch = type(batch)(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in batch[:3]))
    assert mmd.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)


def test_order_of_examples_and_domains_does_not_matter():
    mmd, (batch,) = make("mmd"), random_batches(1)
    flipped = type(batch)(*(part.flip(0, 1) for part in batch[:3]))
    torch.testing.assert_close(mmd.loss(batch), mmd.loss(flipped))


def test_one_example_of_each_domain_is_enough():
    mmd, batches = make("mmd"), random_batches(1, B=1)
    start = weights_of(mmd)
    assert_weights(train(mmd, batches), adam_steps(start, batches, objective(1.0)))


def test_far_from_the_origin_and_in_half_precision():
    x = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0)) / 16 + 100
    expected = penalty(x.double()).float()
    torch.testing.assert_close(kernels.mean_pairwise_mmd(x), expected, rtol=1e-3, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(kernels.mean_pairwise_mmd(x), expected, rtol=1e-3, atol=0)


def test_distances_have_a_floor():
    assert kernels.squared_distances(torch.ones(1, 2), torch.ones(1, 2)).item() == pytest.approx(1e-30, rel=1e-6, abs=0)


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="MMD needs at least 2 training domains, got 1"):
        make("mmd", D=1)


def test_draw_is_domainbeds():
    drawn = draw(type(make("mmd")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("mmd_gamma").uniform(-1, 1)
