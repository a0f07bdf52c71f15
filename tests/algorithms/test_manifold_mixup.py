import sys
from types import SimpleNamespace

import pytest
import torch

from dgbench.hparams import draw
from dgbench.registry import UnknownName
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
SEED = 2


def manifold_mixup(kind="classification", D=3, depth=3, **hparams):
    made = make("manifold_mixup", hparams, kind, D, depth=depth)
    made.seed = SEED
    return made


def objective(alpha, places, visited=None):
    """Verma et al. 2019: after layer k, 0 being the input, the states of the batch and of its permutation are mixed."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(SEED, step))
        x, y = batch.x.flatten(0, 1), batch.y.flatten(0, 1)
        lam = torch.distributions.Beta(alpha, alpha).sample().double()
        order = torch.randperm(len(x)).tolist()
        k = places[int(torch.randint(len(places), (1,)))]
        (visited if visited is not None else []).append(k)
        for W, b in zip(weights[: 2 * k : 2], weights[1 : 2 * k : 2], strict=True):
            x = (x @ W.T + b).clamp(min=0)
        mixed = torch.stack([lam * x[i] + (1 - lam) * x[j] for i, j in enumerate(order)])
        outputs = mlp(weights[2 * k :], mixed)[1]
        return (lam * example_losses(outputs, y) + (1 - lam) * example_losses(outputs, y[order])).mean()

    return loss


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_five_steps(kind, D):
    algorithm, batches = manifold_mixup(kind, D), random_batches(5, kind, D)
    start, visited = weights_of(algorithm), list[int]()
    assert_weights(train(algorithm, batches), adam_steps(start, batches, objective(2.0, [0, 1, 2], visited)))
    assert algorithm.step == 5
    assert set(visited) == {0, 1, 2}
    assert differs(algorithm, adam_steps(start, batches, erm_loss))
    assert differs(algorithm, adam_steps(start, batches, objective(2.0, [0])))
    assert differs(algorithm, adam_steps(start, batches, objective(0.2, [0, 1, 2])))


@KINDS
def test_at_the_input_alone_it_is_mixup(kind):
    algorithm, batches = manifold_mixup(kind, stages=["input"]), random_batches(3, kind)
    algorithm.network.normalise.set(torch.full((5,), 0.3), torch.full((5,), 2.0))
    plain = [batch._replace(x=(batch.x - algorithm.network.normalise.mean) / 2) for batch in batches]
    start = weights_of(algorithm)
    assert_weights(train(algorithm, batches), adam_steps(start, plain, objective(2.0, [0])))
    # Mixed before the normalisation, as mixup does.
    torch.manual_seed(1)
    loss = algorithm.loss(batches[0])["loss"]
    torch.manual_seed(1)
    x, y, lam = batches[0].x.flatten(0, 1), batches[0].y.flatten(0, 1), torch.distributions.Beta(2.0, 2.0).sample()
    order = torch.randperm(len(x))
    outputs = algorithm.network(lam * x + (1 - lam) * x[order])
    expected = lam * example_losses(outputs, y) + (1 - lam) * example_losses(outputs, y[order])
    torch.testing.assert_close(loss, expected.mean())


def test_the_last_stage_can_be_named():
    algorithm, batches = manifold_mixup(stages=["layer3"], alpha=0.5), random_batches(3)
    start = weights_of(algorithm)
    assert_weights(train(algorithm, batches), adam_steps(start, batches, objective(0.5, [3])))


@KINDS
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_of_one_and_none_of_the_other_is_erm(monkeypatch, kind, share):
    algorithm, (batch,) = manifold_mixup(kind), random_batches(1, kind)
    fixed = SimpleNamespace(sample=lambda: torch.tensor(share))
    monkeypatch.setattr(sys.modules[type(algorithm).__module__], "Beta", lambda *_: fixed)
    torch.testing.assert_close(algorithm.loss(batch)["loss"], erm_loss(weights_of(algorithm), batch))


def test_in_regression_mixed_losses_have_the_gradient_of_mixed_targets():
    algorithm, (batch,) = manifold_mixup("regression", stages=["input"]), random_batches(1, "regression")
    torch.manual_seed(1)
    grads = torch.autograd.grad(algorithm.loss(batch)["loss"], algorithm.trainable())
    torch.manual_seed(1)
    x, y, lam = batch.x.flatten(0, 1), batch.y.flatten(0, 1), torch.distributions.Beta(2.0, 2.0).sample()
    order = torch.randperm(len(x))
    outputs = algorithm.network(lam * x + (1 - lam) * x[order])
    expected = example_losses(outputs, lam * y + (1 - lam) * y[order]).mean()
    torch.testing.assert_close(grads, torch.autograd.grad(expected, algorithm.trainable()))


def test_maps_are_mixed_in_one_pass():
    algorithm = make("manifold_mixup", name="small_resnet", width=4, shape=(3, 8, 8))
    assert algorithm.places == ["normalise", "stem", "layer1"]
    before = algorithm.network.body.stem[1].num_batches_tracked.item()
    train(algorithm, random_batches(3, shape=(3, 8, 8)))
    assert algorithm.network.body.stem[1].num_batches_tracked == before + 3


def test_without_stages_it_mixes_the_input():
    assert manifold_mixup(depth=0).places == ["normalise"]


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"algorithm.alpha=0, expected above 0"):
        manifold_mixup(alpha=0)
    with pytest.raises(UnknownName, match=r"'layer4' is not a known place to mix in mlp.*Known: input, layer1"):
        manifold_mixup(stages=["input", "layer4"])


def test_draws():
    drawn = draw(type(manifold_mixup()).HParams, 1, 0)
    assert drawn.alpha == 10 ** domainbed_generator("manifold_mixup_alpha").uniform(-1, 1)
    assert drawn.stages is None
