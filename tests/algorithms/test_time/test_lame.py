import importlib
import itertools

import numpy as np
import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.registry import UnknownName, algorithms
from dgbench.task import Task
from dgbench.workbench import Workbench
from tests.algorithms.reference import make

core = importlib.import_module("dgbench.algorithms.test_time.lame")
AFFINITIES = ("rbf", "knn", "linear")


# --- the mathematics again


def softmax(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def affinities(kind, v, k):
    """Boudiaf et al. 2022, as their code has it: the rbf's k-th nearest counts oneself, those of knn do not."""
    N = len(v)
    d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in v] for a in v])
    if kind == "linear":
        return v @ v.T
    if kind == "rbf":
        sigma = np.mean([sorted(row)[min(k, N) - 1] for row in d])
        return np.exp(-(d**2) / (2 * sigma**2))
    W = np.zeros((N, N))
    for i in range(N):
        for j in sorted((j for j in range(N) if j != i), key=lambda j: d[i, j])[:k]:
            W[i, j] = 1
    return W


def lame(p, W, lam=1.0):
    unary, energies = -np.log(p + 1e-10), []
    Y = softmax(-unary)
    for i in range(100):
        pairwise = lam * W @ Y
        Y = softmax(-unary + pairwise)
        energies.append((unary * Y - pairwise * Y + Y * np.log(Y)).sum())
        if i > 1 and abs(energies[-1] - energies[-2]) <= 1e-8 * abs(energies[-2]):
            break
    return Y


def predicted(model, x):
    weights = [p.detach().numpy() for p in model.parameters()]
    features = np.maximum(x.numpy() @ weights[0].T + weights[1], 0)
    return features, softmax(features @ weights[2].T + weights[3])


def inputs(N=12, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(N, 5)))


# --- the adapter


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("kind", AFFINITIES)
@pytest.mark.parametrize("N", [2, 12])
def test_answers_are_those_of_the_equations(kind, k, symmetric, N):
    model, x = make("erm"), inputs(N)
    adapter = build_adapter("lame", model, hparams={"affinity": kind, "num_neighbours": k, "symmetric": symmetric})
    features, p = predicted(model, x)
    W = affinities(kind, features / np.linalg.norm(features, axis=1, keepdims=True), k)
    expected = lame(p, (W + W.T) / 2 if symmetric else W)
    Y = adapter.step(x)
    np.testing.assert_allclose(Y, expected, rtol=1e-9)
    assert np.abs(Y.numpy() - p).max() > 1e-2
    torch.testing.assert_close(Y.sum(1), torch.ones(N, dtype=Y.dtype))


def test_golden_value():
    p, v = torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    W = core.rbf(v, 5)
    torch.testing.assert_close(W, torch.tensor([[1.0, 0.6065], [0.6065, 1.0]]), rtol=0, atol=1e-4)
    Y = core.smoothed(p, W)
    torch.testing.assert_close(Y, torch.tensor([[0.9613, 0.0387], [0.5759, 0.4241]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", AFFINITIES)
def test_without_affinities_the_answer_is_the_models(kind):
    model, x = make("erm"), inputs()
    adapter = build_adapter("lame", model, hparams={"affinity": kind, "weight": 0.0})
    torch.testing.assert_close(adapter.step(x), model.eval()(x).softmax(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", AFFINITIES)
@pytest.mark.parametrize("k", [1, 5])
def test_an_example_alone_is_answered_by_the_model(kind, k):
    model, x = make("erm"), inputs(1)
    adapter = build_adapter("lame", model, hparams={"affinity": kind, "num_neighbours": k})
    assert torch.equal(adapter.step(x), model.eval()(x).softmax(1))


@pytest.mark.parametrize("kind", AFFINITIES)
def test_permuted_examples_have_permuted_answers(kind):
    adapter, x = build_adapter("lame", make("erm"), hparams={"affinity": kind}), inputs()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapter.step(x[order]), adapter.step(x)[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", AFFINITIES)
@pytest.mark.parametrize("k", [1, 3])
def test_equal_examples_have_equal_answers(kind, k):
    adapter, x = build_adapter("lame", make("erm"), hparams={"affinity": kind, "num_neighbours": k}), inputs(8)
    Y = adapter.step(torch.cat([x, x[:2]]))
    torch.testing.assert_close(Y[:2], Y[-2:])


def test_a_batch_of_one_example_repeated_has_a_finite_answer():
    adapter, x = build_adapter("lame", make("erm").float()), inputs(1).float().expand(6, 5)
    Y = adapter.step(x)
    assert Y.isfinite().all()
    assert torch.equal(core.rbf(torch.ones(6, 3), 5), torch.ones(6, 6))


def test_no_example_is_its_own_neighbour():
    v = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert core.knn(v, 1).diagonal().sum() == 0
    assert core.knn(v, 5).sum() == 6


@pytest.mark.parametrize("kind", ["rbf", "linear"])
def test_no_iteration_raises_the_objective_of_psd_affinities(kind, monkeypatch):
    r = np.random.default_rng(0)
    p = torch.from_numpy(softmax(2 * r.normal(size=(15, 3))))
    v = torch.nn.functional.normalize(torch.from_numpy(r.normal(size=(15, 4))))
    W, objective = core.AFFINITIES[kind](v, 5), []
    assert torch.linalg.eigvalsh(W).min() > -1e-9
    for iterations in range(12):
        monkeypatch.setattr(core, "MAX_ITERATIONS", iterations)
        Y = core.smoothed(p, W)
        objective.append(float((Y * (Y / p).log()).sum() - (Y * (W @ Y)).sum() / 2))
    assert all(b <= a + 1e-7 for a, b in itertools.pairwise(objective))
    assert objective[-1] < objective[0] - 0.1


def test_batches_do_not_depend_on_each_other_and_nothing_changes(tmp_path):
    model = Workbench(algorithms["erm"], tmp_path).build("classification")
    adapter, (x, other) = build_adapter("lame", model), torch.rand(2, 6, 3, 8, 8)
    start = {name: value.clone() for name, value in adapter.state_dict().items()}
    first = adapter.step(x)
    adapter.step(other)
    assert torch.equal(adapter.step(x), first)
    assert torch.equal(adapter.predict(x), first)
    assert adapter.adapted_parameters() == []
    for name, value in adapter.state_dict().items():
        assert torch.equal(value, start[name])


def test_a_single_logit_is_two_classes():
    model = make("erm")
    model.task, model.network.head = Task("classification", 2, single_logit=True), torch.nn.Linear(7, 1).double()
    Y = build_adapter("lame", model).step(inputs())
    assert Y.shape == (12, 2)
    torch.testing.assert_close(Y.sum(1), torch.ones(12, dtype=Y.dtype))


def test_what_is_no_hyper_parameter_is_refused():
    with pytest.raises(UnknownName, match=r"'knm' is not a known affinity \(adapter.affinity\). Did you mean 'knn'"):
        core.HParams(affinity="knm")
    with pytest.raises(ValueError, match=r"adapter.num_neighbours=0, expected 1 or more"):
        core.HParams(num_neighbours=0)
    with pytest.raises(ValueError, match=r"adapter.weight=-1, expected 0 or more"):
        core.HParams(weight=-1)


def test_needs_features():
    with pytest.raises(ValueError, match="LAME needs predictions that are made from features"):
        build_adapter("lame", make("mtl"))
