import math
import statistics

import pytest
import torch

from dgbench.hparams import draw
from tests.algorithms.gradient_reference import freeze_first_layer, masked_steps, sign
from tests.algorithms.reference import (
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


def sand_mask(tau: float, k: float):
    """Shahtalebi et al. 2021, in DomainBed's form: max(0, tanh(k / variance * (|mean sign| - tau)))."""

    def mask(column):
        excess = abs(sum(map(sign, column))) / len(column) - tau
        variance = statistics.variance(column)
        return max(0.0, math.tanh(k * excess / variance)) if variance else float(excess > 0)

    return mask


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind):
    k = 1e-3 if kind == "classification" else 1e-2
    method, batches = make("sand_mask", {"tau": 0.3, "k": k}, kind), random_batches(3, kind)
    start = weights_of(method)
    torch.testing.assert_close(method.loss(batches[0])["loss"], erm_loss(start, batches[0]))
    assert_weights(train(method, batches), masked_steps(start, batches, sand_mask(0.3, k)))
    assert method.step == 3
    assert differs(method, adam_steps(start, batches, erm_loss))
    assert differs(method, masked_steps(start, batches, sand_mask(0.3, 1e9)))
    assert differs(method, masked_steps(start, batches, sand_mask(0.7, k)))


def test_by_hand():
    mask = make("sand_mask", {"tau": 0.5, "k": 2.0}).mask
    grads = torch.tensor([[1.0, 1.0, 2.0, 0.0], [2.0, -1.0, 2.0, 0.0], [3.0, 5.0, 2.0, 0.0]])
    # The signs agree by 1, 1/3, 1 and 0; the variances are 1, 28/3, 0 and 0.
    torch.testing.assert_close(mask(grads), torch.tensor([math.tanh(2.0 * 0.5), 0.0, 1.0, 0.0]))


def test_the_default_trains_where_more_than_half_agree():
    method, batches = make("sand_mask"), random_batches(3)
    start = weights_of(method)
    train(method, batches)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(weights_of(method), start, strict=True))
    assert_weights(method, masked_steps(start, batches, sand_mask(0.5, 10.0)))


@pytest.mark.parametrize("tau", [0.0, 1 / 3])
@pytest.mark.parametrize("k", [1e-3, 1e5])
def test_vanishing_variance_and_ties_give_numbers(tau, k):
    mask = make("sand_mask", {"tau": tau, "k": k}).mask
    grads = torch.tensor([[0.0, 1.0, 1e-30, 1.0], [0.0, 1.0, 2e-30, 1.0], [0.0, 1.0, 1e-30, -1.0]])
    assert mask(grads)[:3].tolist() == [0, 1, 1]
    assert 0 <= mask(grads)[3] <= 1


@pytest.mark.parametrize("equal", [True, False], ids=["equal domains", "one domain"])
def test_what_does_not_vary_is_erm(equal):
    # Without a hidden layer no gradient of one domain is exactly zero.
    D = 3 if equal else 1
    method, batches = make("sand_mask", D=D, depth=0), random_batches(3, D=1)
    batches = [type(b)(*(part.repeat(D, *[1] * (part.ndim - 1)) for part in b[:3])) for b in batches]
    expected = adam_steps(weights_of(method), batches, erm_loss)
    assert_weights(train(method, batches), expected)


def test_a_frozen_layer_stays():
    method, batches = freeze_first_layer(make("sand_mask", {"tau": 0.3, "k": 0.01})), random_batches(3)
    expected = masked_steps(weights_of(method), batches, sand_mask(0.3, 0.01), frozen=2)
    assert_weights(train(method, batches), expected)


@pytest.mark.parametrize("tau", [-0.1, 1.0, float("nan")])
def test_a_threshold_that_nothing_exceeds_is_refused(tau):
    with pytest.raises(ValueError, match=rf"tau={tau}, expected at least 0 and less than 1: no agreement exceeds 1"):
        make("sand_mask", {"tau": tau})


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan")])
def test_a_steepness_of_zero_is_refused(k):
    with pytest.raises(ValueError, match=rf"k={k}, expected more than 0"):
        make("sand_mask", {"k": k})


def test_draws_are_domainbeds():
    drawn = draw(type(make("sand_mask")).HParams, 1, 0)
    assert drawn.tau == domainbed_generator("tau").uniform(0, 1)
    assert drawn.k == 10 ** domainbed_generator("k").uniform(-3, 5)
