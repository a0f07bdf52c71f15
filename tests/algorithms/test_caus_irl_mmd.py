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


def kernel(a, b):
    squares = ((a.unsqueeze(1) - b) ** 2).sum(-1)
    gammas = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)
    return torch.exp(-gammas.view(7, 1, 1) * squares).sum(0).mean()


def distance(a, b):
    """Gretton et al. 2012, the biased estimate; samples (N, F) and (M, F)."""
    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


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
    causirl = make("caus_irl_mmd", {"penalty_weight": 3.0}, kind, D)
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
    causirl, batches = make("caus_irl_mmd", {"penalty_weight": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(causirl), batches, erm_loss)
    assert_weights(train(causirl, batches), expected)


def test_domains_far_apart_differ_by_their_shares(monkeypatch):
    # Between domains the kernel is 0 and within them 7, so MMD^2 is 7 times the squared distance of the shares.
    fix_cuts(monkeypatch, 1, 3)
    causirl, (batch,) = make("caus_irl_mmd", depth=0, D=2), random_batches(1, D=2, B=4)
    batch = batch._replace(x=torch.tensor([0.0, 1e3]).double().view(2, 1, 1).expand(2, 4, 5))
    expected = 7 * ((1 / 4 - 3 / 4) ** 2 + (3 / 4 - 1 / 4) ** 2)
    assert causirl.loss(batch)["penalty"].item() == pytest.approx(expected)


def test_equal_mixtures_cost_nothing(monkeypatch):
    fix_cuts(monkeypatch, 3, 3, 3)
    causirl, (batch,) = make("caus_irl_mmd"), random_batches(1, B=3)
    batch = type(batch)(*(torch.cat([part, part], 1) for part in batch[:3]))
    assert causirl.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("cuts", "is_free"), [((0, 0, 0), True), ((0, 1, 0), True), ((0, 1, 1), False)])
def test_a_mixture_of_fewer_than_two_examples_costs_nothing(monkeypatch, cuts, is_free):
    fix_cuts(monkeypatch, *cuts)
    causirl, (batch,) = make("caus_irl_mmd"), random_batches(1)
    assert (causirl.loss(batch)["penalty"].item() == 0) == is_free


def test_one_domain_is_refused():
    with pytest.raises(ValueError, match="CausIRLMMD needs at least 2 training domains, got 1"):
        make("caus_irl_mmd", D=1)


def test_draw_is_domainbeds():
    drawn = draw(type(make("caus_irl_mmd")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("mmd_gamma").uniform(-1, 1)
