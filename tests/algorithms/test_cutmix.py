import importlib
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithm import build_algorithm
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    mlp,
    random_batches,
    seed_hash,
    train,
    weights_of,
)

core = importlib.import_module("dgbench.algorithms.mixing.cutmix")
SHAPE = (2, 6, 9)
SEED = 5


def cutmix(D=3, shape=SHAPE, **hparams):
    made = make("cutmix", hparams, D=D, shape=shape)
    made.seed = SEED
    return made


def corners(size, side, centre):
    """Of a box of size * side around a pixel, cut off at the edges of the image."""
    half = int(size * side) // 2
    return max(centre - half, 0), min(centre + half, size)


def objective(prob=1.0, alpha=1.0, corrects=True):
    """Yun et al. 2019: a box is pasted from the permuted batch, lambda is then 1 - its area / (W * H)."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(SEED, step))
        x, y = batch.x.flatten(0, 1), batch.y.flatten(0, 1)
        H, W = x.shape[-2:]
        order = torch.randperm(len(x)).tolist()
        lam = float(torch.distributions.Beta(alpha, alpha).sample())
        y1, y2 = corners(H, math.sqrt(1 - lam), int(torch.randint(H, (1,))))
        x1, x2 = corners(W, math.sqrt(1 - lam), int(torch.randint(W, (1,))))
        if float(torch.rand(1)) >= prob:
            return erm_loss(weights, batch._replace(x=batch.x.flatten(2)))
        pasted = x.clone()
        for i, j in enumerate(order):
            pasted[i, :, y1:y2, x1:x2] = x[j, :, y1:y2, x1:x2]
        lam = 1 - (y2 - y1) * (x2 - x1) / (H * W) if corrects else lam
        outputs = mlp(weights, pasted.flatten(1))[1]
        return (lam * example_losses(outputs, y) + (1 - lam) * example_losses(outputs, y[order])).mean()

    return loss


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_weights_after_six_steps(D, prob):
    algorithm, batches = cutmix(D, prob=prob), random_batches(6, D=D, shape=SHAPE)
    start, flat = weights_of(algorithm), [b._replace(x=b.x.flatten(2)) for b in random_batches(6, D=D, shape=SHAPE)]
    copies = [batch.x.clone() for batch in batches]
    assert_weights(train(algorithm, batches), adam_steps(start, batches, objective(prob)))
    assert algorithm.step == 6
    assert all(torch.equal(batch.x, copy) for batch, copy in zip(batches, copies, strict=True))
    assert differs(algorithm, adam_steps(start, flat, erm_loss))
    assert differs(algorithm, adam_steps(start, batches, objective(prob, corrects=False)))
    assert differs(algorithm, adam_steps(start, batches, objective(1.5 - prob)))


def test_without_a_box_it_is_erm():
    algorithm, batches = cutmix(prob=0.0), random_batches(3, shape=SHAPE)
    flat = [batch._replace(x=batch.x.flatten(2)) for batch in batches]
    expected = adam_steps(weights_of(algorithm), flat, erm_loss)
    assert_weights(train(algorithm, batches), expected)


def pasted_images(algorithm, x, y):
    """The images that the network is given, and the loss."""
    seen = []
    algorithm.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    value = algorithm.loss(SimpleNamespace(x=x, y=y))["loss"]
    return seen[0], value


@pytest.mark.parametrize("seed", range(8))
def test_the_share_of_the_partners_pixels_is_that_of_their_targets(seed):
    algorithm, y = cutmix(), torch.arange(4).view(2, 2)
    x = y.double().view(2, 2, 1, 1, 1).expand(2, 2, *SHAPE)  # each image says whose pixels they are
    torch.manual_seed(seed)
    images, loss = pasted_images(algorithm, x, y)
    torch.manual_seed(seed)
    order = torch.randperm(4)
    labels = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        assert set(images[i].unique().tolist()) <= {i, int(order[i])}
        for label in range(4):
            labels[i, label] = (images[i] == label).double().mean()
    assert (images[:, 0] == images[:, 1]).all()
    torch.testing.assert_close(loss, F.cross_entropy(algorithm.network(images), labels))


@pytest.mark.parametrize("size", [1, 6, 9])
def test_spans_lie_around_a_uniform_centre(size):
    for seed in range(60):
        side = torch.rand((), generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        inside = core.span(size, side)
        torch.manual_seed(seed)
        first, last = corners(size, float(side), int(torch.randint(size, ())))
        assert inside.nonzero().flatten().tolist() == list(range(first, last))


def test_the_share_is_that_of_the_box_not_the_one_drawn(monkeypatch):
    algorithm = cutmix()
    monkeypatch.setattr(core, "Beta", lambda *_: SimpleNamespace(sample=lambda: torch.tensor(0.0)))
    shares = set()
    for seed in range(40):
        torch.manual_seed(seed)
        is_pasted, share = algorithm.box(6, 9)
        assert is_pasted.sum() == round(54 * (1 - share.item()))
        shares.add(round(share.item(), 6))
    assert len(shares) > 5


def test_nothing_pasted_is_erm(monkeypatch):
    algorithm, (batch,) = cutmix(), random_batches(1, shape=SHAPE)
    monkeypatch.setattr(core, "Beta", lambda *_: SimpleNamespace(sample=lambda: torch.tensor(1.0)))
    expected = erm_loss(weights_of(algorithm), batch._replace(x=batch.x.flatten(2)))
    torch.testing.assert_close(algorithm.loss(batch)["loss"], expected)


def test_one_logit():
    task, network = Task("classification", 2, single_logit=True), build_network("mlp", SHAPE, 1)
    algorithm = build_algorithm("cutmix", task=task, network=network, num_domains=3)
    (batch,) = random_batches(1, shape=SHAPE)
    assert algorithm.double().loss(batch._replace(y=batch.y % 2))["loss"].isfinite()


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"inputs have shape \(5,\), expected \(C, H, W\)\. Use manifold_mixup"):
        cutmix(shape=(5,))
    with pytest.raises(ValueError, match=r"algorithm.prob=2, expected a probability"):
        cutmix(prob=2)
    with pytest.raises(ValueError, match=r"algorithm.alpha=0, expected above 0"):
        cutmix(alpha=0)
    with pytest.raises(ValueError, match="CutMix works for classification, but the task is regression"):
        make("cutmix", kind="regression", shape=SHAPE)
    assert sys.modules[type(cutmix()).__module__] is core
