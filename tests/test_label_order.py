import itertools

import numpy as np
import pytest
from numpy.random import RandomState

from dgbench.label_order import ORDERS, balanced_chunks, dirichlet, slots


def labels(n=2000, num_classes=10, seed=0):
    return RandomState(seed).randint(num_classes, size=n)


def mean_run(ordered):
    return len(ordered) / (1 + np.count_nonzero(np.diff(ordered)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("delta", [0, 1e-4, 0.01, 0.1, 1, 10, 1000])
def test_an_order_is_a_permutation_in_which_a_class_keeps_its_own(order, delta):
    y = labels()
    places = ORDERS[order](y, delta, RandomState(3))
    assert sorted(places) == list(range(len(y)))
    for label in range(10):
        assert (np.diff(places[y[places] == label]) > 0).all()


@pytest.mark.parametrize("order", ORDERS)
def test_runs_of_a_class_shorten_with_the_concentration(order):
    y = labels()
    means = [
        np.mean([mean_run(y[ORDERS[order](y, delta, RandomState(seed))]) for seed in range(10)])
        for delta in (0, 0.1, 1, 100)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] == 200
    assert means[-1] == pytest.approx(20, rel=0.2)  # all classes in each of ten slots


def test_slots_are_those_of_the_draws():
    y = np.array([0] * 10 + [1] * 10 + [2] * 5)
    random = RandomState(4)
    shares = [dirichlet(0.5, 3, random) for _ in range(3)]
    expected = []
    pieces = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(y == label)
        ends = [0, *np.floor(np.cumsum(share)[:-1] * len(members)).astype(int), len(members)]
        pieces.append([list(members[a:b]) for a, b in itertools.pairwise(ends)])
    for slot in range(3):
        for label in random.permutation(3):
            expected += pieces[label][slot]
    assert slots(y, 0.5, RandomState(4)).tolist() == expected


def test_at_most_a_hundred_slots():
    y = np.repeat(np.arange(150), 200)
    assert mean_run(y[slots(y, 1e6, RandomState(0))]) == pytest.approx(2, rel=0.1)  # 200 examples in 100 slots


@pytest.mark.parametrize("seed", range(5))
def test_chunks_with_their_fair_share_get_no_more_and_all_hold_ten_examples(seed):
    y, random = labels(400), RandomState(seed)
    chunks: list[list[int]] = [[]]
    while min(map(len, chunks)) < 10:
        chunks, pieces = [[] for _ in range(10)], []
        for label in range(10):
            share = dirichlet(0.1, 10, random)
            share[[len(chunk) >= 40 for chunk in chunks]] = 0
            members = np.flatnonzero(y == label)
            ends = (np.cumsum(share / share.sum())[:-1] * len(members) + 1e-9).astype(int)
            pieces.append([list(piece) for piece in np.split(members, ends)])
            chunks = [chunk + piece for chunk, piece in zip(chunks, pieces[-1], strict=True)]
    expected = [k for chunk in range(10) for label in random.permutation(10) for k in pieces[label][chunk]]
    assert balanced_chunks(y, 0.1, RandomState(seed)).tolist() == expected


def test_chunks_of_small_data_need_half_of_their_fair_share():
    y = np.repeat(np.arange(4), 5)
    assert sorted(balanced_chunks(y, 1.0, RandomState(0))) == list(range(20))


def test_chunks_that_stay_empty_are_an_error():
    y = np.array([0] * 5 + [1] * 95)
    with pytest.raises(
        ValueError, match=r"delta=0\.0001 leaves some chunk of 100 examples .* Raise it, or .*order=rotta"
    ):
        balanced_chunks(y, 1e-4, RandomState(0))
    assert sorted(slots(y, 1e-4, RandomState(0))) == list(range(100))


@pytest.mark.parametrize("delta", [1e-6, 0.01, 0.5, 3.0])
def test_dirichlet_has_the_moments_of_its_distribution(delta):
    random = RandomState(0)
    draws = np.array([dirichlet(delta, 4, random) for _ in range(20_000)])
    np.testing.assert_allclose(draws.sum(1), 1)
    np.testing.assert_allclose(draws.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 3 / 16 / (4 * delta + 1), rtol=0.05)
    shut = dirichlet(delta, 4, random, np.array([True, False, True, False]))
    assert shut[[1, 3]].tolist() == [0, 0]
    assert shut.sum() == pytest.approx(1)
