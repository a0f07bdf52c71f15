import importlib
import itertools
import math

import pytest
import torch
from torch import nn

from dgbench.adapter import build_adapter
from tests.algorithms.reference import Adam
from tests.algorithms.test_time.small_model import logits, same, statistics_of, trained, weights_of, with_single_logit

core = importlib.import_module("dgbench.algorithms.test_time.cotta")
SHAPE = (3, 4, 4)
VIEWS = (lambda x: 0.7 * x, lambda x: x.flip(-1), lambda x: x**2)


@pytest.fixture
def model():
    return trained(shape=SHAPE)


@pytest.fixture
def augmented(monkeypatch):
    """Three known views in turn in place of random ones; the list of those that were asked for."""
    asked, views = [], itertools.cycle(VIEWS)

    def augment(x, strength):
        asked.append(strength)
        return next(views)(x)

    monkeypatch.setattr(core, "augment", augment)
    return asked


def stream(num=4, N=6):
    return list(torch.rand(num, N, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def p_of(z):
    return z.exp() / z.exp().sum(1, keepdim=True)


def by_hand(model, batches, lr, decay, *, averaged, symmetric=False, num_updates=1, single=False):
    """Wang et al. 2022: answers, student and teacher; three views; nothing is restored."""

    def f(weights, x):
        z = logits(weights, x.flatten(1), statistics_of(model), 0.0)  # (N, C), each batch by its own statistics
        return torch.cat([torch.zeros_like(z), z], 1) if single else z

    student, teacher = [w.requires_grad_() for w in weights_of(model)], weights_of(model)
    optimizer, answers = Adam(student, lr=lr), []
    for x, is_averaged in zip(batches, averaged, strict=True):
        for _ in range(num_updates):
            t = sum(f(teacher, view(x)) for view in VIEWS) / 3 if is_averaged else f(teacher, x)
            z = f(student, x)
            loss = -(p_of(t) * p_of(z).log()).sum(1).mean()
            if symmetric:
                loss = 0.5 * loss - 0.5 * (p_of(z) * p_of(t).log()).sum(1).mean()
            optimizer.step(torch.autograd.grad(loss, student))
            teacher = [decay * a + (1 - decay) * b.detach() for a, b in zip(teacher, student, strict=True)]
        answers.append(t)
    return answers, [w.detach() for w in student], teacher


def check(model, batches, averaged, expected, num_updates=1, **hparams):
    hparams = {"lr": 0.01, "decay": 0.9, "num_augmentations": 3, "restored": 0.0, "num_updates": num_updates, **hparams}
    adapter = build_adapter("cotta", model, hparams=hparams)
    answers, student, teacher = expected
    for x, is_averaged, answer in zip(batches, averaged, answers, strict=True):
        adapter.hp.threshold = 2.0 if is_averaged else 0.0
        if num_updates == 1:
            same(adapter.predict(x), answer)
        same(adapter.step(x), answer)
    for got, weights in ((adapter.algorithm, student), (adapter.teacher, teacher)):
        for a, b in zip(weights_of(got), weights, strict=True):
            same(a, b)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.anchor.value), weights_of(model), strict=True))
    assert max((a - b).abs().max() for a, b in zip(student, weights_of(model), strict=True)) > 1e-3


@pytest.mark.usefixtures("augmented")
@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize(
    ("averaged", "symmetric"),
    [((1, 1, 1, 1), False), ((1, 0, 1, 0), False), ((1, 1, 1, 1), True), ((0, 0, 1, 0), True)],
)
def test_answers_student_and_teacher_after_four_batches(model, averaged, symmetric, num_updates):
    batches, options = stream(), {"symmetric": symmetric, "num_updates": num_updates}
    expected = by_hand(model, batches, 0.01, 0.9, averaged=averaged, **options)
    check(model, batches, averaged, expected, **options)


@pytest.mark.usefixtures("augmented")
def test_a_single_logit_is_two_classes():
    model, batches, averaged = with_single_logit(trained(shape=SHAPE)), stream(3), (1, 0, 1)
    expected = by_hand(model, batches, 0.01, 0.9, averaged=averaged, single=True)
    check(model, batches, averaged, expected)


def test_the_first_confident_batch_teaches_nothing_since_student_and_teacher_agree(model):
    adapter = build_adapter("cotta", model, hparams={"restored": 0.0, "lr": 0.1, "threshold": 0.0})
    adapter.step(stream()[0])
    for got, start in zip(weights_of(adapter.algorithm), weights_of(model), strict=True):
        torch.testing.assert_close(got, start, rtol=0, atol=1e-8)


