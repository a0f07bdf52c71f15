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
    seed_hash,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
causal = import_module("dgbench.algorithms.alignment._causal")


def distance(a, b):
    """Sun and Saenko 2016, eq. 1, with means, averaged over entries; samples (N, F) and (M, F)."""
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    gap = centred_a.T @ centred_a / (len(a) - 1) - centred_b.T @ centred_b / (len(b) - 1)
    return ((a.mean(0) - b.mean(0)) ** 2).mean() + (gap**2).mean()


def objective(gamma: float, seed: int):
    """Chevalley et al. 2022: the distance between two mixtures, each of a random part of every domain."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        features, (D, B) = mlp(weights, batch.x)[0], batch.y.shape[:2]
        is_first = torch.arange(B) < torch.randint(B, (D, 1))
        if is_first.sum() < 2:
            return erm_loss(weights, batch)
        return erm_loss(weights, batch) + gamma * distance(features[is_first], features[~is_first])

    return loss


def fix_cuts(monkeypatch, *cuts: int):
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(cuts))


@KINDS
@pytest.mark.parametrize("D", [2, 4])
def test_weights_after_three_steps(kind, D):
    causirl = make("caus_irl_coral", {"penalty_weight": 3.0}, kind, D)
    causirl.seed = 7
    batches, start = random_batches(3, kind, D), weights_of(causirl)
    expected = objective(3.0, 7)(start, batches[0], 0)
    torch.manual_seed(seed_hash(7, 0))
    torch.testing.assert_close(causirl.loss(batches[0])["loss"], expected)
    assert_weights(train(causirl, batches), adam_steps(start, batches, objective(3.0, 7)))
    assert causirl.step == 3
    assert differs(causirl, adam_steps(start, batches, objective(0.0, 7)))
    assert differs(causirl, adam_steps(start, batches, objective(3.0, 8)))


def test_without_penalty_it_is_erm():
    causirl, batches = make("caus_irl_coral", {"penalty_weight": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(causirl), batches, erm_loss)
    assert_weights(train(causirl, batches), expected)


def test_mixtures_hold_every_row_once(monkeypatch):
    fix_cuts(monkeypatch, 0, 3, 1)
    rows = torch.arange(12.0).view(3, 4, 1)
    first, second = causal.random_mixtures(rows)
    assert first.flatten().tolist() == [4, 5, 6, 8]
    assert second.flatten().tolist() == [0, 1, 2, 3, 7, 9, 10, 11]


def test_cuts_are_uniform_and_of_each_domain_its_own():
    torch.manual_seed(0)
    rows = torch.tensor([[0.0], [1.0]]).unsqueeze(1).expand(2, 4, 1)
    counts = np.zeros((4, 4))
    for _ in range(3200):
        first, _ = causal.random_mixtures(rows)
        counts[int((first == 0).sum()), int((first == 1).sum())] += 1
    # 200 of each pair are expected, with a standard deviation of 13.7.
    assert abs(counts - 200).max() < 60


def test_distance_is_numpys(monkeypatch):
    fix_cuts(monkeypatch, 2, 5)
    causirl, (batch,) = make("caus_irl_coral", depth=0, D=2), random_batches(1, D=2)
    x, z = batch.x.numpy()
    a, b = np.concatenate([x[:2], z[:5]]), np.concatenate([x[2:], z[5:]])
    expected = ((a.mean(0) - b.mean(0)) ** 2).mean() + ((np.cov(a.T) - np.cov(b.T)) ** 2).mean()
    assert causirl.loss(batch)["penalty"].item() == pytest.approx(expected)


def test_equal_mixtures_cost_nothing(monkeypatch):
    fix_cuts(monkeypatch, 3, 3, 3)
    causirl, (batch,) = make("caus_irl_coral"), random_batches(1, B=3)
    batch = type(batch)(*(torch.cat([part, part], 1) for part in batch[:3]))
    assert causirl.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cuts", [(0, 0, 0), (0, 1, 0)])
def test_a_mixture_of_fewer_than_two_examples_costs_nothing(monkeypatch, cuts):
    fix_cuts(monkeypatch, *cuts)
    causirl, batches = make("caus_irl_coral", {"penalty_weight": 3.0}), random_batches(3)
    assert causirl.loss(batches[0])["penalty"].item() == 0
    expected = adam_steps(weights_of(causirl), batches, erm_loss)
    assert_weights(train(causirl, batches), expected)


def test_two_examples_in_a_mixture_are_enough(monkeypatch):
    fix_cuts(monkeypatch, 0, 1, 1)
    causirl, (batch,) = make("caus_irl_coral"), random_batches(1)
    assert causirl.loss(batch)["penalty"].item() > 0


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="CausIRLCORAL needs at least 2 training domains, got 1"):
        make("caus_irl_coral", D=1)


def test_draw_is_domainbeds():
    drawn = draw(type(make("caus_irl_coral")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("mmd_gamma").uniform(-1, 1)
