import sys
from collections import Counter

import pytest
import torch

from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    random_batches,
    seed_hash,
    train,
    weights_of,
)
from tests.algorithms.test_lisa import drawn_partners

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])
CNN = {"name": "small_cnn", "width": 3, "depth": 3, "normalise": "none"}


def mixed(x, share, partner, axes):
    """Zhou et al. 2021: (x - mu) / sigma in the mixed statistics, which are constants; eps within the root."""
    mu = x.mean(axes, keepdim=True).detach()
    sigma = (((x - mu) ** 2).mean(axes, keepdim=True) + 1e-6).sqrt().detach()
    share = share.double().reshape(-1, *[1] * (x.ndim - 1))
    beta, gamma = share * mu + (1 - share) * mu[partner], share * sigma + (1 - share) * sigma[partner]
    return gamma * (x - mu) / sigma + beta


def random_mix(x, domain, alpha, probability, pairing):
    """One place: the coin, the partners, lambda for each example."""
    if torch.rand(()).item() >= probability:
        return x
    N = len(x)
    cross = pairing == "cross_domain"
    partner = drawn_partners(torch.zeros(N), domain, torch.rand(N)) if cross else torch.randperm(N)
    share = torch.distributions.Beta(alpha, alpha).sample((N,))
    return mixed(x, share, partner, (2, 3) if x.ndim == 4 else (1,))


