import sys
from collections import Counter
from typing import Any

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.contrast_reference import supervised_contrast
from tests.algorithms.reference import (
    adversarial_steps,
    assert_weights,
    differs,
    domainbed_movers,
    example_losses,
    make,
    mlp,
    random_batches,
    train,
    weights_of,
)

SMALL = {"mlp_width": 6, "mlp_depth": 2, "beta1": 0.3}
SHARES = {"contrast_weight": 0.6, "domain_weight": 0.7, "remix_weight": 0.8, "adversarial_weight": 0.9}
OPTIM: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}


def module():
    return sys.modules[type(make("adrmx")).__module__]


@pytest.fixture
def pairs(monkeypatch):
    """The pairs that were remixed, by the labels of the batch."""
    seen, draw_pairs = {}, module().remix_pairs

    def spy(y, domain, num_classes):
        seen[tuple(y.tolist())] = made = draw_pairs(y, domain, num_classes)
        return made

    monkeypatch.setattr(module(), "remix_pairs", spy)
    return seen


def risks(network, adversary, batch, pairs, contrast_weight, domain_weight, remix_weight):
    """DomainBed's ADRMX.update, with linear heads and the pairs that were drawn."""
    label, domains, (V, c), (W, b, U, e) = network[:4], network[4:8], network[8:], adversary
    y, d = batch.y.flatten(), batch.domain.flatten()
    x = batch.x.flatten(0, 1)
    (f_label, outputs), (f_domain, domain_outputs) = mlp(label, x), mlp(domains, x)
    invariant = f_label - f_domain
    loss = example_losses(outputs, y).mean() + example_losses(invariant @ V.T + c, y).mean()
    loss = loss + domain_weight * example_losses(domain_outputs, d).mean()
    for i, j, is_paired in zip(*pairs.get(tuple(y.tolist()), ((), (), ())), strict=True):
        if is_paired:
            mixed = (invariant[i] + f_domain[j]) @ label[2].T + label[3]
            loss = loss + remix_weight * example_losses(mixed, y[i]) / 4
    loss = loss + contrast_weight * (supervised_contrast(f_label, y) + supervised_contrast(invariant, y))
    return loss, example_losses((invariant @ W.T + b).clamp(min=0) @ U.T + e, d).mean()


def steps(weights, batches, pairs, k, **changes):
    shares = {**SHARES, **changes}
    lam = shares.pop("adversarial_weight")
    adam = {"betas": (0.3, 0.9), **OPTIM}
    return adversarial_steps(
        weights,
        10,
        batches,
        lambda network, adversary, batch: risks(network, adversary, batch, pairs, **shares),
        lambda t: lam,
        domainbed_movers(k),
        adam,
        adam,
    )


@pytest.mark.parametrize(("k", "D"), [(2, 3), (2, 5), (1, 2)])
def test_weights_after_some_steps(k, D, pairs):
    adrmx = make("adrmx", {"d_steps_per_g_step": k, **SMALL, **SHARES}, D=D, optim=Optim(**OPTIM))
    batches, start = random_batches(6, D=D), weights_of(adrmx)
    train(adrmx, batches)
    assert adrmx.step == 6
    assert len(pairs) == (2 if k == 2 else 3)
    assert_weights(adrmx, steps(start, batches, pairs, k))
    for name in SHARES:
        assert differs(adrmx, steps(start, batches, pairs, k, **{name: 0.0})), name


def test_first_learns_the_discriminator_then_the_rest():
    adrmx, moved = make("adrmx", SMALL), []
    batches, names = random_batches(6), [name.split(".")[0] for name, _ in adrmx.named_parameters()]
    for batch in batches:
        before, start = weights_of(adrmx), adrmx.step
        train(adrmx, [batch])
        adrmx.set_step(start + 1)
        changed = {n for n, a, b in zip(names, before, weights_of(adrmx), strict=True) if not torch.equal(a, b)}
        moved.append("d" if changed == {"discriminator"} else "n" if "discriminator" not in changed else "?")
    assert "".join(moved) == "dnddnd"


