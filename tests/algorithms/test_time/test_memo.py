import importlib

import pytest
import torch

from dgbench.adapter import build_adapter
from tests.algorithms.test_time.small_model import (
    entropies,
    logits,
    same,
    statistics_of,
    trained,
    weights_of,
    with_single_logit,
)

core = importlib.import_module("dgbench.algorithms.test_time.memo")
SHAPE = (3, 4, 4)


def images(N=5, shape=SHAPE, seed=3):
    return torch.rand(N, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def copies(image, num):
    """Known copies in place of random ones."""
    return torch.stack([image * (1 - 0.1 * i) + 0.03 * i for i in range(num)])


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(core, "augmix", copies)


def by_hand(model, image, lr, B, share=16 / 17, single=False):
    """Zhang et al. 2022: SGD on the entropy of the mean softmax, then the clean image; statistics 16 : 1 for both."""

    def f(weights, x):
        z = logits(weights, x.flatten(1), statistics_of(model), share)
        return torch.cat([torch.zeros_like(z), z], 1) if single else z

    weights = [w.requires_grad_() for w in weights_of(model)]
    z = f(weights, copies(image, B))
    p = (z.exp() / z.exp().sum(1, keepdim=True)).mean(0)
    grads = torch.autograd.grad(-(p * p.log()).sum(), weights)
    stepped = [w - lr * g for w, g in zip(weights, grads, strict=True)]
    return f(stepped, image.unsqueeze(0))[0].detach()


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("B", [1, 4, 32])
@pytest.mark.parametrize("single", [False, True])
def test_answers_are_those_of_the_equations(B, single):
    model, x = trained(shape=SHAPE), images()
    model = with_single_logit(model) if single else model
    adapter = build_adapter("memo", model, hparams={"lr": 0.1, "num_augmentations": B})
    for _ in range(3):  # nothing is remembered
        same(adapter.step(x), torch.stack([by_hand(model, image, 0.1, B, single=single) for image in x]))
    unadapted = torch.stack([by_hand(model, image, 0.0, B, single=single) for image in x])
    same(adapter.predict(x[:1]), unadapted[:1])
    assert (adapter.step(x) - unadapted).abs().max() > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.algorithm), weights_of(model), strict=True))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("prior", [0.0, 8.0])
def test_the_prior_counts_against_one_example(prior):
    model, x = trained(shape=SHAPE), images(2)
    adapter = build_adapter("memo", model, hparams={"lr": 0.1, "prior": prior, "num_augmentations": 4})
    same(adapter.step(x), torch.stack([by_hand(model, image, 0.1, 4, prior / (prior + 1)) for image in x]))


@pytest.mark.usefixtures("known")
def test_neither_order_nor_the_size_of_batches_matters():
    adapter, x = build_adapter("memo", trained(shape=SHAPE), hparams={"lr": 0.1}), images()
    answers, order = adapter.step(x), [3, 0, 4, 1, 2]
    assert torch.equal(adapter.step(x[order]), answers[order])
    assert torch.equal(torch.cat([adapter.step(image) for image in x.split(1)]), answers)


def test_without_a_step_it_is_bn_adapt_with_the_prior_on_each_image_bit_for_bit():
    model, x = trained(shape=SHAPE), images()
    adapter = build_adapter("memo", model, hparams={"lr": 0.0})
    other = build_adapter("bn_adapt", model, hparams={"prior": 16.0})
    assert torch.equal(adapter.step(x), torch.cat([other.step(image) for image in x.split(1)]))


def test_a_loss_that_is_not_finite_changes_nothing(monkeypatch):
    monkeypatch.setattr(core, "augmix", lambda image, num: torch.full((num, *SHAPE), torch.nan).double())
    model, x = trained(shape=SHAPE), images()
    answers = build_adapter("memo", model, hparams={"lr": 0.1}).step(x)
    assert torch.equal(answers, build_adapter("memo", model, hparams={"lr": 0.0}).step(x))


def test_marginal_entropy():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    assert core.marginal_entropy(p.log()).item() == pytest.approx(0.6109, abs=1e-4)
    z = torch.randn(1, 5)
    torch.testing.assert_close(core.marginal_entropy(z.expand(8, 5)), entropies(z)[0])
    assert core.marginal_entropy(torch.tensor([[1e4, 0.0], [1e4, 0.0]])).item() == 0


@pytest.mark.parametrize(
    ("hparams", "text"),
    [
        ({"prior": -1.0}, r"adapter\.prior=-1, expected a number of examples\. Set it to 0 or more"),
        ({"num_augmentations": 0}, r"adapter\.num_augmentations=0, expected copies\. Set it to 1 or more"),
    ],
)
def test_values_that_mean_nothing_are_refused(hparams, text):
    with pytest.raises(ValueError, match=text):
        build_adapter("memo", trained(shape=SHAPE), hparams=hparams)