def objective(stages, seed, alpha=0.1, probability=0.5, pairing="random"):
    """A loss of an mlp or a small_cnn of three stages, mixed after `stages` (0 the input, 1 the first ...)."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        h, domain = batch.x.flatten(0, 1), batch.domain.flatten()
        how = alpha, probability, pairing
        h = random_mix(h, domain, *how) if 0 in stages else h
        for i, (W, b) in enumerate(zip(weights[:-2:2], weights[1:-2:2], strict=True), 1):
            stride = 1 if i == 1 else 2
            h = torch.conv2d(h, W, b, stride=stride, padding=1) if W.ndim == 4 else h @ W.T + b
            h = h.clamp(min=0)
            h = random_mix(h, domain, *how) if i in stages else h
        h = h.mean((2, 3)) if h.ndim == 4 else h
        return example_losses(h @ weights[-2].T + weights[-1], batch.y.flatten(0, 1)).mean()

    return loss


@KINDS
@pytest.mark.parametrize(
    ("pairing", "D"), [("random", 1), ("random", 2), ("random", 5), ("cross_domain", 2), ("cross_domain", 5)]
)
def test_weights_on_maps(kind, pairing, D):
    how = {"pairing": pairing, "alpha": 0.3}
    mixstyle = make("mixstyle", how, kind, D, shape=(2, 8, 8), **CNN)
    mixstyle.seed = 4
    batches, start = random_batches(3, kind, D, B=4, shape=(2, 8, 8)), weights_of(mixstyle)
    expected = adam_steps(start, batches, objective((1, 2), 4, **how))
    assert_weights(train(mixstyle, batches), expected)
    assert mixstyle.step == 3
    for other in (objective((), 4), objective((1,), 4, **how), objective((1, 2), 4, alpha=2.0, pairing=pairing)):
        assert differs(mixstyle, adam_steps(start, batches, other))


@KINDS
@pytest.mark.parametrize(("stages", "places"), [(None, (1, 2)), (["layer3"], (3,)), (["input", "layer2"], (0, 2))])
def test_weights_on_features(kind, stages, places):
    mixstyle = make("mixstyle", {"stages": stages, "probability": 0.8}, kind, depth=3, normalise="none")
    mixstyle.seed = 4
    batches, start = random_batches(3, kind), weights_of(mixstyle)
    expected = adam_steps(start, batches, objective(places, 4, probability=0.8))
    assert_weights(train(mixstyle, batches), expected)
    assert differs(mixstyle, adam_steps(start, batches, erm_loss))


def test_at_probability_0_it_is_erm():
    mixstyle, batches = make("mixstyle", {"probability": 0.0}), random_batches(3)
    expected = adam_steps(weights_of(mixstyle), batches, erm_loss)
    assert_weights(train(mixstyle, batches), expected)


@pytest.mark.parametrize(("shape", "axes"), [((6, 3, 4, 5), (2, 3)), ((6, 4, 3), (1,)), ((6, 5), (1,))])
def test_style_is_mixed_and_content_kept(shape, axes):
    mix_styles = sys.modules[type(make("mixstyle")).__module__].mix_styles
    torch.manual_seed(0)
    scale = torch.arange(1.0, 7).view(-1, *[1] * (len(shape) - 1))
    maps = (scale * torch.randn(shape, dtype=torch.float64) - scale).requires_grad_()
    partner, share = torch.randperm(6), torch.rand(6, dtype=torch.float64)
    got = mix_styles(maps, partner, share)
    mean, std = maps.mean(axes, keepdim=True), maps.std(axes, correction=0, keepdim=True)
    weight = share.view(scale.shape)
    torch.testing.assert_close(got.mean(axes, keepdim=True), weight * mean + (1 - weight) * mean[partner])
    new_std = weight * std + (1 - weight) * std[partner]
    torch.testing.assert_close(got.std(axes, correction=0, keepdim=True), new_std, rtol=1e-4, atol=0)
    # Of its own style alone it is itself; and statistics are constants to the gradient.
    torch.testing.assert_close(mix_styles(maps, partner, torch.ones(6)), maps)
    (grad,) = torch.autograd.grad(got.sum(), maps)
    torch.testing.assert_close(grad, (new_std / std).expand(shape), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"name": "mnist_cnn"}, ["conv1", "conv2"]),
        ({"name": "small_cnn", "depth": 5}, ["conv1", "conv2", "conv3"]),
        ({"name": "small_resnet"}, ["stem", "layer1"]),
        ({"name": "timm:resnet18"}, ["act1", "layer1", "layer2"]),
        ({"name": "mlp", "depth": 1}, ["layer1"]),
    ],
)
def test_default_is_the_first_half_of_the_stages(network, expected):
    built = make("mixstyle", shape=(3, 32, 32), **{"width": None, **network})
    assert built.places == expected


def test_tokens_of_a_transformer_are_mixed():
    hparams = {"probability": 1.0, "alpha": 1.0}
    mixstyle = make("mixstyle", hparams, shape=(3, 224, 224), name="timm:vit_tiny_patch16_224", width=None)
    (batch,) = random_batches(1, D=1, B=2, shape=(3, 224, 224))
    assert mixstyle.loss(batch)["loss"].isfinite()


def test_partners_come_from_where_they_should(monkeypatch):
    seen: Counter[str] = Counter()
    for pairing in ("random", "cross_domain"):
        mixstyle, (batch,) = make("mixstyle", {"pairing": pairing, "probability": 1.0}), random_batches(1, B=30)
        module, domain = sys.modules[type(mixstyle).__module__], batch.domain.flatten()

        def spy(maps, partner, share, pairing=pairing, domain=domain):
            seen[pairing] += int((domain[partner] == domain).sum())
            assert len(share.unique()) > 50
            return maps

        monkeypatch.setattr(module, "mix_styles", spy)
        mixstyle.loss(batch)
    assert seen["cross_domain"] == 0
    assert 10 < seen["random"] < 60


def test_predictions_are_not_mixed():
    mixstyle, (batch,) = make("mixstyle", {"probability": 1.0}), random_batches(1)
    assert torch.equal(mixstyle(batch.x[0]), mixstyle.network(batch.x[0]))


def test_bad_values_are_refused():
    with pytest.raises(LookupError, match=r"'cross' is not a known pairing \(algorithm.pairing\)"):
        make("mixstyle", {"pairing": "cross"})
    with pytest.raises(LookupError, match=r"'layer9' is not a known place to mix in mlp.*layer1"):
        make("mixstyle", {"stages": ["layer9"]})
    with pytest.raises(ValueError, match=r"pairing=cross_domain needs at least 2 training domains, got 1. Use pairing"):
        make("mixstyle", {"pairing": "cross_domain"}, D=1)
    with pytest.raises(ValueError, match=r"after stages of the network, but mlp as configured has none.*stages=\[inp"):
        make("mixstyle", depth=0)
    with pytest.raises(ValueError, match=r"algorithm\.probability=2, expected a probability from 0 to 1"):
        make("mixstyle", {"probability": 2})
    with pytest.raises(ValueError, match=r"algorithm\.alpha=0, expected more than 0"):
        make("mixstyle", {"alpha": 0})
