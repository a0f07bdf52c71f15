import sys

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


def drawn_partners(same, other, draws):
    """Of each example the one at part `draws` of those eligible, by value of `other`, then by place."""
    same, other, found = same.tolist(), other.tolist(), []
    for i, u in enumerate(draws.tolist()):
        eligible = [j for j in range(len(same)) if same[j] == same[i] and other[j] != other[i]]
        eligible.sort(key=lambda j: (other[j], j))
        found.append(eligible[int(u * len(eligible))] if eligible else i)
    return found


def objective(mix_ratio: float, alpha: float, seed: int):
    """Yao et al. 2022: mixed inputs, and the cross-entropy with mixed one-hot labels."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        x, y, domain = batch.x.flatten(0, 1), batch.y.flatten(), batch.domain.flatten()
        is_intra_label = torch.rand(()).item() < mix_ratio
        pair = (y, domain) if is_intra_label else (domain, y)
        partner = drawn_partners(*pair, torch.rand(len(y)))
        share = torch.distributions.Beta(alpha, alpha).sample((len(y),)).double().unsqueeze(1)
        labels = F.one_hot(y, 4).double()
        outputs = mlp(weights, share * x + (1 - share) * x[partner])[1]
        mixed = share * labels + (1 - share) * labels[partner]
        return -(mixed * outputs.log_softmax(1)).sum(1).mean()

    return loss


def spied_partners(lisa):
    """What the method asks of `partners` and gets, call after call."""
    module, calls = sys.modules[type(lisa).__module__], []
    inner = module.partners

    def spy(same, other):
        calls.append((same, other, inner(same, other)))
        return calls[-1][2]

    return module, spy, calls


@pytest.mark.parametrize("D", [2, 5])
@pytest.mark.parametrize("mix_ratio", [0.0, 0.5, 1.0])
def test_weights_after_four_steps(mix_ratio, D):
    lisa, batches = make("lisa", {"mix_ratio": mix_ratio}, D=D), random_batches(4, D=D)
    lisa.seed = 3  # at a ratio of 0.5, the steps have both pairings
    start = weights_of(lisa)
    assert_weights(train(lisa, batches), adam_steps(start, batches, objective(mix_ratio, 2.0, 3)))
    assert lisa.step == 4
    for other in (erm_loss, objective(mix_ratio, 0.2, 3), objective(1.0 if mix_ratio < 1 else 0.0, 2.0, 3)):
        assert differs(lisa, adam_steps(start, batches, other))
    assert differs(lisa, adam_steps(start, batches, objective(0.0, 2.0, 3))) == (mix_ratio > 0)


@pytest.mark.parametrize("mix_ratio", [0.0, 1.0])
def test_pairs_share_one_and_differ_in_the_other(monkeypatch, mix_ratio):
    lisa, (batch,) = make("lisa", {"mix_ratio": mix_ratio}), random_batches(1, B=40)
    module, spy, calls = spied_partners(lisa)
    monkeypatch.setattr(module, "partners", spy)
    lisa.loss(batch)
    y, domain = batch.y.flatten(), batch.domain.flatten()
    ((*_, partner),) = calls
    assert ((y[partner] == y).all(), (domain[partner] != domain).all()) == (mix_ratio == 1, mix_ratio == 1)
    assert ((y[partner] != y).all(), (domain[partner] == domain).all()) == (mix_ratio == 0, mix_ratio == 0)


def test_labels_stay_within_labels(monkeypatch):
    """The mixed label is the label itself: the loss is that of the mixed inputs against plain labels."""
    lisa, (batch,) = make("lisa", {"mix_ratio": 1.0}), random_batches(1)
    seen, features = [], lisa.network.features

    def spy(x, after=None):
        seen.append(x)
        return features(x, after)

    monkeypatch.setattr(lisa.network, "features", spy)
    got = lisa.loss(batch)["loss"]
    assert not torch.allclose(seen[0], batch.x.flatten(0, 1))
    torch.testing.assert_close(got, example_losses(mlp(weights_of(lisa), seen[0])[1], batch.y.flatten()).mean())


@pytest.mark.parametrize("mix_ratio", [0.0, 1.0])
def test_without_any_partner_it_is_erm(mix_ratio):
    """Every domain has one label, and no label is in two domains."""
    lisa, batches = make("lisa", {"mix_ratio": mix_ratio}), random_batches(3)
    batches = [batch._replace(y=batch.domain.clone()) for batch in batches]
    expected = adam_steps(weights_of(lisa), batches, erm_loss)
    assert_weights(train(lisa, batches), expected)


def test_partners_are_drawn_evenly_and_only_if_eligible():
    partners = sys.modules[type(make("lisa")).__module__].partners
    torch.manual_seed(0)
    same, other = torch.randint(3, (60,)), torch.randint(4, (60,))
    eligible = (same.unsqueeze(1) == same) & (other.unsqueeze(1) != other)
    counts = torch.zeros(60, 60)
    for _ in range(2000):
        counts[torch.arange(60), partners(same, other)] += 1
    assert torch.equal(counts > 0, eligible)
    expected = 2000 / eligible.sum(1, keepdim=True)
    assert ((counts - expected).abs() < 6 * expected.sqrt())[eligible].all()


def test_partners_of_a_draw_that_rounds_up(monkeypatch):
    partners = sys.modules[type(make("lisa")).__module__].partners
    monkeypatch.setattr(torch, "rand", lambda n: torch.ones(n))
    assert partners(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 0, 2, 5])).tolist() == [2, 2, 0, 3]


def test_one_logit_is_trained_as_two_are():
    losses = []
    for single in (True, False):
        task = Task("classification", 2, single_logit=single)
        network = build_network("mlp", (5,), task.num_outputs, depth=0)
        lisa = build_algorithm("lisa", task=task, network=network, num_domains=2).double()
        w = torch.arange(5.0).double().unsqueeze(0)
        with torch.no_grad():
            network.head.weight.copy_(w if single else torch.cat([0 * w, w]))
            network.head.bias.zero_()
        (batch,) = random_batches(1, D=2)
        torch.manual_seed(0)
        losses.append(lisa.loss(batch._replace(y=batch.y % 2))["loss"])
    torch.testing.assert_close(*losses)


def test_bad_values_are_refused():
    for ratio in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"algorithm\.mix_ratio={ratio}, expected a probability from 0 to 1"):
            make("lisa", {"mix_ratio": ratio})
    with pytest.raises(ValueError, match=r"algorithm\.alpha=0, expected more than 0"):
        make("lisa", {"alpha": 0})
    with pytest.raises(ValueError, match="LISA needs at least 2 training domains, got 1"):
        make("lisa", D=1)
    with pytest.raises(ValueError, match="LISA works for classification, but the task is regression"):
        make("lisa", kind="regression")
