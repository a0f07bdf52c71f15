import importlib
import math

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import Optim
from dgbench.registry import UnknownName
from dgbench.task import Task
from tests.algorithms.reference import Adam, make, random_batches, train, weights_of

core = importlib.import_module("dgbench.algorithms.test_time.drm_select")
LABELS = ("own", "last", "uniform", "drm")
THREE = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)  # the last is the head of all domains


def trained(D=3, weight_decay=0.0):
    """A model whose heads disagree."""
    drm = make("drm", D=D, optim=Optim(lr=0.05, weight_decay=weight_decay))
    return train(drm, random_batches(8, D=D)).eval()


def stream(num=3, N=10):
    return [3 * torch.randn(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(num)]


# --- the mathematics again, example by example


def scores_of(weights, x):
    """Of the heads of the domains, then of that of all."""
    W, b, V, c, *heads = weights
    z = (x @ W.T + b).clamp(min=0)
    return [z @ U.T + u for U, u in [*zip(heads[::2], heads[1::2], strict=True), (V, c)]]


def answer_to(scores, gamma, heads="all"):
    rows = []
    for lines in zip(*scores, strict=True):
        p = [(line - line.logsumexp(0)).exp() for line in lines]
        H = [-(q * q.log()).sum() for q in p]
        if heads == "domains":
            p, H = p[:-1], H[:-1]
        if gamma in (-1, math.inf):
            rows.append(p[min(range(len(p)), key=H.__getitem__)])
            continue
        w = [h**-gamma for h in H]
        counted = p[:-1] if heads == "compat" else p
        rows.append(sum(a * q for a, q in zip(w, counted, strict=False)) / sum(w))
    return torch.stack(rows)


def retraining_loss(scores, labels, beta, gamma):
    """Zhang et al. 2023, as their code has it, but for what is confident: the probability itself."""
    p = [s.detach().softmax(1) for s in scores]
    means = {"last": p[-1], "uniform": sum(p) / len(p), "drm": answer_to([s.detach() for s in scores], gamma)}
    total = None
    for e, s in enumerate(scores):
        teacher = p[e] if labels == "own" else means[labels]
        rows = [i for i in range(len(s)) if teacher[i].max() >= beta]
        if rows:
            loss = sum(s[i].logsumexp(0) - s[i][teacher[i].argmax()] for i in rows) / len(rows)
            total = loss if total is None else total + loss
    return total


# --- answers


@pytest.mark.parametrize("heads", ["all", "domains", "compat"])
@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.5, 1.0, 5.0, math.inf])
@pytest.mark.parametrize("D", [1, 2, 5])
def test_answers_are_those_of_the_equations(D, gamma, heads):
    drm, (x, *_) = trained(D), stream()
    adapter = build_adapter("drm_select", drm, hparams={"gamma": gamma, "heads": heads})
    scores = scores_of(weights_of(drm), x)
    expected = answer_to(scores, gamma, heads)
    torch.testing.assert_close(adapter.step(x), expected)
    assert D == 1 or (expected - answer_to(scores, 3.0)).abs().max() > 1e-3
    is_whole = torch.isclose(expected.sum(1), torch.ones(10, dtype=x.dtype)).all()
    assert is_whole == (heads != "compat" or gamma in (-1, math.inf))


GOLDEN = [
    (0.0, (1 / 3, 1 / 3, 1 / 3), (0.4667, 0.2)),
    (1.0, (0.5123, 0.2403, 0.2474), (0.5812, 0.1714)),
    (5.0, (0.9533,), (0.8688, 0.1061)),
]


@pytest.mark.parametrize(("gamma", "w", "q"), GOLDEN)
def test_golden_values(gamma, w, q):
    logits = THREE.log().unsqueeze(1)
    found = core.head_weights(-(THREE * THREE.log()).sum(1, keepdim=True), gamma).flatten()
    assert found.tolist()[: len(w)] == pytest.approx(list(w), abs=1e-4)
    assert core.weighted(logits, gamma, "compat").flatten().tolist() == pytest.approx(list(q), abs=1e-4)
    torch.testing.assert_close(core.weighted(logits, gamma).flatten(), found @ THREE)


def test_by_default_nothing_is_retrained_and_the_surest_head_is_the_models_own_answer():
    drm = trained()
    adapter = build_adapter("drm_select", drm, hparams={"gamma": -1.0})
    for x in stream():
        assert torch.equal(adapter.step(x), drm(x).softmax(1))
    assert adapter.adapted_parameters() == []
    assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.algorithm), weights_of(drm), strict=True))


def test_a_large_gamma_is_the_surest_head():
    drm, (x, *_) = trained(), stream()
    large, surest = (build_adapter("drm_select", drm, hparams={"gamma": g}).step(x) for g in (1e5, math.inf))
    torch.testing.assert_close(large, surest)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
