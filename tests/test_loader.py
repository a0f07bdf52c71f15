import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgbench.algorithm import Algorithm
from dgbench.dataset import Domain
from dgbench.loader import Batches, TrainingLoader, evaluation_batches
from tests.toy import SIZES, splits

# Of machines with one core, and of newer Pythons' view of processes that are forked.
workers = pytest.mark.filterwarnings("ignore:.*worker processes:UserWarning", "ignore:.*fork:DeprecationWarning")


def batches(lazy=False, seed=3, augment=False, **kw):
    return Batches(splits(lazy), kw.pop("batch_size", 4), seed, augment=augment, **kw)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def loaded(made, num_steps=6, start=0, **kw):
    algorithm: Any = SimpleNamespace(step=start)
    return TrainingLoader(made, algorithm, num_steps, **kw)


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
def test_a_batch_is_a_function_of_data_seed_and_step_in_any_order(lazy, augment):
    first, again = batches(lazy, augment=augment), batches(lazy, augment=augment)
    in_order = [first[step] for step in range(8)]
    torch.rand(5)
    for step in (7, 0, 3, 3, 6, 1):
        assert_same(again[step], in_order[step])
    assert not any(torch.equal(a.x, b.x) for a, b in itertools.combinations(in_order, 2))
    assert not torch.equal(batches(lazy, seed=4, augment=augment)[0].x, in_order[0].x)


@workers
@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
def test_the_number_of_workers_changes_no_batch(augment):
    plain = [*loaded(batches(True, augment=augment))]
    assert len(plain) == 6
    for batch, expected in zip(loaded(batches(True, augment=augment), workers=2), plain, strict=True):
        assert_same(batch, expected)


@workers
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluating_in_between_changes_no_batch(num_workers):
    plain = [*loaded(batches(True, augment=True))]
    again = loaded(batches(True, augment=True), workers=num_workers)
    for batch, expected in zip(again, plain, strict=True):
        assert_same(batch, expected)
        assert len([*evaluation_batches(splits(lazy=True)[1], 4, workers=num_workers)]) == 3


def test_resident_and_lazy_domains_of_the_same_data_give_the_same_batches():
    resident, lazy = batches(), batches(lazy=True)
    assert resident.is_resident
    assert not lazy.is_resident
    mixed = Batches([splits()[0], *splits(lazy=True)[1:]], 4, 3, augment=False)
    for step in range(20):
        assert_same(resident[step], lazy[step])
        assert_same(resident[step], mixed[step])


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
def test_every_row_holds_examples_of_its_own_domain_and_split(lazy):
    made, seen = batches(lazy), set()
    for step in range(60):
        batch = made[step]
        assert batch.x.shape == (3, 4, 2)
        assert batch.unlabeled is None
        assert batch.domain.tolist() == [[d] * 4 for d in range(3)]
        assert torch.equal(batch.x[..., 0], batch.domain.float())
        assert torch.equal(batch.y, 100 * batch.domain + batch.x[..., 1].long())
        seen |= set(batch.y.flatten().tolist())
    assert seen == {100 * d + k for d, n in enumerate(SIZES) for k in range(1, 2 * n, 2)}


def everything(anchors, generator):
    return torch.arange(sum(SIZES))[torch.randperm(sum(SIZES), generator=generator)].view(3, 7)


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
def test_indices_of_the_concatenated_splits_find_their_examples(lazy):
    table = torch.cat([s.domain.targets[s.indices] for s in splits()])
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    made = batches(lazy, draw=everything)
    for step in range(4):
        batch = made[step]
        assert sorted(batch.y.flatten().tolist()) == sorted(table.tolist())
        generator = torch.Generator().manual_seed(made.generator.initial_seed())
        rows = everything(made.sampler.protocols(step, generator), generator)
        assert torch.equal(batch.y, table[rows])
        assert torch.equal(batch.domain, owner[rows])
        assert torch.equal(batch.x[..., 1].long(), batch.y % 100)


