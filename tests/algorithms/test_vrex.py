import pytest
import torch

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
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def objective(beta: float, anneal: int):
    """Krueger et al. 2021, R_V-REx, with the mean of the risks and the variance as mean of squares."""

    def loss(weights, batch, step):
        risks = example_losses(mlp(weights, batch.x)[1], batch.y).mean(1)
        mean = sum(risks) / len(risks)
        variance = sum((risk - mean) ** 2 for risk in risks) / len(risks)
        return mean + (beta if step >= anneal else 1.0) * variance

    return loss


@KINDS
@pytest.mark.parametrize("anneal", [0, 2, 9])
def test_weights_after_four_steps(kind, anneal):
    vrex = make("vrex", {"penalty_weight": 30.0, "anneal_steps": anneal}, kind)
    batches, start = random_batches(4, kind), weights_of(vrex)
    torch.testing.assert_close(vrex.loss(batches[0])["loss"], objective(30.0, anneal)(start, batches[0], 0))
    train(vrex, batches)
    assert_weights(vrex, adam_steps(start, batches, objective(30.0, anneal), restart_at=anneal))
    assert vrex.step == 4
    assert differs(vrex, adam_steps(start, batches, objective(0.0, 0)))
    assert differs(vrex, adam_steps(start, batches, objective(30.0, anneal))) == (anneal == 2)


def test_without_penalty_it_is_erm():
    vrex, batches = make("vrex", {"penalty_weight": 0.0, "anneal_steps": 0}), random_batches(3)
    expected = adam_steps(weights_of(vrex), batches, erm_loss)
    assert_weights(train(vrex, batches), expected)


def test_one_domain_is_erm():
    vrex, batches = make("vrex", {"penalty_weight": 30.0}, D=1), random_batches(3, D=1)
    expected = adam_steps(weights_of(vrex), batches, erm_loss)
    assert_weights(train(vrex, batches), expected)


def test_order_of_domains_does_not_matter():
    vrex, (batch,) = make("vrex"), random_batches(1)
    flipped = type(batch)(*(part.flip(0) for part in batch[:3]))
    torch.testing.assert_close(vrex.loss(batch), vrex.loss(flipped))


def test_draws_are_domainbeds():
    drawn = draw(type(make("vrex")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("vrex_lambda").uniform(-1, 5)
    assert drawn.anneal_steps == int(10 ** domainbed_generator("vrex_penalty_anneal_iters").uniform(0, 4))
