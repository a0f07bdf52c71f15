import pytest
import torch

from dgbench.registry import algorithms
from tests.algorithms.contrast_reference import bottleneck
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)


def objective(weight, T, **form):
    """DomainBed's AbstractCAD.update."""

    def loss(weights, batch, step):
        features, outputs = mlp(weights, batch.x)
        penalty = bottleneck(features.flatten(0, 1), batch.y.flatten(), batch.domain.flatten(), T, **form)
        return example_losses(outputs, batch.y).mean() + weight * penalty

    return loss


@pytest.mark.parametrize(("is_flipped", "is_normalized"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("D", [2, 5])
def test_weights_after_some_steps(is_flipped, is_normalized, D):
    hparams = {"penalty_weight": 0.7, "temperature": 0.5, "is_flipped": is_flipped, "is_normalized": is_normalized}
    cad, batches = make("cond_cad", hparams, D=D), random_batches(4, D=D)
    form = {"flipped": is_flipped, "normalized": is_normalized}
    start = weights_of(cad)
    train(cad, batches)
    assert_weights(cad, adam_steps(start, batches, objective(0.7, 0.5, conditional=True, **form)))
    for other in (erm_loss, objective(0.7, 1.0, conditional=True, **form), objective(0.7, 0.5, **form)):
        assert differs(cad, adam_steps(start, batches, other))


def test_without_weight_it_is_erm():
    cad, batches = make("cond_cad", {"penalty_weight": 0.0}), random_batches(3)
    start = weights_of(cad)
    assert_weights(train(cad, batches), adam_steps(start, batches, erm_loss))


def test_of_a_single_class_it_is_cad():
    (batch,) = random_batches(1)
    batch = batch._replace(y=torch.zeros_like(batch.y))
    torch.testing.assert_close(make("cond_cad").loss(batch), make("cad").loss(batch))


def test_where_classes_do_not_share_domains_it_is_erm():
    (batch,) = random_batches(1)
    batch = batch._replace(y=batch.domain)
    assert make("cond_cad").loss(batch)["penalty"] == 0
    assert make("cad").loss(batch)["penalty"] > 0


def test_hyperparameters_are_those_of_cad():
    assert issubclass(algorithms["cond_cad"].HParams, algorithms["cad"].HParams)
