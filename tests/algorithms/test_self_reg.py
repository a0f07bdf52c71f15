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
    mlp,
    random_batches,
    seed_hash,
    train,
    weights_of,
)


def projected(f, weights):
    """Linear and batch normalisation, three times, with ReLU between them; weights [W, gamma, beta] three times."""
    for i, (W, gamma, beta) in enumerate(zip(weights[::3], weights[1::3], weights[2::3], strict=True)):
        h = f @ W.T
        h = gamma * (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() + beta
        f = h if i == 2 else h.clamp(min=0)
    return f


def partners(y):
    """Class by class, its examples in order beside the same in the order of one random permutation."""
    shuffled, found = torch.randperm(len(y)).tolist(), [-1] * len(y)
    for c in sorted(set(y.tolist())):
        for i, j in zip([i for i in range(len(y)) if y[i] == c], [j for j in shuffled if y[j] == c], strict=True):
            found[i] = j
    return found


def objective(seed, alpha=0.5, feature_weight=0.3, logit_weight=1.0, is_trained=True):
    """Kim et al. 2021, as DomainBed's SelfReg, here with a projection that is trained."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        y = batch.y.flatten()
        f, z = mlp(weights[:-9], batch.x.flatten(0, 1))
        p = projected(f, weights[-9:] if is_trained else [w.detach() for w in weights[-9:]])
        lam = torch.distributions.Beta(alpha, alpha).sample().double()
        one, two = partners(y), partners(y)
        total = 0.0
        for part, target_z, target_p in (
            (lam, z[one], p[one]),
            (1 - lam, lam * z[one] + (1 - lam) * z[two], lam * p[one] + (1 - lam) * p[two]),
        ):
            logits, features = ((z - target_z) ** 2).mean(), ((f - target_p) ** 2).mean()
            total = total + part * (logit_weight * logits + feature_weight * features)
        risk = example_losses(z, y).mean()
        # Without the projection in any term, its gradients are zero.
        return risk + min(risk.item(), 1.0) * total + 0 * sum(w.sum() for w in weights[-9:])

    return loss


@pytest.mark.parametrize("D", [1, 2, 5])
def test_weights_after_four_steps(D):
    self_reg, batches = make("self_reg", D=D), random_batches(4, D=D)
    self_reg.seed = 6
    start = weights_of(self_reg)
    torch.manual_seed(seed_hash(6, 0))
    torch.testing.assert_close(self_reg.loss(batches[0])["loss"], objective(6)(start, batches[0], 0))
    assert_weights(train(self_reg, batches), adam_steps(start, batches, objective(6)))
    assert self_reg.step == 4
    others = (
        *(objective(6, feature_weight=0.0), objective(6, logit_weight=0.0), objective(6, alpha=5.0), objective(7)),
        objective(6, is_trained=False),
    )
    for other in others:
        assert differs(self_reg, adam_steps(start, batches, other))
    assert differs(self_reg, [*adam_steps(start[:-9], batches, erm_loss), *weights_of(self_reg)[-9:]])


@pytest.mark.parametrize("is_right", [True, False])
def test_regularisation_is_scaled_by_the_risk_up_to_1_a_constant(is_right):
    self_reg, (batch,) = make("self_reg", depth=0), random_batches(1)
    with torch.no_grad():
        self_reg.network.head.weight.mul_(2)
        logits = self_reg.network(batch.x.flatten(0, 1))
    values = self_reg.loss(batch._replace(y=(logits if is_right else -logits).argmax(1).view(3, 6)))
    assert (values["nll"].item() < 1) == is_right
    expected = values["nll"] + min(values["nll"].item(), 1.0) * values["penalty"]
    torch.testing.assert_close(values["loss"], expected)
    weight = self_reg.network.head.weight
    got, slope = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (values["loss"], expected))
    torch.testing.assert_close(got, slope)


def test_every_weight_of_the_projection_is_trained():
    self_reg = make("self_reg")
    start = [p.detach().clone() for p in self_reg.projection.parameters()]
    train(self_reg, random_batches(2))
    assert len(start) == 9
    assert all(not p.equal(before) for p, before in zip(self_reg.projection.parameters(), start, strict=True))


@pytest.mark.parametrize(("width", "hidden"), [(7, 14), (2048, 2048)])
def test_width_of_the_projection_is_domainbeds(width, hidden):
    layers = make("self_reg", width=width).projection
    shapes = [tuple(p.shape) for p in layers.parameters() if p.ndim == 2]
    assert shapes == [(hidden, width), (hidden, hidden), (width, hidden)]


def test_permutations_within_classes_are_all_as_likely():
    permute_within = sys.modules[type(make("self_reg")).__module__].permute_within
    y = torch.tensor([2, 0, 2, 0, 2, 3])
    torch.manual_seed(0)
    counts = Counter(tuple(permute_within(y).tolist()) for _ in range(2400))
    assert len(counts) == 6 * 2
    assert all(abs(count - 200) < 70 for count in counts.values())
    for found in counts:
        assert sorted(found) == list(range(6))
        assert torch.equal(y[list(found)], y)


def test_alone_in_its_class_only_the_projection_is_drawn_to():
    """Every example is its own partner: logits have no distance, features that to their own projection."""
    self_reg, (batch,) = make("self_reg", D=1), random_batches(1, D=1, B=4)
    batch = batch._replace(y=torch.arange(4).unsqueeze(0))
    weights = weights_of(self_reg)
    f = mlp(weights[:-9], batch.x[0])[0]
    expected = 0.3 * ((f - projected(f, weights[-9:])) ** 2).mean()
    torch.testing.assert_close(self_reg.loss(batch)["penalty"], expected)


def test_predictions_do_without_the_projection():
    self_reg, (batch,) = make("self_reg").eval(), random_batches(1)
    assert torch.equal(self_reg(batch.x[0]), self_reg.network(batch.x[0]))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"algorithm\.alpha=0, expected more than 0"):
        make("self_reg", {"alpha": 0})
    with pytest.raises(ValueError, match="SelfReg works for classification, but the task is regression"):
        make("self_reg", kind="regression")
