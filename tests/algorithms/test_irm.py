import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import draw
from dgbench.network import build_network
from dgbench.registry import UnknownName
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

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def slope(outputs, y):
    """d/ds at s = 1 of the mean loss of `s * outputs`, by hand; outputs (N, C)."""
    if y.ndim == outputs.ndim:
        target = (y - 5) / torch.tensor([1.0, 2.0, 3.0, 4.0])
        return (2 * (outputs - target) * outputs).mean()
    residual = outputs.softmax(-1) - torch.eye(outputs.shape[-1])[y]
    return (residual * outputs).sum(-1).mean()


def objective(weight: float, anneal: int):
    """Arjovsky et al. 2019, IRMv1: the squared slope estimated by the product over even and odd rows."""

    def loss(weights, batch, step):
        total = 0.0
        for x, y in zip(batch.x, batch.y, strict=True):
            outputs = mlp(weights, x)[1]
            penalty = slope(outputs[0::2], y[0::2]) * slope(outputs[1::2], y[1::2])
            risk = example_losses(outputs, y).mean()
            total = total + risk + (weight if step >= anneal else 1.0) * penalty
        return total / len(batch.x)

    return loss


@KINDS
@pytest.mark.parametrize("anneal", [0, 2, 9])
def test_weights_after_four_steps(kind, anneal):
    irm = make("irm", {"penalty_weight": 30.0, "anneal_steps": anneal}, kind)
    batches, start = random_batches(4, kind), weights_of(irm)
    torch.testing.assert_close(irm.loss(batches[0])["loss"], objective(30.0, anneal)(start, batches[0], 0))
    train(irm, batches)
    assert_weights(irm, adam_steps(start, batches, objective(30.0, anneal), restart_at=anneal))
    assert irm.step == 4
    assert differs(irm, adam_steps(start, batches, objective(0.0, 0)))
    assert differs(irm, adam_steps(start, batches, objective(30.0, anneal))) == (anneal == 2)


def test_without_penalty_it_is_erm():
    irm, batches = make("irm", {"penalty_weight": 0.0, "anneal_steps": 0}), random_batches(3)
    expected = adam_steps(weights_of(irm), batches, erm_loss)
    assert_weights(train(irm, batches), expected)


@KINDS
def test_equal_halves_give_the_squared_product_of_weights_and_gradient(kind):
    irm, (batch,) = make("irm", kind=kind, depth=0), random_batches(1, kind, D=2)
    batch = batch._replace(x=batch.x.repeat_interleave(2, 1), y=batch.y.repeat_interleave(2, 1))
    expected = torch.zeros((), dtype=torch.float64)
    for x, y in zip(batch.x, batch.y, strict=True):
        weights = [w.requires_grad_() for w in weights_of(irm)]
        grads = torch.autograd.grad(example_losses(mlp(weights, x)[1], y).mean(), weights)
        expected += sum((w * g).sum() for w, g in zip(weights, grads, strict=True)) ** 2 / 2
    torch.testing.assert_close(irm.loss(batch)["penalty"], expected)


def test_last_row_of_an_odd_batch_is_in_neither_half():
    irm, (batch,) = make("irm"), random_batches(1, B=7)
    even = type(batch)(*(part[:, :6] for part in batch[:3]))
    torch.testing.assert_close(irm.loss(batch)["penalty"], irm.loss(even)["penalty"])


def test_one_example_has_no_halves():
    irm, (batch,) = make("irm"), random_batches(1, B=1)
    with pytest.raises(ValueError, match=r"two halves.*got 1.*estimator=squared"):
        irm.loss(batch)


def author_objective(weight: float, anneal: int, l2: float):
    """As in the authors' script for Colored MNIST: mean slopes squared, an L2 term, all divided by the weight."""

    def loss(weights, batch, step):
        outputs = [mlp(weights, x)[1] for x in batch.x]
        risk = sum(example_losses(z, y).mean() for z, y in zip(outputs, batch.y, strict=True)) / len(outputs)
        penalty = sum(slope(z, y) ** 2 for z, y in zip(outputs, batch.y, strict=True)) / len(outputs)
        now = weight if step >= anneal else 1.0
        total = risk + l2 * sum((w**2).sum() for w in weights) + now * penalty
        return total / now if now > 1 else total

    return loss


@KINDS
@pytest.mark.parametrize("weight", [30.0, 0.3])
@pytest.mark.parametrize("B", [1, 6])
def test_as_on_colored_mnist(kind, weight, B):
    options = {"estimator": "squared", "rescale": True, "l2_weight": 0.1, "resets_optimizer": False}
    irm = make("irm", {"penalty_weight": weight, "anneal_steps": 2, **options}, kind)
    batches, start = random_batches(4, kind, B=B), weights_of(irm)
    torch.testing.assert_close(irm.loss(batches[0])["loss"], author_objective(weight, 2, 0.1)(start, batches[0], 0))
    train(irm, batches)
    assert_weights(irm, adam_steps(start, batches, author_objective(weight, 2, 0.1)))
    for other in (author_objective(0.0, 0, 0.1), author_objective(weight, 2, 0.0)):
        assert differs(irm, adam_steps(start, batches, other))
    assert differs(irm, adam_steps(start, batches, author_objective(weight, 2, 0.1), restart_at=2))


def test_single_logit():
    task = Task("classification", 2, single_logit=True)
    network = build_network("mlp", (5,), 1, width=7)
    (batch,) = random_batches(1)
    batch = batch._replace(y=batch.y % 2)
    irm = build_algorithm("irm", task=task, network=network, num_domains=3, hparams={"estimator": "squared"}).double()
    logits = mlp(weights_of(irm), batch.x)[1].squeeze(-1)
    slopes = ((torch.sigmoid(logits) - batch.y) * logits).mean(1)
    torch.testing.assert_close(irm.loss(batch)["penalty"], (slopes**2).mean())


def test_unknown_estimator_is_refused():
    with pytest.raises(UnknownName, match=r"'square' is not a known estimator.*Did you mean 'squared'"):
        make("irm", {"estimator": "square"})


def test_draws_are_domainbeds():
    drawn = draw(type(make("irm")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("irm_lambda").uniform(-1, 5)
    assert drawn.anneal_steps == int(10 ** domainbed_generator("irm_penalty_anneal_iters").uniform(0, 4))
