import importlib
import math

import numpy as np
import pytest
import torch

from tests.algorithms.test_time.memory_reference import Reservoir, Timely

core = importlib.import_module("dgbench.algorithms.test_time._memories")
SIZES = [(64, 10), (8, 3), (6, 10), (1, 2), (5, 100)]


def sequence(num, C, seed, correlated=False):
    """Images that are numbers, with their classes and uncertainties; some of these are equal."""
    r = np.random.default_rng(seed)
    labels = r.integers(C, size=num)
    if correlated:
        labels = np.sort(labels)
    return list(
        zip(torch.arange(1.0, num + 1), labels.tolist(), r.choice(20, size=num) / 20 * math.log(C), strict=True)
    )


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_rottas_memory_is_that_of_the_rules(N, C, correlated):
    memory, naive = core.TimelyMemory(N, C, torch.zeros(())), Timely(N, C)
    for image, label, uncertainty in sequence(300, C, N + C, correlated):
        memory.add(image, label, uncertainty)
        naive.add(float(image), label, uncertainty)
        n = len(memory)
        rows = zip(memory.ages, memory.uncertainties[:n], memory.images, memory.labels[:n], strict=True)
        assert sorted(tuple(float(v) for v in row) for row in rows) == naive.content()
        assert n <= N
        assert memory.counts.sum() == n
        assert memory.counts.max() <= max(math.ceil(N / C), 1)
        assert memory.ages.dtype == torch.int64
        assert memory.ages.min() >= 0


def test_the_score_by_which_images_leave():
    memory = core.TimelyMemory(64, 10, torch.zeros(()))
    scores = memory.score(torch.tensor([0, 64, 0, 128]), torch.tensor([0, 0, math.log(10), 0.5], dtype=torch.float64))
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.7311, 1.5, 1.0979], dtype=torch.float64), atol=5e-5, rtol=0)
    weighted = core.TimelyMemory(64, 10, torch.zeros(()), age_weight=2.0, uncertainty_weight=3.0)
    assert float(weighted.score(torch.tensor(0), torch.tensor(math.log(10)))) == pytest.approx(4)


def test_an_old_image_leaves_before_a_new_one_and_of_equals_the_latest():
    memory = core.TimelyMemory(2, 1, torch.zeros(()))
    memory.max_uncertainty = torch.tensor(1.0)  # log(1) = 0
    for image in (1.0, 2.0, 3.0):
        memory.add(torch.tensor(image), 0, 0.0)
    assert memory.images.tolist() == [3.0, 2.0]
    memory.age_weight = 0.0
    memory.uncertainties.fill_(0.5)
    memory.add(torch.tensor(4.0), 0, 0.5)  # not better than what is there
    assert memory.images.tolist() == [3.0, 2.0]
    memory.add(torch.tensor(5.0), 0, 0.4)
    assert memory.images.tolist() == [5.0, 2.0]


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize(("N", "C"), SIZES)
def test_notes_memory_is_that_of_the_rules(N, C, correlated):
    memory, naive = core.ReservoirMemory(N, C, torch.zeros(())), Reservoir(N, C)
    for step, (image, label, _) in enumerate(sequence(300, C, N + C, correlated)):
        torch.manual_seed(step)
        memory.add(image, label)
        torch.manual_seed(step)
        naive.add(float(image), label)
        held = zip(memory.images.tolist(), memory.labels[: len(memory)].tolist(), strict=True)
        assert list(held) == naive.held
        assert memory.num_offered.tolist() == naive.offered
        assert len(memory) <= N


def test_on_a_cycling_stream_all_classes_have_as_many_images():
    memory = core.ReservoirMemory(10, 4, torch.zeros(()))
    torch.manual_seed(0)
    for i in range(200):
        memory.add(torch.tensor(float(i)), i % 4)
        assert memory.counts.max() - memory.counts.min() <= 1


def test_of_one_class_it_is_a_uniform_sample():
    N, num, trials = 8, 32, 600
    torch.manual_seed(0)
    kept = torch.zeros(num)
    for _ in range(trials):
        memory = core.ReservoirMemory(N, 3, torch.zeros(()))
        for i in range(num):
            memory.add(torch.tensor(float(i)), 1)
        kept[memory.images.long()] += 1
    share = N / num
    assert ((kept / trials - share).abs() < 4 * (share * (1 - share) / trials) ** 0.5).all()


def test_images_keep_shape_and_type():
    memory = core.ReservoirMemory(2, 3, torch.zeros(3, 4, 5, dtype=torch.float64))
    assert memory.images.shape == (0, 3, 4, 5)
    memory.add(torch.ones(3, 4, 5), 2)
    assert memory.images.dtype == torch.float64
    assert memory.images.shape == (1, 3, 4, 5)
