import importlib
from typing import Any

import pytest
import torch
from torch import nn

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim
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
    train,
    weights_of,
)

core = importlib.import_module("dgbench.algorithms.risk.drm")


def objective(weights, batch, step=0):
    """Zhang et al. 2023, as their code has it: per domain, half its own head's loss, half the common one's."""
    features, common = mlp(weights[:4], batch.x)
    total = torch.zeros(())
    for d in range(len(batch.x)):
        e = int(batch.domain[d, 0])
        own = features[d] @ weights[4 + 2 * e].T + weights[5 + 2 * e]
        total = total + (example_losses(own, batch.y[d]).mean() + example_losses(common[d], batch.y[d]).mean()) / 2
    return total / len(batch.x)


@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_three_steps(D):
    drm, batches = make("drm", D=D), random_batches(3, D=D)
    start = weights_of(drm)
    torch.testing.assert_close(drm.loss(batches[0])["loss"], objective(start, batches[0]))
    train(drm, batches)
    assert_weights(drm, adam_steps(start, batches, objective))
    without = adam_steps(start[:4], batches, erm_loss)
    assert differs(drm, [*without, *start[4:]])


def test_rows_may_be_some_of_the_domains_in_any_order():
    drm, (batch,) = make("drm", D=5), random_batches(1, D=5)
    some = type(batch)(*(part[[3, 1]] for part in batch[:3]))
    torch.testing.assert_close(drm.loss(some)["loss"], objective(weights_of(drm), some))


def test_rows_may_mix_the_domains():
    drm, (batch,) = make("drm"), random_batches(1)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    mixed = type(batch)(*(part.flatten(0, 1)[order].unsqueeze(0) for part in batch[:3]))
    torch.testing.assert_close(drm.loss(mixed), drm.loss(batch))


def tied(drm):
    for head in drm.domain_heads:
        head.load_state_dict(drm.network.head.state_dict())
    return drm


def test_equal_heads_have_the_loss_of_erm_and_predict_the_same():
    drm, (batch,) = tied(make("drm")), random_batches(1)
    torch.testing.assert_close(drm.loss(batch)["loss"], erm_loss(weights_of(drm)[:4], batch))
    logits = drm.head_logits(drm.features(batch.x[0]))
    assert logits.shape == (4, 6, 4)
    torch.testing.assert_close(drm(batch.x[0]).expand(4, 6, 4), logits)


def test_the_surest_head_predicts_each_example():
    drm, batches = make("drm", optim=Optim(lr=0.1)), random_batches(4)
    train(drm, batches).eval()
    x, (W, b, V, c, *heads) = batches[0].x.flatten(0, 1), weights_of(drm)
    features = (x @ W.T + b).clamp(min=0)
    chosen = []
    for i, z in enumerate(features):
        logits = [z @ U.T + u for U, u in [*zip(heads[::2], heads[1::2], strict=True), (V, c)]]
        entropies = [-(p * p.log()).sum() for p in (line.softmax(0) for line in logits)]
        chosen.append(min(range(4), key=entropies.__getitem__))
        torch.testing.assert_close(drm.head_logits(drm.features(x))[:, i], torch.stack(logits))
        torch.testing.assert_close(drm(x)[i], logits[chosen[-1]])
    assert len(set(chosen)) > 1


def test_heads_start_apart():
    drm = make("drm")
    weights = [head.weight for head in (*drm.domain_heads, drm.network.head)]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(weights) for b in weights[:i])


def test_a_single_logit_is_two_classes():
    pair: list[Any] = []
    for single in (True, False):
        torch.manual_seed(0)
        task = Task("classification", 2, single_logit=single)
        net = build_network("mlp", (5,), task.num_outputs, width=7)
        pair.append(build_algorithm("drm", task=task, network=net, num_domains=3).double().eval())
    one, two = pair
    two.network.body.load_state_dict(one.network.body.state_dict())
    for a, b in zip((*one.domain_heads, one.network.head), (*two.domain_heads, two.network.head), strict=True):
        for name in ("weight", "bias"):
            value = getattr(a, name).detach()
            setattr(b, name, nn.Parameter(torch.cat([torch.zeros_like(value), value])))
    (batch,) = random_batches(1)
    batch = batch._replace(y=batch.y % 2)
    torch.testing.assert_close(one.loss(batch), two.loss(batch))
    x = batch.x.flatten(0, 1)
    torch.testing.assert_close(one(x), two(x)[:, 1:])
    assert (one(x) - one.network(x)).abs().max() > 1e-3


def test_entropy_of_certainty_is_zero_and_its_gradient_finite():
    logits = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    entropy = core.entropy(logits)
    assert entropy.item() == 0
    assert torch.autograd.grad(entropy.sum(), logits)[0].isfinite().all()


def test_regression_is_refused():
    with pytest.raises(ValueError, match="DRM works for classification, but the task is regression"):
        make("drm", kind="regression")
