import sys

import pytest
import torch
from torch.nn import functional as F

from dgbench.hparams import draw
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
    seed_hash,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def objective(alpha: float, seed: int):
    """Inter-domain mixup: a random cycle of domains, one lambda per pair, mean over pairs."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        D, B = batch.y.shape[:2]
        shares = torch.distributions.Beta(alpha, alpha).sample((D,)).double()
        order = torch.randperm(D).tolist()
        rows = torch.randperm(B) if D == 1 else torch.arange(B)
        total = 0.0
        for share, i, j in zip(shares, order, order[1:] + order[:1], strict=True):
            outputs = mlp(weights, share * batch.x[i] + (1 - share) * batch.x[j][rows])[1]
            own, other = example_losses(outputs, batch.y[i]), example_losses(outputs, batch.y[j][rows])
            total = total + (share * own + (1 - share) * other).mean()
        return total / D

    return loss


def fix_share(monkeypatch, algorithm, share: float):
    class Fixed:
        def __init__(self, *_):
            pass

        def sample(self, shape):
            return torch.full(shape, share)

    monkeypatch.setattr(sys.modules[type(algorithm).__module__], "Beta", Fixed)


@KINDS
@pytest.mark.parametrize("D", [1, 2, 4])
def test_weights_after_three_steps(kind, D):
    mixup, batches = make("mixup", {"alpha": 2.0}, kind, D), random_batches(3, kind, D)
    mixup.seed = 7
    start = weights_of(mixup)
    assert_weights(train(mixup, batches), adam_steps(start, batches, objective(2.0, 7)))
    assert mixup.step == 3
    assert differs(mixup, adam_steps(start, batches, erm_loss))


@KINDS
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("D", [1, 3])
def test_all_of_one_and_none_of_the_other_is_erm(monkeypatch, kind, share, D):
    mixup, (batch,) = make("mixup", kind=kind, D=D), random_batches(1, kind, D)
    fix_share(monkeypatch, mixup, share)
    torch.testing.assert_close(mixup.loss(batch)["loss"], erm_loss(weights_of(mixup), batch))


def test_mixed_losses_are_the_cross_entropy_of_mixed_labels(monkeypatch):
    mixup, (batch,) = make("mixup", D=2), random_batches(1, D=2)
    fix_share(monkeypatch, mixup, 0.5)
    x, y = batch.x.mean(0), F.one_hot(batch.y, 4).double().mean(0)
    torch.testing.assert_close(mixup.loss(batch)["loss"], F.cross_entropy(mixup.network(x), y))


def test_draw_is_domainbeds():
    drawn = draw(type(make("mixup")).HParams, 1, 0)
    assert drawn.alpha == 10 ** domainbed_generator("mixup_alpha").uniform(-1, 1)
