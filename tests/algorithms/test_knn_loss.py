import math
from collections import deque
from typing import Any

import pytest
import torch

from dgbench.algorithm import build_algorithm
from dgbench.hparams import Optim
from dgbench.network import build_network
from dgbench.task import Task
from tests.algorithms.reference import (
    adam_steps,
    assert_weights,
    differs,
    make,
    random_batches,
    train,
    weights_of,
)

SMALL = {"queue_size": 40, "k": 5}


def features_of(weights, x):
    return (x @ weights[0].T + weights[1]).clamp(min=0)


def objective(queue_size, k, temperature):
    """AdaNPC's training, an example at a time; the queue is a list of pairs."""
    queue: deque = deque(maxlen=queue_size)

    def loss(weights, batch, step):
        tau, (D, B) = temperature(step), batch.y.shape
        z = features_of(weights, batch.x)
        z = z / z.pow(2).sum(-1, keepdim=True).sqrt()
        rows = [(z[d, b], int(batch.y[d, b])) for b in range(B) for d in range(D)]
        total = 0 * z.sum()
        for query, label in rows:
            pairs = sorted(((query @ key, other) for key, other in queue), key=lambda pair: -pair[0].item())[:k]
            exps = [((s / tau).exp(), other) for s, other in pairs]
            q = sum((e for e, other in exps if other == label), torch.zeros(())) / max(1e-300, sum(e for e, _ in exps))
            total = total - (q + 1e-5).clamp(max=1).log()
        queue.extend((key.detach(), label) for key, label in rows)
        return total / (D * B)

    return loss


@pytest.mark.parametrize(("D", "queue_size"), [(1, 40), (2, 40), (5, 40), (3, 11)])
def test_weights_after_some_steps(D, queue_size):
    batches = random_batches(5, D=D)  # of 30 and 18 examples, more than the smaller queue holds
    hparams, optim = {"queue_size": queue_size, "k": 5}, Optim(lr=0.01, num_steps=10)
    knn = make("knn_loss", hparams, D=D, optim=optim)
    start = weights_of(knn)
    assert [tuple(w.shape) for w in start] == [(7, 5), (7,)]
    train(knn, batches)

    def annealed(t):
        return 1 - 0.9 * t / 10

    assert_weights(knn, adam_steps(start, batches, objective(queue_size, 5, annealed)))
    others = ((queue_size, 5, lambda t: 0.1), (queue_size, 3, annealed), (queue_size - 6, 5, annealed))
    for other in others if D > 1 else others[:2]:
        assert differs(knn, adam_steps(start, batches, objective(*other)))
    erm = train(make("erm", D=D, optim=optim), batches)
    assert differs(knn, weights_of(erm)[:2])


def test_temperature_falls_over_the_steps_of_the_run():
    knn = make("knn_loss", {"temperature": 0.2}, optim=Optim(num_steps=100))
    got = []
    for step in (0, 50, 100, 150):
        knn.set_step(step)
        got.append(knn.temperature)
    assert got == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert make("knn_loss", {"temperature": 0.2}).temperature == pytest.approx(0.2)


def test_of_an_empty_queue_nothing_is_learned_and_empty_slots_never_vote():
    knn, batches = make("knn_loss", SMALL), random_batches(2)
    start = weights_of(knn)
    assert knn.eval()(batches[0].x.flatten(0, 1)).min().item() == pytest.approx(math.log(1e-5))
    assert knn.loss(batches[0])["loss"].item() == pytest.approx(-math.log(1e-5))
    assert not knn.queue.is_filled.any()  # not in training
    train(knn.train(), batches[:1])
    assert all(torch.equal(a, b) for a, b in zip(weights_of(knn), start, strict=True))
    assert knn.queue.is_filled.sum() == 18
    # Of a class that no example had, p is the smoothing, class 0 of the empty slots too.
    knn.queue.labels[knn.queue.is_filled] = 2
    log_p = knn.eval()(batches[1].x.flatten(0, 1))
    torch.testing.assert_close(log_p[:, [0, 1, 3]].exp(), torch.full((18, 3), 1e-5, dtype=torch.float64))