def test_equal_heads_have_equal_weights(gamma):
    drm, (x, *_) = trained(), stream()
    for head in drm.domain_heads:
        head.load_state_dict(drm.network.head.state_dict())
    torch.testing.assert_close(build_adapter("drm_select", drm, hparams={"gamma": gamma}).step(x), drm(x).softmax(1))
    torch.testing.assert_close(core.head_weights(torch.full((4, 2), 0.3), gamma), torch.full((4, 2), 0.25))


def test_certain_heads_have_finite_weights():
    w = core.head_weights(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), 5.0)
    torch.testing.assert_close(w, torch.tensor([[0.5, 1.0], [0.5, 0.0]]), rtol=0, atol=1e-3)


def test_an_answer_does_not_depend_on_the_batch():
    adapter, (x, *_) = build_adapter("drm_select", trained()), stream()
    torch.testing.assert_close(torch.cat([adapter.step(row) for row in x.split(1)]), adapter.step(x))


# --- retraining


@pytest.mark.parametrize("num_updates", [1, 3])
@pytest.mark.parametrize("labels", LABELS)
def test_retrained_heads_are_those_of_the_equations(labels, num_updates):
    drm = trained(weight_decay=0.01)
    hp = {"labels": labels, "beta": 0.4, "gamma": 0.5, "lr_factor": 0.1, "num_updates": num_updates}
    adapter = build_adapter("drm_select", drm, hparams=hp)
    weights = [w.requires_grad_() for w in weights_of(drm)]
    adam = Adam(weights[2:], lr=0.05 * 0.1, weight_decay=0.01)
    for x in stream():
        for _ in range(num_updates):
            scores = scores_of(weights, x)
            expected = answer_to(scores, 0.5).detach()
            adam.step(torch.autograd.grad(retraining_loss(scores, labels, 0.4, 0.5), weights[2:]))
        torch.testing.assert_close(adapter.step(x), expected)
    torch.testing.assert_close(weights_of(adapter.algorithm), [w.detach() for w in weights], rtol=1e-8, atol=1e-8)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(weights[2:], weights_of(drm)[2:], strict=True))
    assert all("head" in name for name in adapter.adapted_parameters())


@pytest.mark.parametrize("labels", LABELS)
def test_without_a_sure_example_nothing_is_learned(labels):
    drm = trained(weight_decay=0.01)
    adapter = build_adapter("drm_select", drm, hparams={"labels": labels, "beta": 0.3})
    first, second, _ = stream()
    adapter.step(first)
    before, adapter.hp.beta = weights_of(adapter.algorithm), 1.0  # momentum and weight decay would move the heads now
    adapter.step(second)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(adapter.algorithm), before, strict=True))


def test_a_head_without_a_sure_example_is_left_alone():
    drm = trained(weight_decay=0.01)
    torch.nn.init.zeros_(drm.domain_heads[1].weight)
    torch.nn.init.zeros_(drm.domain_heads[1].bias)
    adapter = build_adapter("drm_select", drm, hparams={"beta": 0.4})
    for x in stream():
        adapter.step(x)
    moved = [(a - b).abs().max() > 0 for a, b in zip(weights_of(adapter.algorithm), weights_of(drm), strict=True)]
    assert moved == [False] * 2 + [True] * 4 + [False] * 2 + [True] * 2


def test_a_single_logit_is_two_classes():
    drm = make("drm")
    drm.task, drm.network.head = Task("classification", 2, single_logit=True), torch.nn.Linear(7, 1).double()
    drm.domain_heads = torch.nn.ModuleList(torch.nn.Linear(7, 1).double() for _ in range(3))
    adapter = build_adapter("drm_select", drm, hparams={"beta": 0.5, "gamma": -1.0})
    (x, *_) = stream()
    torch.testing.assert_close(adapter.step(x)[:, 1:], drm.eval()(x).sigmoid())
    assert len(adapter.adapted_parameters()) == 8


def test_what_is_no_hyper_parameter_is_refused():
    with pytest.raises(UnknownName, match=r"'some' is not a known value of adapter.labels"):
        core.HParams(labels="some")
    with pytest.raises(ValueError, match=r"adapter.gamma=nan, expected 0 or more, or -1 for the surest head"):
        core.HParams(gamma=math.nan)
    with pytest.raises(ValueError, match=r"adapter.num_updates=0, expected 1 or more. beta=1.1 retrains nothing"):
        core.HParams(num_updates=0)


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="DRMSelect adapts models trained by drm, got one trained by ERM"):
        build_adapter("drm_select", make("erm"))
