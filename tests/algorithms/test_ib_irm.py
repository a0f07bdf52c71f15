import pytest
import torch

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
JUMPS = [(0, 0), (1, 3), (3, 1), (2, 2), (0, 9)]


def slope(outputs, y):
    """d/ds at s = 1 of the mean loss of `s * outputs`, by hand; outputs (N, C)."""
    if y.ndim == outputs.ndim:
        target = (y - 5) / torch.tensor([1.0, 2.0, 3.0, 4.0])
        return (2 * (outputs - target) * outputs).mean()
    residual = outputs.softmax(-1) - torch.eye(outputs.shape[-1])[y]
    return (residual * outputs).sum(-1).mean()


def objective(irm: float, ib: float, jumps):
    """Ahuja et al. 2021: risk, squared slope in a dummy scale (by halves), variance of the features."""

    def loss(weights, batch, step):
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(batch.x, batch.y, strict=True):
            features, outputs = mlp(weights, x)
            invariance = slope(outputs[0::2], y[0::2]) * slope(outputs[1::2], y[1::2])
            variance = ((features - features.mean(0)) ** 2).sum(0).mean() / (len(x) - 1)
            total = total + example_losses(outputs, y).mean()
            total = total + (irm if step >= jumps[0] else 1.0) * invariance
            total = total + (ib if step >= jumps[1] else 0.0) * variance
        return total / len(batch.x)

    return loss


def expected_weights(start, batches, loss, restarts):
    """`adam_steps` with several restarts."""
    weights = [w.clone().requires_grad_() for w in start]
    adam = Adam(weights)
    for step, batch in enumerate(batches):
        if step in restarts:
            adam.restart()
        adam.step(torch.autograd.grad(loss(weights, batch, step), weights))
    return weights


def build(irm_weight, ib_weight, jumps, kind="classification", D=3):
    hparams = {"irm_weight": irm_weight, "ib_weight": ib_weight}
    return make("ib_irm", hparams | {"irm_anneal_steps": jumps[0], "ib_anneal_steps": jumps[1]}, kind, D)


@KINDS
@pytest.mark.parametrize("jumps", JUMPS)
def test_weights_after_five_steps(kind, jumps):
    ib = build(30.0, 3.0, jumps, kind)
    batches, start = random_batches(5, kind), weights_of(ib)
    loss = objective(30.0, 3.0, jumps)
    torch.testing.assert_close(ib.loss(batches[0])["loss"], loss(start, batches[0], 0))
    train(ib, batches)
    assert_weights(ib, expected_weights(start, batches, loss, jumps))
    assert ib.step == 5
    for jump in set(jumps):
        others = [step for step in jumps if step != jump]
        assert differs(ib, expected_weights(start, batches, loss, others)) == (0 < jump < 5)
    assert differs(ib, expected_weights(start, batches, objective(0.0, 3.0, (0, jumps[1])), jumps))
    assert differs(ib, expected_weights(start, batches, objective(30.0, 0.0, jumps), jumps)) == (jumps[1] < 5)


@pytest.mark.parametrize("D", [1, 3])
def test_without_penalties_it_is_erm(D):
    ib, batches = build(0.0, 0.0, (0, 0), D=D), random_batches(3, D=D)
    expected = adam_steps(weights_of(ib), batches, erm_loss)
    assert_weights(train(ib, batches), expected)


@pytest.mark.parametrize(
    ("name", "weights", "hparams"),
    [("irm", (30.0, 0.0), {"penalty_weight": 30.0}), ("ib_erm", (0.0, 3.0), {"penalty_weight": 3.0})],
)
def test_with_one_penalty_it_is_the_method_of_that(name, weights, hparams):
    batches = random_batches(3)
    other = train(make(name, hparams | {"anneal_steps": 0}), batches)
    assert_weights(train(build(weights[0], weights[1], (0, 0)), batches), weights_of(other))


def test_one_example_has_no_variance():
    ib, (batch,) = make("ib_irm"), random_batches(1, B=1)
    with pytest.raises(ValueError, match=r"at least 2 examples of each domain, got 1; raise optim\.batch_size"):
        ib.loss(batch)


def test_draws_are_domainbeds():
    drawn = draw(type(make("ib_irm")).HParams, 1, 0)
    assert drawn.irm_weight == 10 ** domainbed_generator("irm_lambda").uniform(-1, 5)
    assert drawn.irm_anneal_steps == int(10 ** domainbed_generator("irm_penalty_anneal_iters").uniform(0, 4))
    assert drawn.ib_weight == 10 ** domainbed_generator("ib_lambda").uniform(-1, 5)
    assert drawn.ib_anneal_steps == int(10 ** domainbed_generator("ib_penalty_anneal_iters").uniform(0, 4))
