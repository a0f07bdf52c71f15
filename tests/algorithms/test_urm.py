import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.registry import UnknownName
from dgbench.task import Task
from tests.algorithms.reference import (
    Adam,
    adam_steps,
    assert_weights,
    differs,
    erm_loss,
    example_losses,
    make,
    random_batches,
    train,
    weights_of,
)

KINDS = pytest.mark.parametrize("kind", ["classification", "regression"])


def drawn(urm):
    """The noise that it draws, step after step."""
    seen, noise = [], urm.noise

    def spy(features):
        seen.append(noise(features))
        return seen[-1]

    urm.noise = spy
    return seen


def network(weights, x, activation):
    W, b, V, c = weights
    hidden = (x @ W.T + b).clamp(min=0)
    features = hidden if activation == "relu" else 1 - 2 / (torch.exp(2 * hidden) + 1)
    return features, features @ V.T + c


def discriminator(weights, z):
    """Linear layers with leaky ReLUs of slope 0.01 between them."""
    for W, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        z = z @ W.T + b
        z = torch.where(z > 0, z, 0.01 * z)
    return torch.sigmoid(z @ weights[-2].T + weights[-1])


def urm_steps(weights, batches, noise, lam, activation, lr_d=0.02, d_lam=None, is_frozen=True):
    """DomainBed's URM.update: the network's step, then the discriminator's on the features before it."""
    weights = [w.clone().requires_grad_() for w in weights]
    net, disc = weights[:4], weights[4:]
    adam, adam_d = Adam(net, lr=0.01, weight_decay=0.05), Adam(disc, lr=lr_d, weight_decay=0.05)
    for batch, u in zip(batches, noise, strict=True):
        features, outputs = network(net, batch.x, activation)
        fooled = -torch.log(discriminator(disc, features)).mean()
        grads = torch.autograd.grad(example_losses(outputs, batch.y).mean() + lam * fooled, net, retain_graph=True)
        adam.step(grads)
        z = features.detach().flatten(0, 1)
        d_loss = -torch.log(discriminator(disc, u)).mean()
        d_loss = d_loss - (lam if d_lam is None else d_lam) * torch.log(1 - discriminator(disc, z)).mean()
        if not is_frozen:
            d_loss = d_loss + lam * fooled
        adam_d.step(torch.autograd.grad(d_loss, disc))
    return weights


@KINDS
@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize(("activation", "hidden_layers"), [("tanh", 1), ("relu", 3)])
def test_weights_after_some_steps(kind, D, activation, hidden_layers):
    hparams = {"adversarial_weight": 0.7, "activation": activation, "hidden_layers": hidden_layers, "lr_d": 0.02}
    urm = make("urm", hparams, kind, D=D, optim=Optim(lr=0.01, weight_decay=0.05))
    batches, start, noise = random_batches(4, kind, D=D), weights_of(urm), drawn(urm)
    train(urm, batches)
    assert_weights(urm, urm_steps(start, batches, noise, 0.7, activation))
    for change in ({"lam": 0.0}, {"d_lam": 1.0}, {"is_frozen": False}, {"lr_d": 0.01}):
        assert differs(urm, urm_steps(start, batches, noise, **{"lam": 0.7, "activation": activation, **change}))


def test_without_weight_the_network_is_erms():
    urm, batches = make("urm", {"adversarial_weight": 0.0, "activation": "relu"}), random_batches(3)
    start = weights_of(urm)[:4]
    train(urm, batches)
    expected = adam_steps(start, batches, erm_loss)
    torch.testing.assert_close(weights_of(urm)[:4], [w.detach() for w in expected])


@pytest.mark.parametrize(("activation", "low"), [("tanh", -1), ("relu", 0)])
def test_noise_is_uniform_over_the_activations_range(activation, low):
    torch.manual_seed(0)
    noise = make("urm", {"activation": activation}).noise(torch.zeros(400, 50, dtype=torch.float64))
    assert noise.dtype is torch.float64
    assert low <= noise.min() < low + 0.01
    assert 0.99 < noise.max() <= 1
    torch.testing.assert_close(noise.mean().item(), (1 + low) / 2, atol=0.02, rtol=0)
    torch.testing.assert_close(noise.var().item(), (1 - low) ** 2 / 12, atol=0.02, rtol=0)


@KINDS
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_prediction_passes_through_the_activation(kind, activation):
    urm, batches = make("urm", {"activation": activation}, kind), random_batches(2, kind)
    train(urm, batches).eval()
    x = batches[0].x[0]
    features, outputs = network(weights_of(urm)[:4], x, activation)
    torch.testing.assert_close(urm.features(x), features)
    decoded = outputs * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5 if kind == "regression" else outputs
    torch.testing.assert_close(urm(x), decoded)
    assert torch.equal(urm.classify(urm.features(x)), urm(x))


def test_features_become_uniform():
    """The network has nothing to learn but to fool the discriminator."""
    gaps, levels = [], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    for weight in (0.0, 1.0):
        hparams = {"adversarial_weight": weight, "lr_d": 0.01}
        urm = make("urm", hparams, D=1, width=2, activation="elu", optim=Optim(lr=0.01))
        batches = [batch._replace(y=torch.zeros_like(batch.y)) for batch in random_batches(150, D=1, B=64)]
        features = train(urm, batches).eval().features(random_batches(1, D=1, B=512, seed=1)[0].x[0]).detach()
        gaps.append((features.quantile(levels, dim=0) - (2 * levels - 1).unsqueeze(1)).abs().mean())
    assert gaps[1] < 0.5 * gaps[0]


def test_discriminator_has_domainbeds_layers():
    layers = make("urm", {"hidden_layers": 2}).discriminator
    shapes = [tuple(p.shape) for p in layers.parameters() if p.ndim == 2]
    assert shapes == [(100, 7), (100, 100), (100, 100), (1, 100)]


def test_one_logit():
    task = Task("classification", 2, single_logit=True)
    built = build_network("mlp", (5,), task.num_outputs, width=7)
    urm = build_algorithm("urm", task=task, network=built, num_domains=3, optim=Optim(lr=0.01)).double()
    batches = [batch._replace(y=batch.y % 2) for batch in random_batches(3)]
    assert train(urm, batches).step == 3
    assert urm(batches[0].x[0]).shape == (6, 1)


def test_unknown_activation_is_refused():
    with pytest.raises(UnknownName, match=r"'sigmoid' is not a known activation \(algorithm.activation\).*relu"):
        make("urm", {"activation": "sigmoid"})
