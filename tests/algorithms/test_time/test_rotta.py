import importlib
import math

import pytest
import torch
from torch.autograd import grad

from dgbench.adapter import build_adapter
from dgbench.registry import adapters
from dgbench.task import Task
from dgbench.workbench import different
from tests.algorithms.reference import Adam, make
from tests.algorithms.test_time.memory_reference import (
    Timely,
    answer,
    check_reset,
    entropies,
    maps,
    parameters,
    same,
    statistics,
    stream,
    trained,
)

core = importlib.import_module("dgbench.algorithms.test_time.rotta")
HP = {"lr": 0.02, "teacher_rate": 0.3, "momentum": 0.2, "memory_size": 8, "update_every": 4}


@pytest.fixture(scope="module")
def model():
    return trained("batch")


def negative(x, strength):
    """An augmentation whose result is known."""
    assert strength == "hard"
    return 1 - x


def run(model, batches, **hparams):
    adapter = build_adapter("rotta", model, hparams=hparams)
    return adapter, [adapter.step(x) for x in batches]


def reference(model, batches, is_timely=True, lr=0.02, rate=0.3, momentum=0.2, N=8, every=4):
    """Yuan et al. 2023 by the specification: answers, the teacher's weights and statistics, the student's."""
    student, teacher = parameters(model), parameters(model)
    free = [student[i].requires_grad_() for i in (1, 2)]
    stats = {"student": statistics(model), "teacher": statistics(model)}
    adam, memory, seen, answers = Adam(free, lr=lr), Timely(N, 4), 0, []

    def renewed(who, w, x):
        h = maps(w, x)
        mean = h.mean((0, 2, 3))
        var = ((h - mean[:, None, None]) ** 2).mean((0, 2, 3))
        mean, var = ((1 - momentum) * s + momentum * b for s, b in zip(stats[who], (mean, var), strict=True))
        stats[who] = mean.detach(), var.detach()
        return answer(w, x, mean, var)

    for x in batches:
        z = answer(teacher, x, *stats["teacher"])
        answers.append(z)
        for b in range(len(x)):
            memory.add(b + 100 * len(answers), int(z[b].argmax()), float(entropies(z)[b]))
            seen += 1
            if seen % every == 0:
                held = memory.content()
                images = torch.stack([batches[image // 100 - 1][image % 100] for _, _, image, _ in held])
                w = torch.tensor([1 / (1 + math.exp(age / N)) for age, *_ in held], dtype=x.dtype)
                p = renewed("teacher", teacher, images).softmax(1)
                s = renewed("student", student, 1 - images)
                losses = -(p * s.log_softmax(1)).sum(1)
                adam.step(grad(((w if is_timely else 0.5) * losses).mean(), free))
                for i in (1, 2):
                    teacher[i] = (1 - rate) * teacher[i] + rate * student[i].detach()
    return answers, teacher, stats["teacher"], [w.detach() for w in student], stats["student"]


def test_answers_weights_and_statistics_are_those_of_the_paper(model, monkeypatch):
    monkeypatch.setattr(core, "augment", negative)
    batches = stream([5, 1, 7, 4, 6, 3])
    adapter, answers = run(model, batches, **HP)
    expected, teacher, teachers, student, students = reference(model, batches)
    for got, wanted in zip(answers, expected, strict=True):
        same(got, wanted)
    for module, weights, stats in ((adapter.algorithm, teacher, teachers), (adapter.student, student, students)):
        for got, wanted in zip(parameters(module), weights, strict=True):
            same(got, wanted)
        same(statistics(module)[0], stats[0])
        same(statistics(module)[1], stats[1])


@pytest.mark.parametrize("without", [{"is_timely": False}, {"lr": 0.0}, {"rate": 0.0}, {"momentum": 0.0}, {"N": 64}])
def test_each_part_matters(model, monkeypatch, without):
    monkeypatch.setattr(core, "augment", negative)
    batches = stream([5, 1, 7, 4, 6, 3])
    adapter, _ = run(model, batches, **HP)
    _, teacher, stats, *_ = reference(model, batches, **without)
    got = [*parameters(adapter.algorithm), *statistics(adapter.algorithm)]
    assert max(float((a - b).abs().max()) for a, b in zip(got, [*teacher, *stats], strict=True)) > 1e-4


def test_until_the_first_update_it_is_the_source(model):
    batches = stream([20, 1, 42, 20])
    adapter, answers = run(model, batches)
    for x, got in zip(batches, answers, strict=True):  # the update follows the answer to the batch it falls in
        assert torch.equal(got, model(x))
    assert not torch.equal(adapter.predict(batches[0]), answers[0])
    alone, _ = run(model, [])
    same(torch.cat([alone.step(x) for x in batches[0].split(1)]), answers[0])


def test_a_teacher_without_a_rate_keeps_its_weights_and_moves_its_statistics(model):
    adapter, _ = run(model, stream([8] * 4), **HP | {"teacher_rate": 0.0})
    assert different(dict(adapter.algorithm.state_dict()), dict(model.state_dict())) == [
        "network.body.conv1.1.num_batches_tracked",
        "network.body.conv1.1.running_mean",
        "network.body.conv1.1.running_var",
    ]


def test_statistics_without_momentum_are_the_sources(model):
    adapter, _ = run(model, stream([8] * 4), **HP | {"momentum": 0.0})
    for module in (adapter.algorithm, adapter.student):
        assert all(torch.equal(a, b) for a, b in zip(statistics(module), statistics(model), strict=True))
        assert not torch.equal(parameters(module)[1], parameters(model)[1])


def test_without_learning_rate_and_momentum_it_is_the_source_bit_for_bit(model):
    batches = stream([8] * 4)
    _, answers = run(model, batches, **HP | {"lr": 0.0, "momentum": 0.0})
    assert all(torch.equal(got, model(x)) for x, got in zip(batches, answers, strict=True))


def test_only_batch_norms_change(model):
    adapter, _ = run(model, stream([8] * 4), **HP)
    names = ["network.body.conv1.1.weight", "network.body.conv1.1.bias"]
    assert adapter.adapted_parameters() == names
    for module in (adapter.algorithm, adapter.student):
        weights, start = dict(module.named_parameters()), dict(model.named_parameters())
        assert {name for name in start if not torch.equal(weights[name], start[name])} == set(names)


def test_after_updates_it_resets_and_repeats_bit_for_bit(model):
    check_reset(lambda: run(model, [], **HP)[0], stream([8] * 4))


def test_flat_activations_and_a_single_logit():
    model = make("erm", shape=(3, 6, 6), norm="batch").eval()
    model.task, model.network.head = Task("classification", 2, single_logit=True), torch.nn.Linear(7, 1).double()
    adapter, answers = run(model, stream([8] * 4), **HP)
    assert answers[-1].shape == (8, 2)
    assert not torch.equal(adapter.predict(stream([8])[0])[:, 1:], model(stream([8])[0]))


def test_gradients_go_through_the_statistics():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(2).double()
    norm.running_mean, norm.running_var = torch.randn(2).double(), torch.rand(2).double()
    stats = norm.running_mean, norm.running_var
    x, v = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 2, 3, 3).double()
    rows = x.transpose(0, 1).flatten(1)  # (C, N * H * W)
    var = 0.6 * stats[1] + 0.4 * (rows - rows.mean(1, keepdim=True)).square().mean(1)
    normalised = (rows.T - 0.6 * stats[0] - 0.4 * rows.mean(1)) / (var + 1e-5) ** 0.5
    expected = (normalised.T.reshape(2, 4, 3, 3).transpose(0, 1) * v).sum()
    got = (core.RobustBatchNorm(norm, 0.4).train()(x) * v).sum()
    same(got, expected)
    same(grad(got, x)[0], grad(expected, x)[0])


def test_weights_by_age():
    expected = torch.tensor([0.5, 0.3775, 0.2689])
    torch.testing.assert_close(core.timeliness(torch.tensor([0, 32, 64]), 64), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["memory_size", "update_every"])
def test_a_number_of_images_is_positive(name):
    with pytest.raises(ValueError, match=rf"adapter.{name}=0, expected a number of images, 1 or more."):
        adapters["rotta"].HParams(**{name: 0})


@pytest.mark.parametrize("name", ["teacher_rate", "momentum"])
def test_a_share_is_at_most_one(name):
    with pytest.raises(ValueError, match=rf"adapter.{name}=1.5, expected a share, from 0 to 1."):
        adapters["rotta"].HParams(**{name: 1.5})
