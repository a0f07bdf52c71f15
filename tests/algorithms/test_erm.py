import pytest
import torch

from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    erm_loss,
    make,
    random_batches,
    train,
    weights_of,
)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_three_steps_equal_adam_on_the_mean_loss(kind, depth):
    erm, batches = make("erm", kind=kind, depth=depth), random_batches(3, kind)
    start = weights_of(erm)
    torch.testing.assert_close(erm.loss(batches[0])["loss"], erm_loss(start, batches[0]))
    assert_weights(train(erm, batches), adam_steps(start, batches, erm_loss))
    assert erm.step == int(erm.steps_done) == 3


def test_domains_are_one_pool():
    erm, (batch,) = make("erm"), random_batches(1)
    pooled = type(batch)(*(part.flatten(0, 1).unsqueeze(0) for part in batch[:3]))
    torch.testing.assert_close(erm.loss(batch)["loss"], erm.loss(pooled)["loss"])
