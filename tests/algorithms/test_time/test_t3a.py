import numpy as np
import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import draw
from dgbench.registry import adapters
from tests.algorithms.test_time.small_model import (
    features,
    same,
    statistics_of,
    stream,
    trained,
    weights_of,
    with_single_logit,
)


def adapted(model, num_supports=-1):
    return build_adapter("t3a", model, hparams={"num_supports": num_supports})


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class ByHand:
    """Iwasawa and Matsuo 2021, one support after the other."""

    def __init__(self, W, b, K):
        self.W, self.b, self.K, self.supports = W, b, K, []
        self.add(W)

    def add(self, z):
        for row in z:
            logits = self.W @ row + self.b
            p = softmax(logits)
            self.supports.append((-(p * np.log(p)).sum(), int(logits.argmax()), row))

    def classifier(self):
        columns = np.zeros((self.W.shape[1], len(self.W)))
        for _, label, row in self.supports:
            columns[:, label] += row / max(np.linalg.norm(row), 1e-12)
        return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12)

    def step(self, z):
        self.add(z)
        if self.K != -1:
            kept = []
            for c in range(len(self.W)):
                kept += sorted((s for s in self.supports if s[1] == c), key=lambda s: s[0])[: self.K]
            self.supports = kept
        return z @ self.classifier()


def by_hand(model, K):
    W, b = (w.numpy() for w in weights_of(model)[4:])
    return ByHand(W, b, K)


def features_of(model, x):
    return features(weights_of(model), x, statistics_of(model), 1.0).numpy()


@pytest.mark.parametrize("K", [1, 2, 5, -1])
@pytest.mark.parametrize("N", [1, 8])
def test_answers_to_six_batches(K, N):
    model, batches = trained(), stream(6, N=N)
    adapter, reference = adapted(model, K), by_hand(model, K)
    for x in batches:
        got = adapter.step(x)
        same(got, torch.tensor(reference.step(features_of(model, x))))
        same(adapter.predict(x), got)  # the batch is among the supports, once
        assert (got - model(x)).abs().max() > 1e-2
    assert len(adapter.supports) == len(reference.supports)
    counts = torch.bincount(adapter.labels, minlength=4)
    assert counts.max() <= (K if K != -1 else 100)


def linear(W, b):
    """A model whose features are its inputs."""
    model = trained(depth=0, norm="none", normalise="none", shape=(W.shape[1],))
    head = torch.nn.Linear(W.shape[1], len(W)).double()
    head.load_state_dict({"weight": W, "bias": b})
    model.network.head, model.task.num_classes = head, len(W)
    return model


def test_the_golden_example():
    """W the identity, z = (2, 1), all supports: of three, each has the entropy of softmax(1, 0)."""
    adapter = adapted(linear(torch.eye(2).double(), torch.zeros(2).double()))
    answer = adapter.step(torch.tensor([[2.0, 1.0]]).double())
    torch.testing.assert_close(answer, torch.tensor([[2.1763, 1.0]]).double(), atol=5e-5, rtol=0)
    torch.testing.assert_close(adapter.entropies, torch.full((3,), 0.5822).double(), atol=5e-5, rtol=0)
    assert adapter.labels.tolist() == [0, 1, 0]


def test_before_any_batch_the_classifier_is_its_rows_normalised():
    model, x = linear(torch.tensor([[3.0, 0.0], [0.0, 0.5]]).double(), torch.tensor([0.1, 0.2]).double()), stream(1)[0]
    same(adapted(model).predict(x[:, :2]), x[:, :2])
    equal = linear(torch.tensor([[0.6, 0.8], [1.0, 0.0]]).double(), torch.zeros(2).double())
    assert torch.equal(adapted(equal).predict(x[:, :2]).argmax(1), equal(x[:, :2]).argmax(1))


def test_rows_that_are_more_certain_than_the_stream_stay_alone():
    adapter = adapted(linear(4 * torch.eye(2).double(), torch.zeros(2).double()), 1)
    x = torch.tensor([[0.5, 0.4], [0.1, 0.3]]).double()
    same(adapter.step(x), x)
    same(adapter.supports, 4 * torch.eye(2).double())


