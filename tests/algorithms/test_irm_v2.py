import math
import sys

import numpy as np
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
SCALE = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def penalty(features, outputs, y, ridge):
    """`g' inv(Gramian) g` of one domain, its gradient in the head written out; features (B, F)."""
    B, C = outputs.shape
    inputs = torch.cat([features, torch.ones(B, 1, dtype=torch.float64)], 1)
    if y.ndim == 2:
        residual = 2 * (outputs - (y - 5) / SCALE) / C
    else:
        residual = outputs.softmax(1) - torch.eye(C, dtype=torch.float64)[y]
    gradient = inputs.T @ residual / B
    gramian = inputs.T @ inputs / B
    delta = ridge * gramian.trace() / len(gramian)
    return (gradient.T @ torch.linalg.inv(gramian + delta * torch.eye(len(gramian))) @ gradient).trace()


def objective(weight: float, anneal: int, ridge: float = 0.1):
    def loss(weights, batch, step):
        features, outputs = mlp(weights, batch.x)
        own = [penalty(*each, ridge) for each in zip(features, outputs, batch.y, strict=True)]
        risk = example_losses(outputs, batch.y).mean()
        return risk + (weight if step >= anneal else 1.0) * sum(own) / len(own)

    return loss


@KINDS
@pytest.mark.parametrize("B", [3, 20])
@pytest.mark.parametrize("anneal", [0, 2, 9])
def test_weights_after_four_steps(kind, B, anneal):
    irm = make("irm_v2", {"penalty_weight": 5.0, "anneal_steps": anneal, "ridge": 0.1}, kind)
    batches, start = random_batches(4, kind, B=B), weights_of(irm)
    torch.testing.assert_close(irm.loss(batches[0])["loss"], objective(5.0, anneal)(start, batches[0], 0))
    train(irm, batches)
    assert_weights(irm, adam_steps(start, batches, objective(5.0, anneal), restart_at=anneal))
    assert differs(irm, adam_steps(start, batches, erm_loss))
    assert differs(irm, adam_steps(start, batches, objective(5.0, anneal))) == (anneal == 2)


def test_without_penalty_it_is_erm():
    irm, batches = make("irm_v2", {"penalty_weight": 0.0, "anneal_steps": 0}), random_batches(3)
    expected = adam_steps(weights_of(irm), batches, erm_loss)
    assert_weights(train(irm, batches), expected)


def best_head(features, targets):
    """Least squares with a constant, by numpy."""
    inputs = np.concatenate([features, np.ones((len(features), 1))], 1)
    return np.linalg.lstsq(inputs, targets, rcond=None)[0]


def test_squared_error_times_four_is_what_the_best_head_would_gain():
    irm, (batch,) = make("irm_v2", {"ridge": 0.0}, "regression", D=2, depth=0), random_batches(1, "regression", 2, 40)
    gains = []
    for x, y in zip(batch.x, batch.y, strict=True):
        targets = ((y - 5) / SCALE).numpy()
        outputs = mlp(weights_of(irm), x)[1].numpy()
        head = best_head(x.numpy(), targets)
        best = x.numpy() @ head[:-1] + head[-1]
        gains.append(((outputs - targets) ** 2).mean() - ((best - targets) ** 2).mean())
    # The loss is the mean over the 4 outputs, whose gradients are 4 times smaller, squared 16, summed over 4.
    assert irm.loss(batch)["penalty"].item() == pytest.approx(4 * np.mean(gains) / 4)


def test_the_best_head_of_every_domain_is_not_penalised():
    irm, (batch,) = make("irm_v2", {"ridge": 0.0}, "regression", D=1, depth=0), random_batches(1, "regression", 1, 40)
    head = torch.tensor(best_head(batch.x[0].numpy(), ((batch.y[0] - 5) / SCALE).numpy()))
    with torch.no_grad():
        irm.network.head.weight.copy_(head[:-1].T)
        irm.network.head.bias.copy_(head[-1])
    assert irm.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-12)
    other = make("irm_v2", {"ridge": 0.0}, "regression", D=1, depth=0)
    assert other.loss(batch)["penalty"].item() > 0.01


def test_of_one_example_it_is_the_risk_times_a_constant():
    irm, (batch,) = make("irm_v2", {"ridge": 0.1}, "regression"), random_batches(1, "regression", B=1)
    values = irm.loss(batch)
    torch.testing.assert_close(values["penalty"], values["nll"] * (4 / 4) / (1 + 0.1 / 8))


def functions():
    module = sys.modules[type(make("irm_v2")).__module__]
    generator = torch.Generator().manual_seed(0)
    features, slopes = (torch.randn(2, 20, n, dtype=torch.float64, generator=generator) for n in (5, 3))
    return module.gramian_penalty, features, slopes / 20


def test_scale_and_rotation_of_the_features_do_not_matter():
    gramian_penalty, features, slopes = functions()
    mixing = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = gramian_penalty(features, slopes, 0.0)
    torch.testing.assert_close(gramian_penalty(features @ mixing, slopes, 0.0), expected)
    torch.testing.assert_close(gramian_penalty(1e-3 * features, slopes, 0.0), expected)
    squared_gradient = (features.mT @ slopes).square().sum()
    assert ((features @ mixing).mT @ slopes).square().sum() > 2 * squared_gradient


def test_a_large_ridge_leaves_the_squared_gradient():
    gramian_penalty, features, slopes = functions()
    inputs = torch.cat([features, torch.ones(2, 20, 1, dtype=torch.float64)], 2)
    expected = (inputs.mT @ slopes).square().sum((1, 2)) / (inputs.square().mean((1, 2)) * 1e9)
    torch.testing.assert_close(gramian_penalty(features, slopes, 1e9), expected)


@pytest.mark.parametrize("B", [3, 20])
def test_half_precision_and_nan(B):
    gramian_penalty, features, slopes = functions()
    features, slopes = features[:, :B].bfloat16(), slopes[:, :B].bfloat16()
    expected = gramian_penalty(features.double(), slopes.double(), 0.01).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gramian_penalty(features, slopes, 0.01), expected, rtol=1e-4, atol=0)
    assert gramian_penalty(math.nan * features, slopes, 0.01).isnan().all()


def test_draws_are_its_own():
    drawn = draw(type(make("irm_v2")).HParams, 1, 0)
    assert drawn.penalty_weight == 10 ** domainbed_generator("irm_v2_lambda").uniform(-1, 4)
    assert drawn.anneal_steps == int(10 ** domainbed_generator("irm_v2_penalty_anneal_iters").uniform(0, 4))
    assert drawn.ridge == 10 ** domainbed_generator("irm_v2_ridge").uniform(-4, 0)