def test_a_method_s_own_sampler_is_given_targets_and_domains_and_decides_the_rows():
    class OnePairPerDomain(Algorithm):
        def make_sampler(self, targets, domains):
            firsts = torch.tensor([(domains == d).nonzero()[0].item() for d in domains.unique()])
            highest = torch.tensor([targets[domains == d].argmax().item() for d in domains.unique()])
            return lambda anchors, generator: torch.stack([firsts, firsts + highest], 1)

    targets = torch.cat([s.domain.targets[s.indices] for s in splits()])
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    stand_in: Any = None
    batch = batches(draw=OnePairPerDomain.make_sampler(stand_in, targets, owner))[0]
    assert batch.y.tolist() == [[9, 9], [117, 117], [213, 213]]
    assert Algorithm.make_sampler(stand_in, targets, owner) is None


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
def test_unlabelled_rows_come_from_the_target_domains_and_shift_no_labelled_row(lazy):
    source, target = splits(lazy)[:2], splits(lazy)[2:]
    adapted = Batches(source, 4, 3, unlabeled=target, augment=False)
    plain = Batches(source, 4, 3, augment=False)
    for step in range(10):
        unlabeled = adapted[step].unlabeled
        assert unlabeled is not None
        assert unlabeled.shape == (1, 4, 2)
        assert set(unlabeled[..., 0].flatten().tolist()) == {2.0}
        assert_same(adapted[step][:3], plain[step][:3])


def test_making_batches_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    made = batches(lazy=True, augment=True)
    _ = [made[step] for step in range(3)], [batches()[step] for step in range(3)]
    _ = [*evaluation_batches(splits(lazy=True)[0], 2)], next(iter(loaded(made)))
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_is_of_training_batches_and_seeded_per_step():
    plain, augmented = batches(lazy=True), batches(lazy=True, augment=True)
    noise = [augmented[step].x - plain[step].x for step in range(3)]
    assert all(((n >= 0) & (n < 1)).all() and n.std() > 0.1 for n in noise)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(augmented[0].y, plain[0].y)
    for items in evaluation_batches(splits(lazy=True)[0], 2):
        assert torch.equal(items.x, items.x.round())


@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
def test_bytes_become_floats_from_0_to_1_once(lazy):
    stored = splits(lazy, dtype=torch.uint8)
    x = Batches(stored, 4, 3, augment=False)[0].x
    assert x.dtype == torch.float32
    assert torch.allclose(x * 255, batches()[0].x)
    (items,) = evaluation_batches(stored[2], 99)
    assert torch.allclose(items.x * 255, splits()[2].domain.__getitems__(stored[2].indices).x)


def test_the_loader_starts_at_the_algorithm_s_step_and_has_no_length():
    made, algorithm = batches(), SimpleNamespace(step=0)
    loader: Any = TrainingLoader(made, algorithm, 5)  # type: ignore[arg-type]
    assert not hasattr(loader, "__len__")
    algorithm.step = 3
    for step, batch in zip((3, 4), loader, strict=True):
        assert_same(batch, made[step])
    assert loaded(made, workers=2).workers == 0


@workers
@pytest.mark.parametrize(("lazy", "num_workers"), [(False, 0), (True, 0), (True, 2)])
def test_evaluation_reads_every_example_once_in_fixed_order(lazy, num_workers):
    split = splits(lazy)[1]
    for size, expected in ((4, [4, 4, 1]), (9, [9]), (100, [9])):
        read = [*evaluation_batches(split, size, workers=num_workers)]
        assert [len(items.y) for items in read] == expected
        assert torch.equal(torch.cat([items.y for items in read]), split.domain.targets[split.indices])
        assert torch.equal(torch.cat([items.x for items in read])[:, 1], split.indices.float())


def test_a_domain_that_reads_nothing_is_answered_in_a_sentence():
    with pytest.raises(TypeError, match="Domain does not say how to get examples: define __getitems__"):
        Domain("d", torch.zeros(2)).__getitems__([0])
