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


def objective(weight: float):
    """Pezeshki et al. 2021, the ridge on the outputs, as DomainBed weighs it: the mean over examples and classes."""

    def loss(weights, batch, step):
        outputs = mlp(weights, batch.x)[1]
        squares = sum(outputs[d, b] @ outputs[d, b] for d in range(len(outputs)) for b in range(len(outputs[d])))
        return example_losses(outputs, batch.y).mean() + weight * squares / outputs.numel()

    return loss


@KINDS
@pytest.mark.parametrize("D", [1, 3])
def test_weights_after_three_steps(kind, D):
    sd, batches = make("sd", {"penalty_weight": 0.7}, kind, D), random_batches(3, kind, D)
    start = weights_of(sd)
    torch.testing.assert_close(sd.loss(batches[0])["loss"], objective(0.7)(start, batches[0], 0))
    assert_weights(train(sd, batches), adam_steps(start, batches, objective(0.7)))
    assert sd.step == 3
    assert differs(sd, adam_steps(start, batches, erm_loss))


@KINDS
def test_without_penalty_it_is_erm(kind):
    sd, batches = make("sd", {"penalty_weight": 0.0}, kind), random_batches(3, kind)
    expected = adam_steps(weights_of(sd), batches, erm_loss)
    assert_weights(train(sd, batches), expected)


def test_penalty_by_hand():
    sd, (batch,) = make("sd"), random_batches(1, D=1, B=1)
    with torch.no_grad():
        sd.network.head.weight.zero_()
        sd.network.head.bias.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0]))
    assert sd.loss(batch)["penalty"].item() == pytest.approx(14 / 4)


def test_draw_is_domainbeds():
    drawn = draw(type(make("sd")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("sd_reg").uniform(-5, -1)
