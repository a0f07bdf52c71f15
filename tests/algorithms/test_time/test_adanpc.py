import math

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.algorithm import build_algorithm
from dgbench.batch import Batch
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.registry import algorithms
from dgbench.task import Task
from dgbench.workbench import Workbench, inputs
from tests.algorithms.reference import Adam

GOLDEN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 1, 1])
NONE = 1.1  # a threshold that no confidence reaches


def random(N, F=5, C=3, seed=0):
    r = torch.Generator().manual_seed(seed)
    return torch.randn(N, F, generator=r, dtype=torch.float64), torch.arange(N) % C


def adapter(keys, labels, C=3, single_logit=False, **hparams):
    """AdaNPC on a network whose features are its inputs, the memory in batches of four."""
    task = Task("classification", C, single_logit=single_logit)
    network = build_network("mlp", (keys.shape[1],), task.num_outputs, depth=0)
    optim = Optim(lr=0.1, weight_decay=0.01)
    erm = build_algorithm("erm", task=task, network=network, num_domains=1, optim=optim).eval()
    parts = zip(keys.split(4), labels.split(4), strict=True)
    source = [Batch(x[None], y[None], y[None]) for x, y in parts]
    made = build_adapter("adanpc", erm.to(keys.dtype), hparams=hparams, source=source)
    assert torch.equal(made.algorithm.features(keys), keys)
    return made


def size(adapter):
    return sum(len(labels) for _, labels in adapter.memory)


def unit(x):
    return x / x.pow(2).sum(-1, keepdim=True).sqrt()


def brute(x, keys, labels, k, tau, C=3):
    similarities = unit(x) @ unit(keys).T
    rows = similarities.argsort(1, descending=True)[:, :k]
    w = (similarities.gather(1, rows) / tau).softmax(1)
    return torch.stack([(w * (labels[rows] == c)).sum(1) for c in range(C)], 1).add(1e-5).clamp(max=1)


def test_golden_values():
    made, query = adapter(*GOLDEN, C=2, k=2, threshold=0.0), torch.tensor([[0.8, 0.6]])
    p = made.step(query)
    assert p[0].tolist() == pytest.approx([0.16798 + 1e-5, 0.83202 + 1e-5], abs=5e-6)
    assert float(p.softmax(1).max()) == pytest.approx(0.6602, abs=5e-5)
    assert made.predict(query)[0].tolist() == pytest.approx([1e-5, 1.0])


@pytest.mark.parametrize(("compat", "confidence"), [(False, 0.83203), (True, 0.6602)])
def test_the_confidence_is_that_of_p_or_of_its_softmax(compat, confidence):
    for threshold, num_added in ((confidence - 1e-4, 1), (confidence + 1e-4, 0)):
        made = adapter(*GOLDEN, C=2, k=2, compat=compat, threshold=threshold)
        made.step(torch.tensor([[0.8, 0.6]]))
        assert size(made) == 3 + num_added


@pytest.mark.parametrize(("k", "tau"), [(1, 0.1), (7, 0.01), (7, 0.5), (100, 1.0)])
def test_without_additions_it_is_the_vote_of_the_source(k, tau):
    (keys, labels), (x, _) = random(30), random(12, seed=1)
    made = adapter(keys, labels, k=k, temperature=tau, threshold=NONE)
    for batch in x.split(5):
        expected = brute(batch, keys, labels, k, tau)
        torch.testing.assert_close(made.step(batch), expected)
        torch.testing.assert_close(made.predict(7 * batch), expected)  # only directions count
    assert size(made) == 30


def test_the_memory_grows_by_what_is_confident_with_its_answers():
    (keys, labels), (x, _) = random(30), random(40, seed=1)
    made = adapter(keys, labels, k=5, threshold=0.9)
    for batch in x.split(8):
        p = brute(batch, keys, labels, 5, 0.1)  # of a batch, none sees the others
        torch.testing.assert_close(made.step(batch), p)
        is_added = p.amax(1) >= 0.9
        keys, labels = torch.cat([keys, batch[is_added]]), torch.cat([labels, p.argmax(1)[is_added]])
        assert size(made) == len(labels)
    assert 35 < len(labels) < 65
    torch.testing.assert_close(torch.cat([part for part, _ in made.memory]), unit(keys))
    assert torch.equal(torch.cat([part for _, part in made.memory]), labels)
    assert len(made.keys) < 64  # room is doubled, not more
    made.reset()
    assert (size(made), made.num_added, len(made.keys)) == (30, 0, 0)


@pytest.mark.parametrize(
    ("hparams", "per_batch"),
    [({"threshold": 0.0}, 6), ({"threshold": 1.0001}, 0), ({"threshold": 0.577, "compat": True}, 0)],
)
def test_thresholds_at_the_ends_admit_all_or_none(hparams, per_batch):
    assert math.e / (math.e + 2) < 0.577
    made = adapter(*random(30), k=1, **hparams)
    for i in range(1, 4):
        made.step(random(6, seed=i)[0])
        assert size(made) == 30 + i * per_batch


@pytest.mark.parametrize("bound", [4, 7, 10, 0])
def test_beyond_its_bound_the_oldest_additions_go_first(bound):
    (keys, labels), (x, _) = random(30), random(30, seed=1)
    made, added = adapter(keys, labels, k=3, threshold=0.0, max_added=bound), keys[:0]
    for batch in x.split((3, 6, 1, 20)):
        made.step(batch)
        added = torch.cat([added, batch])[-bound if bound else 0 :]
        source, grown = made.memory
        torch.testing.assert_close(source[0], unit(keys))
        assert len(grown[0]) == len(added)
        same = grown[0] @ unit(added).T > 1 - 1e-12
        assert same.any(0).all()
        assert len(made.keys) <= (bound or 60)


