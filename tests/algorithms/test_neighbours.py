import math
import sys

import pytest
import torch

from dgbench.registry import algorithms

NEAREST = pytest.mark.parametrize("k", [1, 10])


def ours():
    return sys.modules[algorithms["knn_loss"].__module__.rpartition(".")[0] + "._neighbours"]


def unit(*shape, seed=0, dtype=torch.float64):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x / x.pow(2).sum(1, keepdim=True).sqrt()


def voted(queries, keys, labels, k, tau, C):
    """AdaNPC, the kNN head: an example at a time."""
    rows = []
    for query in queries:
        similarity = keys @ query
        neighbours = similarity.argsort(descending=True)[:k]
        w = (similarity[neighbours] / tau).exp()
        rows.append([min(float(w[labels[neighbours] == c].sum() / w.sum()) + 1e-5, 1.0) for c in range(C)])
    return torch.tensor(rows, dtype=torch.float64)


def test_golden_value():
    keys, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 1, 1])
    similarities, classes = ours().nearest(torch.tensor([[0.8, 0.6]]), [(keys, labels)], 2)
    assert classes.tolist() == [[1, 0]]
    p = ours().vote(similarities, classes, 0.1, 2)
    assert p[0].tolist() == pytest.approx([0.16798 + 1e-5, 0.83202 + 1e-5], abs=5e-6)


@pytest.mark.parametrize("chunk", [997, 16384, 200_000])
def test_chunks_of_a_large_memory_find_what_brute_force_finds(chunk):
    keys, queries = unit(100_000, 64, dtype=torch.float32), unit(7, 64, seed=1, dtype=torch.float32)
    labels = torch.arange(len(keys)) % 11
    parts = [(keys[:70_001], labels[:70_001]), (keys[70_001:], labels[70_001:]), (keys[:0], labels[:0])]
    exact = queries.double() @ keys.double().T
    for k in (1, 100):
        got, got_labels = ours().nearest(queries, parts, k, chunk)
        expected, rows = exact.sort(1, descending=True)
        torch.testing.assert_close(got.double(), expected[:, :k], rtol=0, atol=1e-6)
        assert torch.equal(got_labels, labels[rows[:, :k]])


@NEAREST
@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_votes(k, tau):
    keys, queries, labels = unit(30, 4), unit(9, 4, seed=1), torch.arange(30) % 3
    found = ours().nearest(queries, [(keys, labels)], k, 8)
    p = ours().vote(*found, tau, 4)
    torch.testing.assert_close(p, voted(queries, keys, labels, k, tau, 4))
    assert torch.equal(p[:, 3], torch.full((9,), 1e-5, dtype=torch.float64))


def test_a_small_memory_votes_whole_and_hot_votes_are_its_frequencies():
    keys, labels = unit(10, 4), torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    similarities, classes = ours().nearest(unit(6, 4, seed=1), [(keys, labels)], 25)
    assert similarities.shape == classes.shape == (6, 10)
    p = ours().vote(similarities, classes, 1e9, 3)
    torch.testing.assert_close(p, torch.tensor([[0.50001, 0.30001, 0.20001]]).double().expand(6, 3))


@pytest.mark.parametrize("chunk", [3, 1000])
def test_all_keys_of_a_ball_vote(chunk):
    keys, labels, queries, tau = unit(40, 3), torch.arange(40) % 3, unit(5, 3, seed=1), 0.2
    similarities = queries @ keys.T
    got = ours().ball_vote(
        queries, [(keys, labels)], similarities.amax(1), radius=0.3, temperature=tau, num_classes=3, chunk=chunk
    )
    for row, p in zip(similarities, got, strict=True):
        inside = row >= 0.3
        assert 1 < inside.sum() < 40
        w = (row[inside] / tau).exp()
        expected = [float(w[labels[inside] == c].sum() / w.sum()) + 1e-5 for c in range(3)]
        assert p.tolist() == pytest.approx(expected)
    none = ours().ball_vote(queries, [(keys, labels)], similarities.amax(1), radius=1.5, temperature=tau, num_classes=3)
    assert torch.equal(none, torch.full((5, 3), 1e-5, dtype=torch.float64))


def test_without_neighbours_p_is_the_smoothing_with_gradient_zero():
    similarities = torch.tensor([[0.3, -math.inf], [-math.inf, -math.inf]], requires_grad=True)
    p = ours().vote(similarities, torch.tensor([[1, 0], [0, 0]]), 0.1, 2)
    torch.testing.assert_close(p, torch.tensor([[1e-5, 1.0], [1e-5, 1e-5]]))
    (grad,) = torch.autograd.grad(p.log().sum(), similarities)
    assert torch.equal(grad, torch.zeros(2, 2))


def test_gradients_flow_through_the_query_alone_and_chunks_do_not_change_them():
    keys, labels, raw = unit(30, 4), torch.arange(30) % 3, torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    grads = []
    for chunk in (7, 100):
        queries = ours().directions(raw)
        p = ours().vote(*ours().nearest(queries, [(keys, labels)], 5, chunk), 0.5, 3)
        grads.append(torch.autograd.grad(p.log().sum(), raw)[0])
    torch.testing.assert_close(*grads)
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close((grads[0] * raw).sum(1), torch.zeros(6).double())  # length does not matter


def test_directions_keep_their_precision():
    x = 3 * unit(5, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        q = ours().directions(x.bfloat16().float())
        assert ours().cosines(q, q).dtype == torch.float32
    assert ours().directions(x.half()).dtype == torch.float32
    torch.testing.assert_close(ours().directions(x), x / 3)
    assert torch.equal(ours().directions(torch.zeros(1, 3)), torch.zeros(1, 3))
