import importlib
import math
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch

from dgbench.batch import Batch
from dgbench.hparams import draw as draw_hparams
from dgbench.registry import UnknownName
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
    seed_hash,
    train,
    weights_of,
)

core = importlib.import_module("dgbench.algorithms.mixing.c_mixup")
DOMAINS = pytest.mark.parametrize("D", [1, 2, 5])
LABELS = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2 + 1000


def c_mixup(D=3, depth=2, **hparams):
    return make("c_mixup", hparams, "regression", D, depth=depth)


def exact(y, bandwidth):
    """Yao et al. 2022: P(j | i) in proportion to exp(-|y_i - y_j|^2 / (2 h^2)), j = i included; entry by entry."""
    rows = []
    for a in y.tolist():
        squares = [sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in y.tolist()]
        weights = [math.exp(-square / (2 * bandwidth**2)) for square in squares]
        rows.append([weight / math.fsum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float64)


def objective(alpha, seed, manifold=False, per_example=False):
    """Squared error at mixtures of the first and second half of each row, of inputs or after the first layer."""

    def loss(weights, batch, step):
        torch.manual_seed(seed_hash(seed, step))
        D, B = batch.y.shape[0], batch.y.shape[1] // 2
        lam = torch.distributions.Beta(alpha, alpha).sample((D * B, 1) if per_example else ()).double()
        lam = lam.view(D, B, 1) if per_example else lam
        W, b = weights[:2]
        hidden = (batch.x @ W.T + b).clamp(min=0) if manifold else batch.x
        outputs = mlp(weights[2:] if manifold else weights, lam * hidden[:, :B] + (1 - lam) * hidden[:, B:])[1]
        return example_losses(outputs, lam * batch.y[:, :B] + (1 - lam) * batch.y[:, B:]).mean()

    return loss


@DOMAINS
@pytest.mark.parametrize("mixes", ["input", "manifold"])
@pytest.mark.parametrize("lambda_per", ["batch", "example"])
def test_weights_after_three_steps(D, mixes, lambda_per):
    algorithm, batches = c_mixup(D, mixes=mixes, lambda_per=lambda_per), random_batches(3, "regression", D)
    algorithm.network.normalise.set(torch.full((5,), 0.3), torch.full((5,), 2.0))
    plain = [b._replace(x=(b.x - algorithm.network.normalise.mean) / 2) for b in batches]
    algorithm.seed, start = 7, weights_of(algorithm)
    expected = objective(2.0, 7, mixes == "manifold", lambda_per == "example")
    assert_weights(train(algorithm, batches), adam_steps(start, plain, expected))
    assert algorithm.step == 3
    assert differs(algorithm, adam_steps(start, plain, erm_loss))
    assert differs(algorithm, adam_steps(start, plain, objective(2.0, 7, mixes == "input", lambda_per == "example")))


@pytest.mark.parametrize("mixes", ["input", "manifold"])
def test_all_of_the_anchor_is_erm_on_the_anchors(monkeypatch, mixes):
    algorithm, (batch,) = c_mixup(mixes=mixes), random_batches(1, "regression")
    monkeypatch.setattr(sys.modules[type(algorithm).__module__], "Beta", lambda *_: SimpleNamespace(sample=torch.ones))
    anchors = Batch(*(part[:, :3] for part in batch[:3]))
    torch.testing.assert_close(algorithm.loss(batch)["loss"], erm_loss(weights_of(algorithm), anchors))


def test_the_manifold_is_that_of_the_first_stage_and_the_input_where_there_is_none():
    assert [c_mixup(depth=depth, mixes="manifold").place for depth in (2, 0)] == ["layer1", "normalise"]


def test_of_a_linear_layer_inputs_and_outputs_mix_alike():
    values, (batch,) = [], random_batches(1, "regression")
    for mixes in ("input", "manifold"):
        algorithm = c_mixup(mixes=mixes, stage="layer2")
        for layer in (algorithm.network.body.layer1, algorithm.network.body.layer2):
            layer[-1] = torch.nn.Identity()
        torch.manual_seed(1)
        values.append(algorithm.loss(batch)["loss"])
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 5.0])
def test_probabilities_are_those_of_the_kernel(bandwidth):
    probabilities = core.partner_probabilities(LABELS, LABELS, bandwidth)
    torch.testing.assert_close(probabilities, exact(LABELS, bandwidth), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40, dtype=torch.float64))
    one, two = ((LABELS[0] - LABELS[k]).square().sum() for k in (1, 2))
    ratio = torch.exp((two - one) / (2 * bandwidth**2))
    torch.testing.assert_close(probabilities[0, 1] / probabilities[0, 2], ratio, rtol=1e-8, atol=0.0)


def test_bandwidth_zero_is_oneself_and_infinity_is_anyone():
    torch.testing.assert_close(core.partner_probabilities(LABELS, LABELS, 1e9), torch.full((40, 40), 1 / 40).double())
    identity = core.partner_probabilities(LABELS, LABELS, 1e-200)
    assert torch.equal(identity, torch.eye(40, dtype=torch.float64))
    for u in (0.0, 1 - 2**-53):  # the least and the largest that are drawn
        assert torch.equal(core.inverse_cdf(identity, torch.full((40,), u, dtype=torch.float64)), torch.arange(40))


