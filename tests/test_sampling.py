import itertools
import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import scipy.stats
import torch

from dgbench.hparams import Optim
from dgbench.loader import Batches, Split, TrainingLoader
from dgbench.registry import UnknownName
from dgbench.sampling import build_sampler
from tests.toy import SIZES, splits

WHOLE, N = (4, 4, 4), sum(SIZES)
MODES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "pooled": {"sampling": "pooled"},
    "merged": {"sampling": "merged"},
    "some domains": {"sampling": "domains:2"},
    "epochs": {"replacement": False},
    "pooled epochs": {"sampling": "pooled", "replacement": False},
    "whole": {"batch_size": "all", "sizes": WHOLE},
    "pooled whole": {"batch_size": "all", "sampling": "pooled", "replacement": False},
    "some whole domains": {"batch_size": "all", "sampling": "domains:2", "sizes": WHOLE},
}
SHAPES = {
    **{"balanced": (3, 4), "pooled": (1, 12), "merged": (1, 4), "some domains": (2, 4)},
    **{"epochs": (3, 4), "pooled epochs": (1, 12)},
    **{"whole": (3, 4), "pooled whole": (1, N), "some whole domains": (2, 4)},
}
every_mode = pytest.mark.parametrize("mode", MODES)


def cut(sizes=SIZES, lazy=False, **kw):
    return [Split(s.domain, s.indices[:n]) for s, n in zip(splits(lazy, **kw), sizes, strict=True)]


def batches(mode, lazy=False, seed=3, dtype=torch.float32, **kw):
    options = {"batch_size": 4, "augment": False, **MODES[mode], **kw}
    return Batches(cut(options.pop("sizes", SIZES), lazy, dtype=dtype), options.pop("batch_size"), seed, **options)


def rows(step, batch_size: Any = 4, seed=3, sizes=SIZES, **kw):
    return build_sampler(cut(sizes), batch_size, seed, **kw)(step, torch.Generator().manual_seed(1000 * seed + step))


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@every_mode
@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
def test_a_batch_is_a_function_of_seed_and_step_in_any_order(mode, augment):
    first, again = (batches(mode, lazy=True, augment=augment) for _ in range(2))
    in_order = [first[step] for step in range(12)]
    for step in (11, 0, 3, 3, 7, 1, 10, 2):
        assert_same(again[step], in_order[step])
        assert_same(pickle.loads(pickle.dumps(again))[step], in_order[step])
    if mode not in ("whole", "pooled whole"):
        assert len({batch.y.numpy().tobytes() for batch in in_order}) > 2
        later = [batches(mode, lazy=True, seed=4)[step].y for step in range(12)]
        assert not all(torch.equal(a.y, b) for a, b in zip(in_order, later, strict=True))


@every_mode
def test_rows_have_the_promised_shape_and_name_the_domain_of_each_example(mode):
    made, shape = batches(mode), SHAPES[mode]
    for step in range(12):
        batch = made[step]
        assert batch.x.shape == (*shape, 2)
        assert batch.y.shape == batch.domain.shape == shape
        assert torch.equal(batch.x[..., 0], batch.domain.float())
        assert torch.equal(batch.y, 100 * batch.domain + batch.x[..., 1].long())
        if shape[0] > 1:
            owners = batch.domain[:, 0].tolist()
            assert torch.equal(batch.domain, batch.domain[:, :1].expand(shape))
            assert owners == sorted(set(owners))


@every_mode
def test_where_examples_lie_and_how_they_are_stored_changes_no_batch(mode):
    resident, lazy = batches(mode), batches(mode, lazy=True)
    stored = [batches(mode, lazy=lazy, dtype=torch.uint8) for lazy in (False, True)]
    for step in range(12):
        assert_same(resident[step], lazy[step])
        for made in stored:
            assert made[step].x.dtype == torch.float32
            assert torch.allclose(made[step].x * 255, resident[step].x)
            assert torch.equal(made[step].y, resident[step].y)


@every_mode
def test_a_method_adds_to_what_the_protocol_draws(mode):
    plain, drawn_with = batches(mode), []

    def with_partners(anchors, generator):
        drawn_with.append(generator)
        return torch.cat([anchors, anchors.flip(1)], 1)

    made = batches(mode, draw=with_partners)
    for step in range(6):
        expected = plain[step]
        assert torch.equal(made[step].y, torch.cat([expected.y, expected.y.flip(1)], 1))
    assert all(generator is made.generator for generator in drawn_with)