def test_a_class_that_is_nobodys_label_has_score_0():
    W, b = torch.eye(2).double(), torch.tensor([5.0, 0.0]).double()
    adapter = adapted(linear(W, b))
    assert adapter.labels.tolist() == [0, 0]
    assert adapter.step(torch.ones(3, 2).double())[:, 1].tolist() == [0, 0, 0]


def test_of_equally_certain_ones_the_earlier_stay():
    adapter = adapted(linear(torch.eye(2).double(), torch.zeros(2).double()), 2)
    for value in (2.0, 3.0, 4.0):  # all have the entropy of softmax(1, 0)
        adapter.step(torch.tensor([[value, value - 1]]).double())
    same(adapter.supports[adapter.labels == 0], torch.tensor([[1.0, 0.0], [2.0, 1.0]]).double())


def test_a_single_logit_has_a_row_for_each_class():
    model, batches = with_single_logit(trained()), stream()
    w, b = (v.numpy() for v in weights_of(model)[4:])
    adapter, reference = adapted(model, 5), ByHand(np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2, 5)
    for x in batches:
        same(adapter.step(x), torch.tensor(reference.step(features_of(model, x))))


def test_answers_follow_a_permutation_of_the_batch():
    model, order = trained(), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    straight, permuted = adapted(model, 3), adapted(model, 3)
    for x in stream():
        same(permuted.step(x[order]), straight.step(x)[order])


def test_reset_forgets_the_stream():
    adapter, batches = adapted(trained(), 5), stream()
    start, first = adapter.supports.clone(), [adapter.step(x) for x in batches]
    assert not torch.equal(adapter.supports, start)
    adapter.reset()
    assert torch.equal(adapter.supports, start)
    assert all(torch.equal(adapter.step(x), y) for x, y in zip(batches, first, strict=True))


def test_features_that_overflow_leave_no_trace():
    model, (first, second, *_) = trained(), stream()
    adapter, undisturbed = adapted(model), adapted(model)
    broken = torch.cat([first, torch.full_like(first[:1], 1e308), -torch.full_like(first[:1], 1e200)])
    lengths = model.features(broken).norm(dim=1)
    assert lengths.isfinite().tolist() == [True] * len(first) + [False, False]
    answers = adapter.step(broken)
    assert torch.equal(answers[: len(first)], undisturbed.step(first))
    assert torch.equal(adapter.step(second), undisturbed.step(second))
    assert len(adapter.supports) == len(undisturbed.supports)


def test_no_weight_changes_and_answers_come_after_the_update():
    model = trained()
    adapter = adapted(model, 5)
    for x in stream():
        adapter.step(x)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.algorithm), weights_of(model), strict=True))
    assert (adapter.adapted_parameters(), adapter.answers) == ([], "after")


def test_the_classifier_must_be_linear():
    adapted(trained("erm_plus_plus")).step(stream(1)[0])
    with pytest.raises(
        ValueError, match=r"T3A needs predictions that are one linear layer .* those of DRM are not\. Ada"
    ):
        adapted(trained("drm"))
    with pytest.raises(ValueError, match=r"T3A needs predictions that are one linear layer .* those of KNNLoss are"):
        adapted(trained("knn_loss"))
    model = trained()
    model.classify = lambda z: model.network.head(torch.nn.functional.normalize(z, dim=1))
    with pytest.raises(ValueError, match="T3A needs predictions that are one linear layer"):
        adapted(model)


@pytest.mark.parametrize("num", [0, -2])
def test_bad_values_are_refused(num):
    with pytest.raises(ValueError, match=rf"adapter\.num_supports={num}, expected at least 1, or -1 for all"):
        adapted(trained(), num)


def test_default_and_draws():
    HParams = adapters["t3a"].HParams
    assert HParams().num_supports == 100
    assert {draw(HParams, seed).num_supports for seed in range(1, 60)} == {1, 5, 20, 50, 100, -1}