def test_without_a_neighbour_of_its_class_an_example_has_no_gradient():
    knn, (one, two) = make("knn_loss", SMALL), random_batches(2)
    knn.loss(one._replace(y=torch.zeros_like(one.y)))
    loss = knn.loss(two._replace(y=torch.ones_like(two.y)))["loss"]
    assert float(loss.detach()) == pytest.approx(-math.log(1e-5))
    assert all(not grad.any() for grad in torch.autograd.grad(loss, list(knn.network.body.parameters())))


def test_the_queue_keeps_the_last_examples_in_turns_of_the_domains():
    knn, batches = make("knn_loss", SMALL, activation="tanh"), random_batches(4)
    rows: deque = deque(maxlen=40)
    for batch in batches:
        z = knn.features(batch.x.flatten(0, 1)).unflatten(0, batch.y.shape).detach()
        rows.extend((z[d, b] / z[d, b].norm(), batch.y[d, b]) for b in range(6) for d in range(3))
        knn.loss(batch)
        held = {tuple(key.tolist()) for key in knn.queue.keys[knn.queue.is_filled]}
        assert len(held) == len(rows)
        for key, label in rows:
            slot = (knn.queue.keys - key).abs().sum(1).argmin()
            torch.testing.assert_close(knn.queue.keys[slot], key)
            assert knn.queue.labels[slot] == label
    assert knn.queue.next_slot == 72 % 40


def test_predictions_are_the_vote_of_the_queue():
    knn, batches = make("knn_loss", SMALL), random_batches(3)
    train(knn, batches).eval()
    x = random_batches(1, seed=1)[0].x.flatten(0, 1)
    log_p, z = knn(x), knn.features(x)
    torch.testing.assert_close(knn.classify(z), log_p)
    torch.testing.assert_close(knn.classify(5 * z), log_p)
    similarities = (z / z.norm(dim=1, keepdim=True)) @ knn.queue.keys.T
    for row, got in zip(similarities, log_p, strict=True):
        neighbours = row.argsort(descending=True)[:5]
        w = (row[neighbours] / 0.1).softmax(0)
        q = torch.stack([w[knn.queue.labels[neighbours] == c].sum() for c in range(4)])
        torch.testing.assert_close(got, (q + 1e-5).clamp(max=1).log())
    fresh = make("knn_loss", SMALL, seed=1)
    fresh.load_state_dict(knn.state_dict())
    assert torch.equal(fresh.eval()(x), log_p)


def test_a_single_logit_is_the_log_odds():
    task = Task("classification", 2, single_logit=True)
    network = build_network("mlp", (5,), task.num_outputs, width=7)
    knn = build_algorithm("knn_loss", task=task, network=network, num_domains=3, hparams=SMALL).double()
    batches = [batch._replace(y=batch.y % 2) for batch in random_batches(3)]
    train(knn, batches).eval()
    x = batches[0].x.flatten(0, 1)
    queue: Any = knn.queue
    p = queue.probabilities(knn.features(x), 0.1)  # (N, 2)
    assert knn(x).shape == (18, 1)
    torch.testing.assert_close(knn(x).sigmoid().squeeze(1), p[:, 1] / p.sum(1))
    assert knn.loss(batches[0])["loss"] > 0


def test_there_is_no_head_to_train():
    knn = make("knn_loss")
    assert list(knn.network.head.parameters()) == []
    assert knn.queue.keys.shape == (1000, 7)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="works for classification, but the task is regression"):
        make("knn_loss", kind="regression")
    with pytest.raises(ValueError, match=r"algorithm\.temperature=0, expected more than 0"):
        make("knn_loss", {"temperature": 0.0})
    with pytest.raises(ValueError, match=r"algorithm\.k=0, expected 1 neighbour or more"):
        make("knn_loss", {"k": 0})
    with pytest.raises(ValueError, match=r"algorithm\.k=20, expected at most queue_size=10\. Lower it"):
        make("knn_loss", {"k": 20, "queue_size": 10})
    with pytest.raises(ValueError, match="trains features alone, but those of network=mlp as configured have no weig"):
        make("knn_loss", depth=0, width=None)