def test_remixed_pairs_are_of_one_class_and_two_domains():
    remix_pairs = module().remix_pairs
    torch.manual_seed(0)
    y, domain = torch.randint(4, (40,)), torch.randint(3, (40,))
    y[0], y[1:4], domain[1:4] = 4, 5, 2  # one example of class 4, one domain of class 5, none of class 6
    for _ in range(50):
        first, second, is_paired = remix_pairs(y, domain, 7)
        assert is_paired.tolist() == [True] * 4 + [False] * 3
        assert y[first[:4]].tolist() == y[second[:4]].tolist() == [0, 1, 2, 3]
        assert (domain[first[:4]] != domain[second[:4]]).all()


def test_every_pair_is_remixed():
    remix_pairs = module().remix_pairs
    torch.manual_seed(0)
    y, domain = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([0, 1, 1, 2, 0])
    counts: Counter = Counter()
    for _ in range(1000):
        first, second, _ = remix_pairs(y, domain, 2)
        counts[int(first[0]), int(second[0])] += 1
    # Examples 2 and 3 have three partners each, 0 and 4 have two.
    expected = {(i, j): 250 / (3 if i in (2, 3) else 2) for i in (0, 2, 3, 4) for j in (0, 2, 3, 4)}
    possible = {pair for pair in expected if domain[pair[0]] != domain[pair[1]]}
    assert set(counts) == possible
    assert all(abs(counts[pair] - expected[pair]) < 50 for pair in possible)


def test_a_batch_without_pairs_has_no_remix():
    adrmx, (batch,) = make("adrmx", SMALL), random_batches(1)
    adrmx.set_step(1)
    values = adrmx.loss(batch._replace(y=batch.domain))
    assert values["remix_nll"] == 0
    assert values["loss"].isfinite()
    assert adrmx.loss(batch)["remix_nll"] > 0


def test_prediction_is_the_label_branchs():
    adrmx, batches = make("adrmx", SMALL), random_batches(3)
    train(adrmx, batches).eval()
    x = batches[0].x[0]
    torch.testing.assert_close(adrmx(x), mlp(weights_of(adrmx)[:4], x)[1])


def test_the_second_featurizer_has_its_own_weights_and_the_same_statistics(tmp_path):
    def second(network):
        return build_algorithm("adrmx", task=Task("classification", 4), network=network, num_domains=3).domain_network

    def first_weights(network):
        return next(network.body.parameters())

    network = build_network("mlp", (5,), 4, width=7)
    network.normalise.set(torch.randn(5), torch.rand(5) + 1)
    made = second(network)
    assert made.head.out_features == 3
    assert not torch.equal(first_weights(network), first_weights(made))
    assert torch.equal(network.normalise.mean, made.normalise.mean)
    assert torch.equal(network.normalise.std, made.normalise.std)
    # Pretrained, both start from the same weights.
    torch.save(network.state_dict(), tmp_path / "net.pt")
    made = second(build_network("mlp", (5,), 4, width=7, weights=str(tmp_path / "net.pt")))
    assert torch.equal(first_weights(network), first_weights(made))
    assert torch.equal(network.normalise.mean, made.normalise.mean)
    # A network that is rebuilt for a checkpoint has no file to read.
    network.recipe |= {"normalise": "weights", "weights": "sha256"}
    assert torch.equal(network.normalise.mean, second(network).normalise.mean)


def test_discriminator_is_domainbeds():
    layers = make("adrmx", {"mlp_width": 11, "mlp_depth": 4}).discriminator
    shapes = [tuple(p.shape) for p in layers.parameters() if p.ndim == 2]
    assert shapes == [(11, 7), (11, 11), (11, 11), (3, 11)]


def test_one_logit_and_sgd():
    task = Task("classification", 2, single_logit=True)
    network = build_network("mlp", (5,), task.num_outputs, width=7)
    optim = Optim(lr=0.01, optimizer="sgd")
    adrmx = build_algorithm("adrmx", task=task, network=network, num_domains=3, hparams=SMALL, optim=optim).double()
    batches = [batch._replace(y=batch.y % 2) for batch in random_batches(3)]
    assert train(adrmx, batches).step == 3
    assert adrmx(batches[0].x[0]).shape == (6, 1)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="ADRMX needs at least 2 training domains, got 1"):
        make("adrmx", D=1)
    with pytest.raises(ValueError, match="ADRMX works for classification, but the task is regression"):
        make("adrmx", kind="regression")
