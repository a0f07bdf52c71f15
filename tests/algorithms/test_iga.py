from functools import partial

import pytest
import torch
from torch import nn

from dgbench.hparams import draw
from tests.algorithms.gradient_reference import freeze_first_layer, gradients_of_domains
from tests.algorithms.reference import (
    Adam,
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


def objective(weight: float, first: int = 0):
    """Koyama and Yamaguchi 2020, IGA: the mean risk, and the scatter of the gradients, differentiated throughout.

    Gradients are taken in the weights from `first` on.
    """

    def loss(weights, batch, step):
        rows = gradients_of_domains(weights, batch, create_graph=True)
        flat = [torch.cat([g.flatten() for g in row[first:]]) for row in rows]
        mean = sum(flat) / len(flat)
        return erm_loss(weights, batch) + weight * sum(((g - mean) ** 2).sum() for g in flat)

    return loss


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weights_after_three_steps(kind):
    iga, batches = make("iga", {"penalty_weight": 2.0}, kind), random_batches(3, kind)
    start = [w.requires_grad_() for w in weights_of(iga)]
    torch.testing.assert_close(iga.loss(batches[0])["loss"], objective(2.0)(start, batches[0], 0))
    assert_weights(train(iga, batches), adam_steps(start, batches, objective(2.0)))
    assert iga.step == 3
    assert differs(iga, adam_steps(start, batches, erm_loss))
    assert differs(iga, adam_steps(start, batches, objective(2.0, first=2)))


@pytest.mark.parametrize("D", [1, 2, 5])
def test_gradient_by_hessians(D):
    """The penalty's gradient is 2 sum_d H_d (g_d - mean(g)), with whole Hessians."""
    iga, (batch,) = make("iga", {"penalty_weight": 3.0}, D=D), random_batches(1, D=D)
    weights = weights_of(iga)
    sizes, point = [w.numel() for w in weights], torch.cat([w.flatten() for w in weights])

    def risk(flat, d):
        parts = [part.view_as(w) for part, w in zip(flat.split(sizes), weights, strict=True)]
        return example_losses(mlp(parts, batch.x[d])[1], batch.y[d]).mean()

    point.requires_grad_()
    g = torch.stack([torch.autograd.grad(risk(point, d), point)[0] for d in range(D)])
    H = torch.stack([torch.autograd.functional.hessian(partial(risk, d=d), point) for d in range(D)])
    expected = g.mean(0) + 3.0 * 2 * torch.einsum("dij,dj->i", H, g - g.mean(0))
    values = iga.loss(batch)
    torch.testing.assert_close(values["penalty"].detach(), (g - g.mean(0)).square().sum())
    found = torch.autograd.grad(values["loss"], list(iga.parameters()))
    torch.testing.assert_close(torch.cat([f.flatten() for f in found]), expected)


def test_without_penalty_it_is_erm():
    iga, batches = make("iga", {"penalty_weight": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(iga), batches, erm_loss)
    assert_weights(train(iga, batches), expected)


@pytest.mark.parametrize("D", [1, 3])
def test_equal_domains_have_no_penalty(D):
    iga, (batch,) = make("iga", D=D), random_batches(1, D=1)
    batch = type(batch)(*(part.repeat(D, *[1] * (part.ndim - 1)) for part in batch[:3]))
    assert iga.loss(batch)["penalty"].item() == pytest.approx(0, abs=1e-28)
    expected = adam_steps(weights_of(iga), [batch], erm_loss)
    assert_weights(train(iga, [batch]), expected)


def test_a_frozen_layer_stays_and_is_not_aligned():
    iga, batches = freeze_first_layer(make("iga", {"penalty_weight": 2.0})), random_batches(3)
    weights = [w.requires_grad_() for w in weights_of(iga)]
    adam = Adam(weights[2:])
    train(iga, batches)
    for batch in batches:
        adam.step(torch.autograd.grad(objective(2.0, first=2)(weights, batch, 0), weights[2:]))
    assert_weights(iga, weights)


class Attention(nn.Module):
    """Attention within each example, by the fused kernel wherever there is one."""

    def forward(self, x):
        heads = x.view(-1, 1, x.shape[1], 1)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).view_as(x)


def test_attention_is_differentiated_twice():
    iga, (batch,) = make("iga"), random_batches(1)
    iga.network.dropout = Attention()
    start = weights_of(iga)
    train(iga, [batch])
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(weights_of(iga), start, strict=True))


def test_draw_is_domainbeds():
    assert draw(type(make("iga")).HParams, 1, 0).penalty_weight == 10 ** domainbed_generator("penalty").uniform(1, 5)