def test_limits_of_the_vote():
    (keys, labels), (x, _) = random(30), random(6, seed=1)
    made = adapter(keys, labels, k=1, threshold=NONE)
    assert torch.equal(made.predict(keys[:9]).argmax(1), labels[:9])
    made = adapter(keys, torch.arange(30) // 20, k=30, temperature=1e9, threshold=NONE)
    torch.testing.assert_close(made.predict(x), torch.tensor([[2 / 3, 1 / 3, 0.0]]).double().expand(6, 3) + 1e-5)
    made = adapter(keys, labels, k=5, threshold=NONE)
    torch.testing.assert_close(made.predict(x.flip(0)), made.predict(x).flip(0))


def test_in_a_ball_all_near_keys_vote_if_every_example_has_one():
    (keys, labels), epsilon = random(30), 0.4
    near, far = keys[:4] + 0.01, torch.eye(5).double()
    far = far[(far @ unit(keys).T).amax(1).argmin()][None]
    least = float((far @ unit(keys).T).max())
    made = adapter(keys, labels, k=2, epsilon=epsilon, threshold=NONE)
    similarities = unit(near) @ unit(keys).T
    w = (similarities / 0.1).exp() * (similarities >= epsilon)
    expected = torch.stack([w[:, labels == c].sum(1) for c in range(3)], 1) / w.sum(1, keepdim=True) + 1e-5
    torch.testing.assert_close(made.predict(near), expected.clamp(max=1))
    assert (expected - brute(near, keys, labels, 2, 0.1)).abs().max() > 1e-3
    made, both = adapter(keys, labels, k=2, epsilon=least + 1e-6, threshold=NONE), torch.cat([near, far])
    torch.testing.assert_close(made.predict(both), brute(both, keys, labels, 2, 0.1))


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("num_updates", [1, 3])
def test_a_batch_norm_lowers_the_entropy_of_the_votes(compat, num_updates):
    (keys, labels), (x, _) = random(30), random(8, seed=1)
    variant = {"adapts_norm": True, "num_updates": num_updates, "lr_multiplier": 0.5, "compat": compat}
    made = adapter(keys, labels, k=6, threshold=0.0, **variant)
    weights = [torch.ones(5).double().requires_grad_(), torch.zeros(5).double().requires_grad_()]
    optimizer = Adam(weights, lr=0.05, weight_decay=0.01)
    for _ in range(2):
        for _ in range(num_updates):
            features = x / math.sqrt(1 + 1e-5) * weights[0] + weights[1]
            p = brute(features, keys, labels, 6, 0.1)
            q = p.softmax(1) if compat else p / p.sum(1, keepdim=True)
            optimizer.step(torch.autograd.grad(-(q * q.log()).sum(1).mean(), weights))
        torch.testing.assert_close(made.step(x), p.detach())
        keys, labels = torch.cat([keys, unit(features.detach())]), torch.cat([labels, p.argmax(1)])
        assert size(made) == len(labels)  # once, whatever the number of updates
    torch.testing.assert_close(list(made.norm.parameters()), weights, check_dtype=True, rtol=1e-9, atol=1e-9)
    assert (weights[0] - 1).abs().max() > 0.01
    assert made.adapted_parameters() == ["feature_norm.weight", "feature_norm.bias"]
    made.reset()
    assert torch.equal(made.norm.weight, torch.ones(5).double())
    assert made.optimizer.param_groups[0]["params"][0] is made.norm.weight
    assert size(made) == 30


def test_a_single_logit_has_two_classes():
    (keys, labels), x = random(30, C=2), random(6, seed=1)[0]
    made = adapter(keys, labels, C=2, single_logit=True, k=3)
    torch.testing.assert_close(made.step(x), brute(x, keys, labels, 3, 0.1, C=2))


@pytest.mark.parametrize("method", ["erm", "knn_loss"])
def test_models_of_any_method_will_do_and_copies_share_the_source(method, tmp_path):
    model, x, y = Workbench(algorithms[method], tmp_path).trained("classification"), inputs(20), torch.arange(20) % 3
    made = build_adapter("adanpc", model, hparams={"k": 4}, source=[Batch(x[None], y[None], y[None])])
    before, test = made.source, inputs(5, seed=1)
    with torch.no_grad():
        expected = brute(model.features(test), model.features(x), y, 4, 0.1)
    torch.testing.assert_close(made.step(test), expected, rtol=1e-4, atol=1e-5)
    made.reset()
    assert made.source is before


def test_what_it_cannot_do_is_refused(tmp_path):
    model = Workbench(algorithms["erm"], tmp_path).trained("classification")
    with pytest.raises(ValueError, match="reads the source data before the stream"):
        build_adapter("adanpc", model)
    refused = {"k": (0, "1"), "num_updates": (0, "1"), "max_added": (-1, "0"), "lr_multiplier": (-0.5, "0")}
    for name, (value, least) in (refused | {"temperature": (0.0, "more than 0")}).items():
        with pytest.raises(ValueError, match=rf"adapter\.{name}={value:g}, expected {least}"):
            adapter(*GOLDEN, **{name: value})