def test_permuted_and_chosen_candidates_have_permuted_and_restricted_probabilities():
    order, probabilities = torch.randperm(40), core.partner_probabilities(LABELS, LABELS, 1.0)
    permuted = core.partner_probabilities(LABELS[order], LABELS[order], 1.0)
    torch.testing.assert_close(permuted, probabilities[order][:, order])
    # And a pool has those of all examples, restricted to it.
    pool = order[:9]
    restricted = probabilities[:, pool] / probabilities[:, pool].sum(1, keepdim=True)
    torch.testing.assert_close(core.partner_probabilities(LABELS, LABELS[pool], 1.0), restricted)


def chi_square_is_usual(counts, probabilities):
    """Within five standard deviations of its mean, the degrees of freedom; rare cells are put together."""
    expected = probabilities * counts.sum()
    common = expected > 5
    counts = torch.cat([counts[common], counts[~common].sum().view(1)]).double()
    expected = torch.cat([expected[common], expected[~common].sum().view(1)]) + 1e-9
    freedom = len(counts) - 1
    return abs(((counts - expected) ** 2 / expected).sum() - freedom) < 5 * math.sqrt(2 * freedom)


def test_partners_of_the_dataset_are_as_frequent_as_the_kernel_says(monkeypatch):
    draw = c_mixup(bandwidth=1.0).make_sampler(LABELS, torch.zeros(40, dtype=torch.int64))
    anchors = torch.arange(40).view(2, 20).repeat(1, 500)
    rows = pickle.loads(pickle.dumps(draw))(anchors, torch.Generator().manual_seed(1))
    assert torch.equal(rows[:, :10000], anchors)
    for i in (0, 7, 23):
        counts = torch.bincount(rows[:, 10000:][anchors == i], minlength=40)
        assert chi_square_is_usual(counts, exact(LABELS, 1.0)[i])
        assert not chi_square_is_usual(counts, exact(LABELS, 1.5)[i])
    monkeypatch.setattr(core, "MOST", 90)  # in blocks of two anchors
    assert torch.equal(draw(anchors, torch.Generator().manual_seed(1)), rows)


def test_partners_of_the_batch_are_drawn_from_anchors_and_as_many_others():
    draw, kernel = core.Partners(LABELS, 1.0, "batch"), exact(LABELS, 1.0)
    anchors = torch.tensor([[3, 3, 8], [9, 30, 31]])
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        pool = anchors.flatten().tolist() + torch.randint(40, (6,), generator=generator).tolist()
        expected = []
        for anchor, u in zip(pool, torch.rand(6, dtype=torch.float64, generator=generator).tolist(), strict=False):
            total, below = math.fsum(kernel[anchor][k] for k in pool), 0.0
            for k in pool:
                below += float(kernel[anchor][k]) / total
                if below > u:
                    break
            expected.append(k)
        rows = draw(anchors, torch.Generator().manual_seed(seed))
        assert rows.tolist() == [[3, 3, 8, *expected[:3]], [9, 30, 31, *expected[3:]]]


@pytest.mark.parametrize("sampler", ["dataset", "batch"])
@DOMAINS
def test_with_a_vanishing_bandwidth_training_is_erm_on_the_anchors(sampler, D):
    algorithm, batches = c_mixup(D, bandwidth=1e-9, sampler=sampler), random_batches(3, "regression", D)
    start, rows = weights_of(algorithm), torch.arange(6 * D).view(D, 6)
    drawn = []
    for batch in batches:
        x, y = batch.x.flatten(0, 1), batch.y.flatten(0, 1)
        chosen = algorithm.make_sampler(y, batch.domain.flatten())(rows, torch.Generator().manual_seed(0))
        drawn.append(Batch(x[chosen], y[chosen], batch.domain.repeat(1, 2)))
    assert_weights(train(algorithm, drawn), adam_steps(start, batches, erm_loss))


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"rows of 5 examples, expected an even number.*make_sampler"):
        c_mixup().loss(random_batches(1, "regression", B=5)[0])
    for name in ("bandwidth", "alpha"):
        with pytest.raises(ValueError, match=rf"algorithm.{name}=0, expected above 0"):
            c_mixup(**{name: 0})
    with pytest.raises(UnknownName, match=r"'batches' is not a known value of algorithm.sampler. Did you mean 'batch'"):
        c_mixup(sampler="batches")
    with pytest.raises(UnknownName, match=r"'layer3' is not a known place to mix in mlp.*Known: input, layer1, layer2"):
        c_mixup(mixes="manifold", stage="layer3")
    with pytest.raises(ValueError, match="CMixup works for regression, but the task is classification"):
        make("c_mixup")


def test_draws():
    drawn = draw_hparams(core.HParams, 1, 0)
    assert drawn.bandwidth == 10 ** domainbed_generator("c_mixup_bandwidth").uniform(-2, 2)
    assert drawn.alpha == (0.5, 1.0, 1.5, 2.0)[domainbed_generator("c_mixup_alpha").randint(4)]
