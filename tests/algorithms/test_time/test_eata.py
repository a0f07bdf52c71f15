import math
import sys
from typing import Any

import pytest
import torch
from torch.autograd import grad

from dgbench.adapter import build_adapter
from dgbench.registry import UnknownName, adapters
from tests.algorithms.reference import Adam
from tests.algorithms.test_time.norm_reference import (
    AFFINE,
    answer,
    entropies,
    parameters,
    run,
    source,
    stream,
    trained,
)

HP = {"lr": 0.02, "redundancy_threshold": 0.9, "entropy_threshold": 0.7, "fisher_weight": 30.0}
WHOLE = {"fisher_size": 40, "fisher_batch_size": 40}  # all of the source in one batch: independent of its order


class Momentum:
    """Gradient descent with momentum 0.9."""

    def __init__(self, weights, lr):
        self.weights, self.lr, self.v = weights, lr, [torch.zeros_like(w) for w in weights]

    def step(self, grads):
        for i, (w, g) in enumerate(zip(self.weights, grads, strict=True)):
            self.v[i] = 0.9 * self.v[i] + g
            w.data -= self.lr * self.v[i]


def cross_entropy(z):
    """At the labels that are predicted."""
    return (torch.logsumexp(z, 1) - z.max(1).values).mean()


def reference(algorithm, batches, optimizer="adam", *, lr, redundancy_threshold, entropy_threshold, fisher_weight):
    """Niu et al. 2022 by the specification: answers, weights, mean prediction, and how many examples each learned."""
    w = [p.clone() for p in parameters(algorithm)]
    free = [w[i].requires_grad_() for i in AFFINE]
    start = [p.detach().clone() for p in free]
    x = torch.cat([batch.x[0] for batch in source()])
    fisher = [g**2 for g in grad(cross_entropy(answer(w, x)), free)]
    mover = Adam(free, lr=lr) if optimizer == "adam" else Momentum(free, lr)
    limit, mean, answers, counts = entropy_threshold * math.log(4), None, [], []
    for x in batches:
        z = answer(w, x)
        h, p = entropies(z), z.detach().softmax(1)
        chosen = []
        for b in range(len(x)):
            cosine = 0.0 if mean is None else float(mean @ p[b] / (mean.norm() * p[b].norm()))
            if h.detach()[b] < limit and abs(cosine) < (redundancy_threshold if mean is not None else math.inf):
                chosen.append(b)
        answers.append(z.detach())
        counts.append(len(chosen))
        if chosen:
            now = sum(p[b] for b in chosen) / len(chosen)
            mean = now if mean is None else 0.9 * mean + 0.1 * now
            loss = sum(math.exp(limit - float(h.detach()[b])) * h[b] for b in chosen) / len(chosen)
            terms = zip(fisher, free, start, strict=True)
            mover.step(grad(loss + fisher_weight * sum((f * (a - s) ** 2).sum() for f, a, s in terms), free))
    return answers, [v.detach() for v in w], mean, counts


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("weight", [0.0, 30.0])
def test_answers_and_weights_are_the_papers(weight, optimizer):
    algorithm, hp = trained(), {**HP, "fisher_weight": weight}
    options = {"hparams": {**hp, **WHOLE, "optimizer": optimizer}, "source": source()}
    adapter, answers = run("eata", algorithm, stream(), **options)
    expected, weights, mean, counts = reference(algorithm, stream(), optimizer, **hp)
    assert min(counts) < max(counts) < 9
    torch.testing.assert_close(answers, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parameters(adapter), weights, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(adapter.mean_prediction, mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "other", [{"fisher_weight": 0.0}, {"redundancy_threshold": 1.1}, {"entropy_threshold": 1.0}, {"lr": 0.0}]
)
def test_each_part_has_its_effect(other):
    one, two = (
        run("eata", trained(), stream(), hparams={**HP, **WHOLE, **change}, source=source())[1][-1]
        for change in (dict[str, Any](), other)
    )
    assert (one - two).abs().max() > 1e-4


@pytest.mark.parametrize("change", [{"entropy_threshold": 0.0}, {"lr": 0.0}])
def test_with_nothing_reliable_or_no_rate_it_is_bn_adapt_bit_for_bit(change):
    algorithm = trained()
    adapter, answers = run("eata", algorithm, stream(), hparams={**HP, **change}, source=source())
    expected = run("bn_adapt", algorithm, stream())[1]
    assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(algorithm), strict=True))


def test_a_batch_without_selected_examples_moves_nothing_in_spite_of_momentum():
    adapter, _ = run("eata", trained(), stream(), hparams={**HP, "optimizer": "sgd"}, source=source())
    assert any(state["momentum_buffer"].abs().max() > 0 for state in adapter.optimizer.state.values())
    before, mean = parameters(adapter), adapter.mean_prediction.clone()
    adapter.threshold = 0.0
    adapter.step(stream()[0])
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), before, strict=True))
    assert torch.equal(adapter.mean_prediction, mean)