def test_the_batchs_mean_confidence_by_the_source_model_decides(model, augmented):
    x = stream()[0]
    z = logits(weights_of(model), x.flatten(1), statistics_of(model), 0.0)
    confidence = float(p_of(z).max(1).values.mean())
    for threshold, calls in ((confidence - 1e-6, 0), (confidence + 1e-6, 3)):
        adapter = build_adapter("cotta", model, hparams={"num_augmentations": 3, "threshold": threshold, "lr": 0.1})
        for _ in range(4):  # the student moves far, the anchor does not
            augmented.clear()
            adapter.step(x)
            assert len(augmented) == calls


def test_one_copy_that_is_the_image_itself_is_the_standard_answer(model, monkeypatch):
    monkeypatch.setattr(core, "augment", lambda x, strength: x)
    x = stream()[0]
    answers = [
        build_adapter("cotta", model, hparams={"num_augmentations": 1, "threshold": threshold}).step(x)
        for threshold in (0.0, 2.0)
    ]
    assert torch.equal(*answers)


def test_with_everything_restored_the_student_is_the_source_after_each_step(model):
    adapter = build_adapter("cotta", model, hparams={"restored": 1.0, "lr": 0.1, "num_augmentations": 2})
    for x in stream():
        adapter.step(x)
        for got, start in zip(weights_of(adapter.algorithm), weights_of(model), strict=True):
            assert torch.equal(got, start)
    assert max(state["exp_avg"].abs().max() for state in adapter.optimizer.state.values()) > 0


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_restored_elements_are_the_sources_and_the_rest_the_updates(share):
    model, x = trained(shape=SHAPE, width=60), stream()[0]
    adapters = [
        build_adapter("cotta", model, hparams={"restored": p, "lr": 0.1, "threshold": 2.0}) for p in (share, 0.0)
    ]
    for adapter in adapters:
        adapter.step(x)
    some, none = (torch.cat([w.flatten() for w in weights_of(a.algorithm)]) for a in adapters)
    start = torch.cat([w.flatten() for w in weights_of(model)])
    moved = none != start  # where a feature is dead there is no gradient
    is_restored = some[moved] == start[moved]
    assert torch.equal(some[moved][~is_restored], none[moved][~is_restored])
    assert abs(float(is_restored.double().mean()) - share) < 3 * math.sqrt(share * (1 - share) / len(is_restored))
    # The teacher has followed the student before it was restored.
    teachers = (weights_of(a.teacher) for a in adapters)
    assert all(torch.equal(a, b) for a, b in zip(*teachers, strict=True))


def test_a_decay_of_1_keeps_the_teacher_and_of_0_copies_the_student(model):
    for decay in (0.0, 1.0):
        adapter = build_adapter("cotta", model, hparams={"decay": decay, "restored": 0.0, "lr": 0.1, "threshold": 0.0})
        for x in stream():
            adapter.step(x)
        expected = weights_of(model) if decay else weights_of(adapter.algorithm)
        assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.teacher), expected, strict=True))


def test_without_updates_it_is_bn_adapt_bit_for_bit(model):
    adapter = build_adapter("cotta", model, hparams={"lr": 0.0, "restored": 0.0, "threshold": 0.0})
    other = build_adapter("bn_adapt", model)
    for x in stream():
        assert torch.equal(adapter.step(x), other.step(x))
    for copy in (adapter.algorithm, adapter.teacher, adapter.anchor.value):
        assert all(torch.equal(a, b) for a, b in zip(weights_of(copy), weights_of(model), strict=True))


class Scaled(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head, self.scale = head, nn.Parameter(torch.ones(4).double())

    def forward(self, x):
        return self.head(x) * self.scale


def test_parameters_of_other_names_than_weight_and_bias_never_change(model):
    model.network.head = Scaled(model.network.head)
    adapter = build_adapter("cotta", model, hparams={"lr": 0.1})
    for x in stream():
        adapter.step(x)
    changed = dict(adapter.algorithm.named_parameters())
    assert torch.equal(changed["network.head.scale"], torch.ones(4).double())
    assert not torch.equal(changed["network.head.head.weight"], model.network.head.head.weight)
    assert set(adapter.adapted_parameters()) == changed.keys() - {"network.head.scale"}


def test_values_that_mean_nothing_are_refused(model):
    with pytest.raises(ValueError, match=r"adapter\.decay=1\.5, expected a share\. Set it in \[0, 1\]"):
        build_adapter("cotta", model, hparams={"decay": 1.5})
    with pytest.raises(ValueError, match=r"adapter\.num_augmentations=0, expected copies\. Set it to 1 or more"):
        build_adapter("cotta", model, hparams={"num_augmentations": 0})
