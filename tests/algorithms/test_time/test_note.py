import pytest
import torch
from torch.autograd import grad

from dgbench.adapter import build_adapter
from dgbench.registry import adapters
from dgbench.task import Task
from dgbench.workbench import different
from tests.algorithms.reference import Adam
from tests.algorithms.test_time.memory_reference import (
    Reservoir,
    answer,
    check_reset,
    entropies,
    maps,
    parameters,
    same,
    seed,
    statistics,
    stream,
    trained,
)

HP = {"lr": 0.02, "momentum": 0.2, "memory_size": 6, "update_every": 4}
SIZES = [5, 1, 7, 4, 6, 9]


@pytest.fixture(scope="module")
def model():
    return trained("instance_aware")


def run(model, batches, **hparams):
    adapter = build_adapter("note", model, hparams=hparams)
    return adapter, [adapter.step(x) for x in batches]


class Descent:
    """Of the gradient, whose length then matters."""

    def __init__(self, weights, lr):
        self.weights, self.lr = weights, lr

    def step(self, grads):
        for w, g in zip(self.weights, grads, strict=True):
            w.data -= self.lr * g


def iabn(w, x, mean, var, k=4.0):
    """Logits, whose maps are normalised by the instance as far as it differs from `mean` and `var`, (5,)."""
    h = maps(w, x)
    L = h.shape[2] * h.shape[3]
    own = h.mean((2, 3))  # (N, 5)
    own_var = ((h - own[..., None, None]) ** 2).sum((2, 3)) / (L - 1)

    def soft(v, bound):
        return v.sign() * (v.abs() - bound).clamp(min=0)

    new = mean + soft(own - mean, k * ((var + 1e-5) / L).sqrt())
    new_var = (var + soft(own_var - var, k * (var + 1e-5) * (2 / (L - 1)) ** 0.5)).clamp(min=0)
    return answer(w, x, new, new_var)


def reference(model, batches, mover=Adam, lr=0.02, momentum=0.2, N=6, every=4):
    """Gong et al. 2022 by the specification: answers, weights and statistics."""
    w, stats = parameters(model), statistics(model)
    free = [w[i].requires_grad_() for i in (1, 2)]
    optimizer, memory, seen, answers = mover(free, lr=lr), Reservoir(N, 4), 0, []
    for step, x in enumerate(batches):
        torch.manual_seed(seed(step))
        rows = []
        for b in range(len(x)):
            rows.append(iabn(w, x[b : b + 1], *stats).detach())
            memory.add(x[b], int(rows[-1].argmax()))
            seen += 1
            if seen % every == 0:
                images = torch.stack([image for image, _ in memory.held])
                h = maps(w, images)
                mean = h.mean((0, 2, 3))
                var = ((h - mean[:, None, None]) ** 2).sum((0, 2, 3)) / (h.numel() / 5 - 1)
                loss = entropies(iabn(w, images, mean, var)).mean()
                stats = tuple((1 - momentum) * s + momentum * v for s, v in zip(stats, (mean, var), strict=True))
                optimizer.step(grad(loss, free))
        answers.append(torch.cat(rows))
    return answers, [v.detach() for v in w], stats


def test_answers_weights_and_statistics_are_those_of_the_paper(model):
    batches = stream(SIZES)
    adapter, answers = run(model, batches, **HP)
    expected, weights, stats = reference(model, batches)
    for got, wanted in zip(answers, expected, strict=True):
        same(got, wanted)
    for got, wanted in zip(parameters(adapter.algorithm), weights, strict=True):
        same(got, wanted)
    for got, wanted in zip(statistics(adapter.algorithm), stats, strict=True):
        same(got, wanted)


def test_the_loss_is_the_entropy_in_nats(model):
    batches = stream(SIZES)
    adapter, _ = run(model, [], **HP)
    adapter.optimizer = torch.optim.SGD(adapter.optimizer.param_groups[0]["params"], lr=0.02)
    for x in batches:
        adapter.step(x)
    _, weights, _ = reference(model, batches, Descent)
    for got, wanted in zip(parameters(adapter.algorithm), weights, strict=True):
        same(got, wanted)


@pytest.mark.parametrize("without", [{"lr": 0.0}, {"momentum": 0.0}, {"N": 40}])
def test_each_part_matters(model, without):
    batches = stream(SIZES)
    adapter, _ = run(model, batches, **HP)
    _, weights, stats = reference(model, batches, **without)
    got = [*parameters(adapter.algorithm), *statistics(adapter.algorithm)]
    assert max(float((a - b).abs().max()) for a, b in zip(got, [*weights, *stats], strict=True)) > 1e-4


def test_the_first_64_answers_are_the_sources(model):
    batches = stream([20, 1, 43, 20])
    adapter, answers = run(model, batches)
    for x, got in zip(batches[:3], answers, strict=False):
        assert torch.equal(got, model(x))
    assert not torch.allclose(answers[3], model(batches[3]))
    assert len(adapter.memory) == 64


def test_answers_do_not_depend_on_how_the_stream_is_cut(model):
    x = stream([30])[0]
    hp = HP | {"memory_size": 30}  # the memory draws nothing
    _, whole = run(model, [x], **hp)
    for size in (1, 7):
        same(torch.cat(run(model, x.split(size), **hp)[1]), whole[0])


def test_without_learning_rate_and_momentum_it_is_the_source_bit_for_bit(model):
    batches = stream([4] * 4)
    _, answers = run(model, batches, **HP | {"lr": 0.0, "momentum": 0.0})
    assert all(torch.equal(got, model(x)) for x, got in zip(batches, answers, strict=True))


def test_only_batch_norms_change_and_the_model_is_left_alone(model):
    start = {name: value.clone() for name, value in model.state_dict().items()}
    adapter, _ = run(model, stream(SIZES), **HP)
    norm = "network.body.conv1.1."
    assert adapter.adapted_parameters() == [norm + "weight", norm + "bias"]
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(different(dict(adapter.algorithm.state_dict()), start)) == {norm + name for name in names}
    assert not different(dict(model.state_dict()), start)
    assert model.network.body.get_submodule("conv1.1").momentum == 0.1


def test_after_updates_it_resets_and_repeats_bit_for_bit(model):
    check_reset(lambda: run(model, [], **HP)[0], stream(SIZES))


def test_a_single_logit_is_two_classes():
    model = trained("instance_aware")
    model.task, model.network.head = Task("classification", 2, single_logit=True), torch.nn.Linear(5, 1).double()
    adapter, answers = run(model, stream(SIZES), **HP)
    assert answers[-1].shape == (9, 2)
    assert set(adapter.memory.labels.tolist()) <= {0, 1}


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="NOTE needs a network with instance_aware normalisation"):
        build_adapter("note", trained("batch"))


@pytest.mark.parametrize("name", ["memory_size", "update_every"])
def test_a_number_of_images_is_positive(name):
    with pytest.raises(ValueError, match=rf"adapter.{name}=0, expected a number of images, 1 or more."):
        adapters["note"].HParams(**{name: 0})


def test_a_share_is_at_most_one():
    with pytest.raises(ValueError, match=r"adapter.momentum=1.5, expected a share, from 0 to 1."):
        adapters["note"].HParams(momentum=1.5)