@pytest.mark.filterwarnings("ignore:.*worker processes:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_the_number_of_workers_changes_no_epoch():
    start: Any = SimpleNamespace(step=0)
    plain = [*TrainingLoader(batches("epochs", lazy=True, augment=True), start, 8)]
    loader = TrainingLoader(batches("epochs", lazy=True, augment=True), start, 8, workers=2)
    for batch, expected in zip(loader, plain, strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize("mode", ["balanced", "pooled", "merged"])
def test_examples_are_drawn_uniformly_with_replacement(mode):
    drawn, start = rows(0, 3000, **MODES[mode]), 0
    for row, n in zip(drawn, SIZES if mode == "balanced" else (N,), strict=True):
        counts = np.bincount(row.numpy() - start, minlength=n)
        assert len(counts) == n
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
        start += n
    pairs = [rows(step, 2, sizes=(5, 5, 5))[0].tolist() for step in range(2000)]
    assert 0.17 < np.mean([a == b for a, b in pairs]) < 0.23


def test_every_choice_of_domains_is_as_likely():
    made = build_sampler(cut(), 2, 0, sampling="domains:2")
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    generator = torch.Generator().manual_seed(0)
    chosen = Counter(tuple(owner[made(step, generator)][:, 0].tolist()) for step in range(1500))
    assert set(chosen) == set(itertools.combinations(range(3), 2))
    assert scipy.stats.chisquare([*chosen.values()]).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["epochs", "pooled epochs"])
def test_an_epoch_holds_every_example_at_most_once_and_drops_another_rest_each_time(mode):
    sizes, size, start = (SIZES, 2, 0) if mode == "epochs" else ((N,), 6, 0)
    for place, n in enumerate(sizes):
        steps, rests, orders = n // size, set(), set()
        for epoch in range(8):
            seen = torch.cat([rows(epoch * steps + s, 2, **MODES[mode])[place] for s in range(steps)]) - start
            assert len(seen) == len(set(seen.tolist())) == steps * size
            rests.add(frozenset(range(n)) - set(seen.tolist()))
            orders.add(tuple(seen.tolist()))
        assert {len(rest) for rest in rests} == {n % size}
        assert len(rests) > 1
        assert len(orders) == 8
        start += n


def test_domains_of_equal_size_have_orders_of_their_own():
    steps = [rows(step, 1, sizes=WHOLE, replacement=False) - 4 * torch.arange(3)[:, None] for step in range(16)]
    orders = torch.cat(steps, 1)  # (D, 4 epochs of 4)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    randperm = MagicMock(wraps=torch.randperm)
    monkeypatch.setattr(torch, "randperm", randperm)
    made = batches("epochs", batch_size=1)
    for step in range(5):
        _ = made[step]
    assert sorted(call.args[0] for call in randperm.mock_calls) == sorted(SIZES)


def test_unlabelled_rows_follow_the_same_rules():
    def made(**kw) -> Any:
        return Batches(cut()[:1], seed=3, unlabeled=cut()[1:], **{"batch_size": 3, "augment": False, **kw})

    shown = torch.stack([made(replacement=False)[step].unlabeled[..., 1] for step in range(3)])  # (step, U, B)
    assert len(set(shown[:, 0].flatten().tolist())) == 9
    assert len(set(shown[:2, 1].flatten().tolist())) == 6
    pooled = made(sampling="pooled")[0]
    assert (pooled.x.shape, pooled.unlabeled.shape) == ((1, 3, 2), (1, 6, 2))
    assert made(sampling="domains:1")[0].unlabeled.shape == (2, 3, 2)
    same: Any = Batches(cut()[:1], 2, 3, replacement=False, unlabeled=cut()[:1])
    assert not all(torch.equal(same[step].x, same[step].unlabeled) for step in range(4))


@pytest.mark.parametrize("mode", ["whole", "pooled whole"])
def test_the_whole_split_comes_in_order_and_is_gathered_once(mode):
    made, shape = batches(mode), SHAPES[mode]
    table = torch.cat([s.domain.targets[s.indices] for s in cut(MODES[mode].get("sizes", SIZES))])
    first = made[0]
    assert torch.equal(first.y, table.view(shape))
    assert made[7].x.data_ptr() == first.x.data_ptr()
    first.x.requires_grad_()
    assert not made[1].x.requires_grad
    expected = first.x.detach().clone()
    made[1].x.zero_()
    assert torch.equal(made[2].x, expected)
    with torch.inference_mode():
        assert torch.equal(batches(mode)[0].x, expected)
    augmented = batches(mode, lazy=True, augment=True)
    assert not torch.equal(augmented[0].x, augmented[1].x)


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        (
            {"sampling": "balance"},
            UnknownName,
            r"'balance' is not a known sampling \(protocol.sampling\). Did you mean",
        ),
        ({"sampling": "domains:4"}, ValueError, "domains:4 asks for 4 training .*, but there are 3. Ask for 1 to 3"),
        ({"sampling": "domains:0"}, ValueError, "protocol.sampling=domains:0 asks for 0 training domains per step"),
        (
            {"sampling": "domains:2", "replacement": False},
            ValueError,
            "walks through every domain, but protocol.sampling=domains:2 visits 2 of 3 per step. Set .*=balanced, or",
        ),
        (
            {"batch_size": 6, "replacement": False},
            ValueError,
            "a row takes 6 and there are 5 examples of d0. Set optim.batch_size to at most 5, or .*=true",
        ),
        (
            {"batch_size": 8, "replacement": False, "sampling": "pooled"},
            ValueError,
            "a row takes 24 and there are 21 examples of d0, d1, d2. Set optim.batch_size to at most 7,",
        ),
        ({"batch_size": "all"}, ValueError, "of equal size, got d0 5, d1 9, d2 7. Set protocol.sampling=pooled for"),
        ({"batch_size": "all", "sampling": "domains:2"}, ValueError, "of equal size, got d0 5, d1 9, d2 7"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_a_sentence(asked, error, text):
    with pytest.raises(error, match=text):
        batches("balanced", **asked)


@pytest.mark.parametrize(
    ("batch_size", "text"),
    [(0, "batch_size=0, expected at least 1, or all"), ("every", "batch_size=every, expected a number, or all")],
)
def test_a_batch_size_is_a_number_or_all(batch_size, text):
    assert Optim(batch_size="all").batch_size == "all"
    with pytest.raises(ValueError, match=rf"optim\.{text}"):
        Optim(batch_size=batch_size)
