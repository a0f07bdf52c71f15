import io
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional as tm
from torch.nn import functional as F

from dgbench.task import ECE_BINS, Task, expected_calibration_error

NAN = pytest.approx(math.nan, nan_ok=True)


def classified(num_classes=5, n=200, present=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, num_classes, generator=generator)
    y = torch.randint(present or num_classes, (n,), generator=generator)
    return logits, y


def regressed(n=50, C=3, seed=0):
    r = np.random.default_rng(seed)
    y = r.normal([0, 100, -5], [1, 20, 3], size=(n, 3))[:, :C]
    return torch.tensor(y + r.normal(size=y.shape)), torch.tensor(y)


def ece_by_hand(confidence, hit):
    total = 0.0
    for k in range(ECE_BINS):
        inside = (confidence > k / ECE_BINS) & (confidence <= (k + 1) / ECE_BINS)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("present", [5, 3], ids=["all classes", "two classes absent"])
def test_classification_metrics_are_those_of_the_libraries(present):
    logits, y = classified(present=present)
    found = Task("classification", 5).metrics(logits, y)
    p, predicted = logits.double().softmax(-1).numpy(), logits.argmax(-1).numpy()
    assert list(found) == ["accuracy", "correct", "macro_accuracy", "nll", "ece"]
    assert found["accuracy"] == sklearn.metrics.accuracy_score(y, predicted) == found["correct"] / 200
    assert type(found["correct"]) is int
    recall = sklearn.metrics.recall_score(y, predicted, labels=range(present), average="macro")
    assert found["macro_accuracy"] == pytest.approx(recall, abs=1e-12)
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(y, p, labels=range(5)), rel=1e-5)
    assert found["ece"] == pytest.approx(ece_by_hand(p.max(-1), predicted == y.numpy()), abs=1e-6)
    # Bins are open on the other side there, which random confidences do not meet.
    library = tm.calibration_error(logits.softmax(-1), y, "multiclass", n_bins=ECE_BINS, norm="l1", num_classes=5)
    assert found["ece"] == pytest.approx(float(library), abs=1e-6)
    assert all(type(value) in (int, float) for value in found.values())


def test_macro_accuracy_weighs_classes_equally_and_only_those_present():
    logits = torch.eye(3)[torch.tensor([0, 0, 0, 1])]
    found = Task("classification", 3).metrics(logits, torch.tensor([0, 0, 0, 2]))
    assert (found["accuracy"], found["macro_accuracy"]) == (0.75, 0.5)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    for k in range(1, ECE_BINS + 1):
        # The edge and the middle of its bin share a bin, so that their gaps cancel.
        edge, middle = k / ECE_BINS, (k - 0.5) / ECE_BINS
        confidence, hit = np.array([edge, middle]), np.array([True, False])
        found = expected_calibration_error(torch.tensor(confidence), torch.tensor(hit))
        assert found == pytest.approx(abs(1 - edge - middle) / 2, abs=1e-12)
        if k < ECE_BINS:
            confidence = np.array([edge, edge + 1e-9])
            apart = expected_calibration_error(torch.tensor(confidence), torch.tensor(hit))
            assert apart == pytest.approx(0.5, abs=1e-8)


def test_full_confidence_is_counted():
    ones = torch.ones(4)
    assert expected_calibration_error(ones, ones.bool()) == 0.0
    assert expected_calibration_error(ones, torch.tensor([True, True, True, False])) == 0.25
    assert expected_calibration_error(torch.zeros(4), ~ones.bool()) == 0.0
    found = Task("classification", 2).metrics(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert (found["ece"], found["nll"], found["accuracy"]) == (1.0, 1e4, 0.0)


@pytest.mark.parametrize("C", [1, 3])
def test_regression_metrics_are_those_of_the_libraries(C):
    predictions, y = regressed(C=C)
    found = Task("regression", C).metrics(predictions, y)
    assert list(found) == ["rmse", "mae", "r2", "pearson"]
    assert found["rmse"] == pytest.approx(sklearn.metrics.mean_squared_error(y, predictions) ** 0.5)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(y, predictions))
    assert found["r2"] == pytest.approx(sklearn.metrics.r2_score(y, predictions))
    pearson = [np.corrcoef(predictions[:, c], y[:, c])[0, 1] for c in range(C)]
    assert found["pearson"] == pytest.approx(np.mean(pearson))
    assert found["pearson"] == pytest.approx(float(tm.pearson_corrcoef(predictions, y).mean()))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e6])
