import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import Optim, draw
from dgbench.registry import UnknownName, adapters
from tests.algorithms.reference import Adam
from tests.algorithms.test_time.small_model import (
    changed_by,
    logits,
    same,
    statistics_of,
    stream,
    trained,
    weights_of,
    with_single_logit,
)

PARTS = {"all": slice(0, 6), "classifier": slice(4, 6), "featurizer": slice(0, 4)}


def by_hand(model, batches, scope, num_updates=1, threshold=0.5, lr=0.01, weight_decay=0.0):
    """Answers, weights and how many labels were learned from."""
    weights = weights_of(model)
    learned = [w.requires_grad_() for w in weights[PARTS[scope]]]
    optimizer, answers, used = Adam(learned, lr=lr, weight_decay=weight_decay), [], []
    for x in batches:
        for _ in range(num_updates):
            z = logits(weights, x, statistics_of(model))
            p = z.exp() / z.exp().sum(1, keepdim=True)
            top = p.amax(1)
            used.append(int((top > threshold).sum()))
            if used[-1]:
                loss = sum(-t.log() for t in top if t > threshold) / used[-1]
                grads = torch.autograd.grad(loss, learned)
                optimizer.step(grads)
        answers.append(z.detach())
    return answers, [w.detach() for w in weights], used


@pytest.mark.parametrize("scope", ["all", "classifier", "featurizer"])
@pytest.mark.parametrize(("num_updates", "weight_decay"), [(1, 0.0), (3, 0.1)])
def test_answers_and_weights_after_four_batches(scope, num_updates, weight_decay):
    """Lee 2013 with a threshold: the cross-entropy of confident labels; the answer is that of the last pass."""
    model, batches = trained(optim=Optim(lr=0.02, weight_decay=weight_decay)), stream()
    hparams = {"lr_factor": 0.5, "num_updates": num_updates, "threshold": 0.5, "scope": scope}
    adapter = build_adapter("pseudo_label", model, hparams=hparams)
    answers, weights, used = by_hand(model, batches, scope, num_updates, weight_decay=weight_decay)
    assert any(0 < num < 8 for num in used)
    for x, expected in zip(batches, answers, strict=True):
        same(adapter.step(x), expected)
    for got, expected in zip(weights_of(adapter.algorithm), weights, strict=True):
        same(got, expected)


@pytest.mark.parametrize("scope", ["all", "classifier", "featurizer"])
def test_only_the_scope_changes(scope):
    adapter = build_adapter("pseudo_label", trained(), hparams={"threshold": 0.3, "scope": scope})
    names = [name for name, _ in adapter.algorithm.named_parameters()][PARTS[scope]]
    assert adapter.adapted_parameters() == names
    assert changed_by(adapter, stream()) == names


def test_a_single_logit_has_the_confidence_of_two_classes():
    model, x = with_single_logit(trained()), stream(1)[0]
    adapter = build_adapter("pseudo_label", model, hparams={"threshold": 0.6})
    weights = [w.requires_grad_() for w in weights_of(model)]
    logit = logits(weights, x, statistics_of(model)).squeeze(1)
    top = torch.sigmoid(logit.abs())
    assert 0 < (top > 0.6).sum() < 8
    Adam(weights, lr=0.01).step(torch.autograd.grad(-top[top > 0.6].log().mean(), weights))
    adapter.step(x)
    for got, expected in zip(weights_of(adapter.algorithm), weights, strict=True):
        same(got, expected.detach())


def test_where_nothing_is_confident_nothing_changes():
    """Not even by momentum or weight decay, after updates that did happen."""
    adapter = build_adapter("pseudo_label", trained(optim=Optim(lr=0.01, weight_decay=0.1)), hparams={"threshold": 0.3})
    for x in stream(2):
        adapter.step(x)
    adapter.hp.threshold = 1.0
    before = weights_of(adapter.algorithm)
    for x in stream():
        assert adapter.step(x).isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(adapter.algorithm), strict=True))


@pytest.mark.parametrize("scope", ["all", "classifier", "featurizer"])
def test_at_learning_rate_0_it_is_the_source_bit_for_bit(scope):
    model = trained(optim=Optim(lr=0.01, weight_decay=0.1))
    hparams = {"lr_factor": 0.0, "threshold": 0.3, "scope": scope, "num_updates": 3}
    adapter, source = build_adapter("pseudo_label", model, hparams=hparams), build_adapter("source", model)
    for x in stream():
        assert torch.equal(adapter.step(x), source.step(x))


def test_the_first_answer_is_the_sources_and_the_next_is_not():
    model, x = trained(), stream(1)[0]
    adapter = build_adapter("pseudo_label", model, hparams={"threshold": 0.3})
    assert torch.equal(adapter.step(x), model(x))
    assert (adapter.step(x) - model(x)).abs().max() > 1e-3


def test_parts_of_other_methods():
    """The featurizer of ERM++ is its average; all heads of DRM make its prediction; MTL has no parts."""
    scopes = [build_adapter("pseudo_label", trained("erm_plus_plus"), hparams={"scope": s}) for s in PARTS]
    assert [len(adapter.adapted_parameters()) for adapter in scopes] == [6, 2, 4]
    assert {n.split(".")[0] for adapter in scopes for n in adapter.adapted_parameters()} == {"average"}
    drm = build_adapter("pseudo_label", trained("drm"), hparams={"scope": "classifier"})
    assert len(drm.adapted_parameters()) == 8
    mtl = trained("mtl")
    build_adapter("pseudo_label", mtl).step(stream(1)[0])
    with pytest.raises(
        ValueError, match=r"adapter\.scope=classifier needs predictions .* those of MTL are not\. Use sc"
    ):
        build_adapter("pseudo_label", mtl, hparams={"scope": "classifier"})
    knn = trained("knn_loss")
    build_adapter("pseudo_label", knn, hparams={"threshold": 0.3}).step(stream(1)[0])
    with pytest.raises(ValueError, match=r"classifier of KNNLoss on network=mlp has no weights, .*adapter\.scope=all"):
        build_adapter("pseudo_label", knn, hparams={"scope": "classifier"})


def test_bad_values_are_refused():
    with pytest.raises(UnknownName, match=r"'clasifier' is not a known adapter\.scope\. Did you mean 'classifier'"):
        build_adapter("pseudo_label", trained(), hparams={"scope": "clasifier"})
    with pytest.raises(ValueError, match="PseudoLabel works for classification, but the task is regression"):
        build_adapter("pseudo_label", trained(kind="regression"))


def test_defaults_and_draws():
    HParams = adapters["pseudo_label"].HParams
    hp = HParams()
    assert (hp.lr_factor, hp.num_updates, hp.threshold, hp.scope) == (1.0, 1, 0.9, "all")
    drawn = [draw(HParams, seed) for seed in range(1, 30)]
    assert {d.lr_factor for d in drawn} == {0.1, 1.0, 10.0}
    assert {d.num_updates for d in drawn} == {1, 3}
