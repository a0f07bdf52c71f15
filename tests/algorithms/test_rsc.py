import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithm import build_algorithm
from dgbench.hparams import draw
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.reference import (
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

NONE = {"feature_share": 0.0, "batch_share": 0.0}


def masks(features, y, W, b, feature_share, batch_share):
    """Huang et al. 2020, as DomainBed cuts the gradients: strictly below numpy's percentile."""
    features = features.detach().requires_grad_()
    outputs = features @ W.T + b
    rows = np.arange(len(y))
    (gradients,) = torch.autograd.grad(outputs[rows, y].sum(), features)
    g, z, y = gradients.numpy(), features.detach().numpy(), y.numpy()
    kept = g < np.percentile(g, (1 - feature_share) * 100, axis=1)[:, None]

    def probability(z):
        odds = np.exp(z @ W.detach().numpy().T + b.detach().numpy())
        return odds[rows, y] / odds.sum(1)

    change = probability(z) - probability(z * kept)
    spared = change < np.percentile(change, (1 - batch_share) * 100)
    return kept, spared


def objective(feature_share: float, batch_share: float):
    def loss(weights, batch, step):
        features, y = mlp(weights, batch.x.flatten(0, 1))[0], batch.y.flatten()
        kept, spared = masks(features, y, weights[-2], weights[-1], feature_share, batch_share)
        features = features * torch.tensor(kept | spared[:, None])
        return example_losses(features @ weights[-2].T + weights[-1], y).mean()

    return loss


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3), (0.5, 0.2), (0.0, 0.0), (1.0, 1.0)])
def test_weights_after_three_steps(shares, D):
    hparams = dict(zip(("feature_share", "batch_share"), shares, strict=True))
    rsc, batches = make("rsc", hparams, D=D, width=9), random_batches(3, D=D)
    start = weights_of(rsc)
    torch.testing.assert_close(rsc.loss(batches[0])["loss"], objective(*shares)(start, batches[0], 0))
    assert_weights(train(rsc, batches), adam_steps(start, batches, objective(*shares)))
    assert rsc.step == 3
    if shares[1]:
        assert differs(rsc, adam_steps(start, batches, erm_loss))
        assert differs(rsc, adam_steps(start, batches, objective(shares[0], 1.0))) == (shares[1] < 1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.75, 2 / 3, 0.9, 1.0])
def test_percentile_is_numpys_bit_for_bit(share):
    rsc, r, percent = sys.modules[type(make("rsc")).__module__], np.random.default_rng(0), 100 * (1 - share)
    for n in (1, 2, 4, 6, 7, 10, 13, 512):
        for values in (r.normal(size=(4, n)), r.integers(3, size=(4, n)) / 10, np.full((4, n), 0.3)):
            expected = np.percentile(values, percent, axis=-1)
            np.testing.assert_array_equal(rsc.percentile(torch.tensor(values), percent), expected, strict=True)
            np.testing.assert_array_equal(rsc.is_top(torch.tensor(values), share), ~(values < expected[:, None]))
            assert rsc.percentile(torch.tensor(values[0]), percent).item() == expected[0]


def test_ties_with_the_percentile_are_dropped():
    rsc = sys.modules[type(make("rsc")).__module__]
    assert rsc.is_top(torch.tensor([1.0, 2.0, 2.0, 0.0]), 0.0).tolist() == [False, True, True, False]
    assert rsc.is_top(torch.ones(5), 0.5).all()


def test_share_zero_drops_one_feature_of_one_example():
    rsc, (batch,) = make("rsc", NONE), random_batches(1)
    y, features = batch.y.flatten(), rsc.network.features(batch.x.flatten(0, 1)).detach()
    dropped = (~rsc.mask(features, y)).nonzero()
    assert len(dropped) == 1
    example, feature = dropped[0]
    assert feature == rsc.network.head.weight[y[example]].argmax()


def test_one_logit_masks_as_two_logits_would():
    built: list[Any] = []
    torch.manual_seed(0)
    for single in (True, False):
        task = Task("classification", 2, single_logit=single)
        network = build_network("mlp", (5,), task.num_outputs, width=9)
        hparams = {"batch_share": 0.8}
        built.append(build_algorithm("rsc", task=task, network=network, num_domains=1, hparams=hparams).double())
    one, two = built
    with torch.no_grad():
        w = one.network.head.weight  # (1, F)
        two.network.head.weight.copy_(torch.cat([-w, w]) / 2)
        one.network.head.bias.zero_()
        two.network.head.bias.zero_()
    features, y = torch.rand(12, 9, dtype=torch.float64), torch.arange(12) % 2
    mask = one.mask(features, y)
    assert torch.equal(mask, two.mask(features, y))
    assert len(mask.unique(dim=0)) == 3  # of each class, and of the examples that are spared


def test_dropout_meets_the_features_once():
    rsc, (batch,) = make("rsc", dropout=0.5), random_batches(1)
    torch.manual_seed(0)
    got = rsc.loss(batch)["loss"]
    torch.manual_seed(0)
    y, features = batch.y.flatten(), rsc.network.features(batch.x.flatten(0, 1))
    kept, spared = masks(features, y, rsc.network.head.weight, rsc.network.head.bias, 1 / 3, 1 / 3)
    outputs = rsc.network.head(features * torch.tensor(kept | spared[:, None]))
    torch.testing.assert_close(got, F.cross_entropy(outputs, y))


def test_predictions_are_of_all_features():
    rsc, (batch,) = make("rsc").eval(), random_batches(1)
    x = batch.x.flatten(0, 1)
    assert torch.equal(rsc(x), mlp(weights_of(rsc), x)[1])


def test_half_precision_under_autocast():
    rsc, (batch,) = make("rsc").float(), random_batches(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = rsc.loss(batch._replace(x=batch.x.float()))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in rsc.parameters())


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="RSC works for classification, but the task is regression"):
        make("rsc", kind="regression")
    for name in NONE:
        for share in (-0.1, 1.5, float("nan")):
            with pytest.raises(ValueError, match=rf"algorithm.{name}={share}, expected a share from 0 to 1"):
                make("rsc", {name: share})


def test_draws_are_domainbeds():
    drawn = draw(type(make("rsc")).HParams, 1, 0)
    assert drawn.feature_share == domainbed_generator("rsc_f_drop_factor").uniform(0, 0.5)
    assert drawn.batch_share == domainbed_generator("rsc_b_drop_factor").uniform(0, 0.5)