def test_a_cosine_threshold_above_one_removes_no_example():
    algorithm, hp = trained(), {**HP, "redundancy_threshold": 1.1}
    answers = run("eata", algorithm, stream(), hparams={**hp, **WHOLE}, source=source())[1]
    expected, *_, counts = reference(algorithm, stream(), **{**hp, "redundancy_threshold": math.inf})
    limit = 0.7 * math.log(4)
    assert counts == [int((entropies(z) < limit).sum()) for z in expected]
    torch.testing.assert_close(answers, expected, rtol=1e-8, atol=1e-8)


def test_a_large_fisher_weight_holds_the_weights_that_matter():
    algorithm = trained()
    start, anchors = parameters(algorithm), build_adapter("eata", algorithm, source=source()).anchors.value

    def moved(weight):
        hp = {**HP, **WHOLE, "optimizer": "sgd", "lr": 1e-4, "fisher_weight": weight}
        now = parameters(run("eata", algorithm, 20 * stream(), hparams=hp, source=source())[0])
        return sum(float((f * (now[i] - start[i]) ** 2).sum()) for (f, _), i in zip(anchors, AFFINE, strict=True))

    assert moved(1e4) < 0.1 * moved(0.0)


def test_fisher_is_the_mean_over_batches_of_the_squared_mean_gradient():
    algorithm = trained()
    adapter = build_adapter("eata", algorithm, source=source())
    w = parameters(algorithm)
    free = [w[i].requires_grad_() for i in AFFINE]
    x = torch.cat([batch.x[0] for batch in source()])
    adapter.hp.fisher_batch_size = 16
    squares = [[g**2 for g in grad(cross_entropy(answer(w, x[a:b])), free)] for a, b in ((0, 16), (16, 32), (32, 40))]
    expected = [sum(parts) / 3 for parts in zip(*squares, strict=True)]
    torch.testing.assert_close(list(adapter.fisher(x)), expected, rtol=1e-8, atol=1e-12)
    assert all((f >= 0).all() for f, _ in adapter.anchors.value)


def test_source_examples_are_drawn_alike_from_all_its_batches():
    module = sys.modules[adapters["eata"].__module__]
    numbered = [b._replace(x=torch.arange(k * 8, k * 8 + 8.0).view(1, 8, 1)) for k, b in enumerate(source(40, 8))]
    torch.manual_seed(0)
    counts = torch.zeros(40)
    for _ in range(1000):
        rows = module.drawn(numbered, 10).flatten().long()
        assert len(rows) == len(rows.unique()) == 10
        counts[rows] += 1
    assert (counts - 250).abs().max() < 4 * (1000 * 0.25 * 0.75) ** 0.5
    assert sorted(module.drawn(numbered, 100).flatten().tolist()) == list(range(40))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_without_batch_norm_the_first_answer_is_the_models_own(norm):
    algorithm, x = trained(norm, width=9), stream()[0]
    _, (first, second) = run("eata", algorithm, [x, x], hparams=HP, source=source())
    assert torch.equal(first, algorithm(x).detach())
    assert (first - second).abs().max() > 1e-4


def test_reset_forgets_the_mean_prediction():
    adapter, first = run("eata", trained(), stream(), hparams=HP, source=source())
    adapter.reset()
    assert adapter.mean_prediction is None
    assert all(torch.equal(a, adapter.step(x)) for a, x in zip(first, stream(), strict=True))


def test_only_the_weights_of_the_norms_move():
    algorithm = trained()
    adapter = run("eata", algorithm, stream(), hparams=HP, source=source())[0]
    pairs = zip(parameters(adapter), parameters(algorithm), strict=True)
    assert tuple(i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)) == AFFINE


def test_refusals():
    for name, value, least in (("fisher_weight", -1.0, 0), ("fisher_size", 0, 1), ("fisher_batch_size", 0, 1)):
        with pytest.raises(ValueError, match=f"adapter.{name}={value}, expected {least} or more."):
            adapters["eata"].HParams(**{name: value})
    with pytest.raises(UnknownName, match=r"'lion' is not a known optimizer.*adam, sgd"):
        adapters["eata"].HParams(optimizer="lion")
    with pytest.raises(ValueError, match="EATA got a source without examples, expected those of the training domains"):
        build_adapter("eata", trained(), source=[])
    with pytest.raises(ValueError, match="EATA reads the source data"):
        build_adapter("eata", trained())


def test_eta_leaves_the_source_unread():
    def unreadable():
        raise AssertionError
        yield

    build_adapter("eata", trained(), source=unreadable(), hparams={"fisher_weight": 0.0})
