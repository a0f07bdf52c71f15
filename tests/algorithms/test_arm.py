import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithm import build_algorithm
from dgbench.evaluation import evaluation_batch_size
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
SHAPE = (2, 6, 5)


def arm_of(batch_size=4, kind="classification", D=3, **keys):
    return make("arm", None, kind, D, optim=Optim(lr=0.01, batch_size=batch_size), shape=SHAPE, **keys)


def batches_of(num, kind="classification", D=3, B=4):
    return random_batches(num, kind, D, B, SHAPE)


def context(weights, x, is_training):
    """Three 5x5 convolutions, the first two followed by batch normalisation and ReLU; (N, 1, H, W)."""
    for conv, scale, shift in (weights[0:3], weights[3:6]):
        x = F.conv2d(x, conv, padding=2)
        mean, var = torch.zeros(64, dtype=x.dtype), torch.ones(64, dtype=x.dtype)
        if is_training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        mean, var, scale, shift = (v.view(64, 1, 1) for v in (mean, var, scale, shift))
        x = ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)
    return F.conv2d(x, weights[6], weights[7], padding=2)


def answers(weights, x, size, is_training=True, pool=lambda maps: maps.mean(0, keepdim=True) + 0 * maps):
    """Zhang et al. 2021, ARM-CML: of images (N, C, H, W), given the pooled context of every `size` of them."""
    maps = context(weights[4:], x, is_training)
    pooled = torch.cat([pool(group) for group in maps.split(size)])
    return mlp(weights[:4], torch.cat([x, pooled], 1).flatten(1))[1]


def arm_loss(weights, batch, step=0, **keys):
    outputs = answers(weights, batch.x.flatten(0, 1), batch.x.shape[1], **keys)
    return example_losses(outputs, batch.y.flatten(0, 1)).mean()


def untrained_context(start):
    """DomainBed's: the optimizer does not know of the context network."""
    return lambda weights, batch, step: (
        arm_loss([*weights[:4], *start[4:]], batch) + sum(0 * w.sum() for w in weights[4:])
    )


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_three_steps(kind, D):
    arm, batches = arm_of(kind=kind, D=D), batches_of(3, kind, D)
    start = weights_of(arm)
    assert len(start) == 12
    train(arm, batches)
    assert arm.step == 3
    assert_weights(arm, adam_steps(start, batches, arm_loss))
    assert differs(arm, adam_steps(start, batches, untrained_context(start)))
    for pool in (lambda maps: 0 * maps, lambda maps: maps):  # no context; each its own
        assert differs(arm, adam_steps(start, batches, lambda w, b, s, pool=pool: arm_loss(w, b, pool=pool)))


@KINDS
def test_groups_in_training_are_the_domains_whatever_their_size(kind):
    for batch_size, B in (("all", 5), (4, 3), (2, 4)):
        arm, (batch,) = arm_of(batch_size, kind), batches_of(1, kind, B=B)
        torch.testing.assert_close(arm.loss(batch)["loss"], arm_loss(weights_of(arm), batch))


@pytest.mark.parametrize(
    ("batch_size", "num", "size"),
    [(4, 12, 4), (4, 4, 4), (4, 10, 10), (4, 3, 3), (1, 3, 1), (64, 10, 10), ("all", 8, 8)],
)
def test_groups_in_evaluation(batch_size, num, size):
    arm, x = arm_of(batch_size).eval(), batches_of(1, D=1, B=num)[0].x[0]
    with torch.no_grad():
        got = arm(x)
        torch.testing.assert_close(got, answers(weights_of(arm), x, size, is_training=False))
        assert torch.equal(got, arm.classify(arm.features(x)))
        # Within a group the order decides nothing, and another group's examples do not count.
        swapped = torch.cat([x[:size].flip(0), 0 * x[size:]])
        torch.testing.assert_close(arm(swapped)[:size], got[:size].flip(0))


def test_regression_predicts_in_original_units():
    arm, x = arm_of(kind="regression").eval(), batches_of(1, D=1)[0].x[0]
    inner = answers(weights_of(arm), x, 4, is_training=False)
    torch.testing.assert_close(arm(x), inner * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5)


def test_predictions_are_made_of_64_examples():
    assert evaluation_batch_size(arm_of(), torch.device("cpu")) == 64


def test_a_prediction_depends_on_its_group():
    arm, (batch,) = arm_of().eval(), batches_of(1)
    others = torch.cat([batch.x[0, :1], 3 * batch.x[1, 1:]])
    assert (arm(batch.x[0])[0] - arm(others)[0]).abs().max() > 1e-3


def test_both_networks_see_normalised_inputs():
    network = build_network("mlp", SHAPE, 4, width=7)
    network.normalise.set(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.1]))
    arm = build_algorithm("arm", task=Task("classification", 4), network=network, num_domains=3).double().eval()
    assert arm.network.normalise.mean.flatten().tolist() == [0.5, -1.0, 0.0]
    x, weights = batches_of(1)[0].x[0], weights_of(arm)
    mean, std = network.normalise.mean.double(), network.normalise.std.double()
    torch.testing.assert_close(arm(x), answers(weights, (x - mean) / std, 4, is_training=False))
    assert torch.equal(arm.state_dict()["context.0.mean"], mean)


def test_pretrained_filters_are_repeated_for_the_context(tmp_path):
    torch.save(build_network("small_cnn", (3, 8, 8), 4, width=4).state_dict(), tmp_path / "net.pt")
    network = build_network("small_cnn", (3, 8, 8), 4, width=4, weights=tmp_path / "net.pt")
    arm = build_algorithm("arm", task=Task("classification", 4), network=network, num_domains=3)
    old, new = (net.state_dict()["body.conv1.0.weight"] for net in (network, arm.network))
    assert arm.network.pretrained
    assert torch.equal(new, torch.cat([old, old[:, :1]], 1))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"ARM needs images \(C, H, W\).*got inputs of \(5,\)\. Use another dataset"):
        make("arm")


@pytest.mark.parametrize(("regime", "default"), [("small", 64), ("large", 8), ("domain_net", 8)])
def test_default_batch_size_is_domainbeds(regime, default):
    task, network = Task("classification", 4), build_network("mlp", SHAPE, 4, width=7)
    arm = build_algorithm("arm", task=task, network=network, num_domains=3, regime=regime)
    assert arm.optim.batch_size == default