def test_a_correlation_with_a_constant_is_not_defined(value):
    y = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None]
    constant = torch.full_like(y, value)
    task = Task("regression", 1)
    assert task.metrics(constant, y)["pearson"] == NAN
    assert task.metrics(y, constant)["pearson"] == NAN
    assert task.metrics(y, constant)["r2"] == NAN
    assert math.isfinite(task.metrics(constant, y)["r2"])
    assert task.metrics(constant, constant)["rmse"] == 0


def test_cross_entropy_and_squared_error_are_written_out():
    logits, y = classified()
    task = Task("classification", 5)
    by_hand = logits.logsumexp(-1) - logits[torch.arange(len(y)), y]
    assert torch.allclose(task.losses(logits, y), by_hand, atol=1e-6)
    assert torch.allclose(task.loss(logits, y), by_hand.mean(), atol=1e-6)
    predictions, y = regressed()
    task = Task("regression", 3)
    assert torch.allclose(task.losses(predictions, y), ((predictions - y) ** 2).sum(1) / 3)
    assert torch.allclose(task.loss(predictions, y), ((predictions - y) ** 2).mean())


@pytest.mark.parametrize("how", ["standard", "minmax", "none"])
def test_targets_are_compared_in_the_inner_scale_and_answered_in_original_units(how):
    outputs, y = regressed()
    task = Task("regression", 3).double()
    task.fit_scale(y, how)
    low, high = y.amin(0), y.amax(0)
    shift = {"standard": y.mean(0), "minmax": low, "none": torch.zeros(3)}[how]
    scale = {"standard": torch.tensor(y.numpy().std(0)), "minmax": high - low, "none": torch.ones(3)}[how]
    inner = (y - shift) / scale
    assert torch.allclose(task.encode(y), inner, atol=1e-5)
    assert torch.allclose(task.decode(task.encode(y)), y)
    assert torch.allclose(task.decode(outputs), outputs * scale + shift, rtol=1e-5)
    assert torch.allclose(task.losses(outputs, y), (outputs - inner).square().mean(-1), rtol=1e-4)
    assert float(task.loss(inner, y)) < 1e-9
    assert task.metrics(task.decode(inner), y)["rmse"] < 1e-4
    # Metrics of decoded answers are in original units: off by one inner unit is off by the scale.
    off = task.metrics(task.decode(inner + 1), y)
    assert off["mae"] == pytest.approx(float(scale.mean()), rel=1e-4)


def test_a_constant_target_keeps_its_scale():
    for how in ("standard", "minmax"):
        task = Task("regression", 2)
        task.fit_scale(torch.tensor([[3.0, 0.0], [3.0, 2.0]]), how)
        assert task.scale.tolist() == [1.0, {"standard": 1.0, "minmax": 2.0}[how]]
        assert torch.isfinite(task.encode(torch.tensor([[3.0, 1.0]]))).all()


def test_the_scale_travels_with_the_weights():
    task, other = Task("regression", 3), Task("regression", 3)
    task.fit_scale(regressed()[1], "standard")
    file = io.BytesIO()
    torch.save(task.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.shift, task.shift)
    assert torch.equal(other.scale, task.scale)
    assert list(task.parameters()) == []


def test_one_logit_says_what_two_say():
    one, two = Task("classification", 2, single_logit=True), Task("classification", 2)
    assert (one.num_outputs, two.num_outputs) == (1, 2)
    logits, y = classified(num_classes=2)
    margin = logits[:, 1:] - logits[:, :1]
    assert torch.allclose(one.losses(margin, y), two.losses(logits, y), atol=1e-6)
    assert torch.allclose(one.loss(margin, y), F.cross_entropy(logits, y), atol=1e-6)
    assert one.metrics(margin, y) == pytest.approx(two.metrics(logits, y), abs=1e-6)
    assert torch.equal(one.decode(margin), margin)


def test_the_score_says_which_way_is_better():
    kinds = [Task("classification", 3), Task("regression", 3)]
    assert [(t.score, t.score_sign, t.is_classification) for t in kinds] == [("accuracy", 1, True), ("rmse", -1, False)]


@pytest.mark.parametrize(("kind", "num"), [("classification", 3), ("regression", 2)])
def test_one_logit_is_refused_where_it_is_not_enough(kind, num):
    with pytest.raises(ValueError, match=rf"asks for a binary classification, got {kind} with {num} outputs. Leave"):
        Task(kind, num, single_logit=True)


def test_a_scale_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"dataset.target_scale='std', expected standard, minmax or none"):
        Task("regression", 1).fit_scale(torch.zeros(2, 1), "std")
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"dataset.target_scale='minmax' scales regression targets, but .* Leave it n"):
        Task("classification", 2).fit_scale(y, "minmax")
    Task("classification", 2).fit_scale(y, "none")
