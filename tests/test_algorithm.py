import io
from typing import Any

import pytest
import torch

from dgbench.algorithm import Algorithm, Needs
from dgbench.hparams import Optim
from dgbench.registry import UnknownName
from dgbench.task import Task
from tests.toy import AtStart, AtStep, Automatic, B, C, D, FromStep, HParams, Manual, build, fit, seeded, snapshot

both = pytest.mark.parametrize("cls", [Automatic, Manual])


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_method_is_built_from_a_name_or_its_class_and_some_of_its_hyper_parameters():
    assert type(build("vrex")).__name__ == "VREx"
    assert build("vrex", hparams={"penalty_weight": 3.0}).hp.penalty_weight == 3.0
    assert build("vrex", hparams={"penalty_weight": 3.0}).hp.anneal_steps == 500
    assert build(hparams=HParams(scale=2.0)).hp == HParams(scale=2.0, lr_other=1e-3)
    with pytest.raises(UnknownName, match=r"'scael' is not a known hyper-parameter of Automatic. Did you mean 'scale'"):
        build(hparams={"scael": 1})
    with pytest.raises(UnknownName, match=r"'vrexx' is not a known algorithm. Did you mean 'vrex'"):
        build("vrexx")


def test_what_is_not_given_is_the_default_of_the_regime():
    small = Optim(lr=1e-3, weight_decay=0.0, batch_size=64, dropout=0.0, optimizer="adam", num_steps=None)
    assert build().optim == small
    assert build(optim=Optim(lr=0.5), regime="large").optim == Optim(lr=0.5, weight_decay=0.0, batch_size=32)
    assert build(regime="large").hp.lr_other == 5e-5
    assert build(hparams={"lr_other": 0.25}, regime="large").hp.lr_other == 0.25


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        (Needs(tasks=("regression",)), "works for regression, but the task is classification"),
        (Needs(min_domains=4), "needs at least 4 training domains, got 3"),
        (Needs(pretrained=True), "needs pretrained weights, got random ones; name them with network.weights"),
    ],
)
def test_an_unmet_need_is_a_sentence_before_step_0(needs, text):
    with pytest.raises(ValueError, match=rf"^Needy {text}.$"):
        build(type("Needy", (Automatic,), {"needs": needs}))


def test_rows_per_domain_are_needed_only_by_methods_that_say_so():
    asked: dict[str, Any] = {"task": Task("regression", 1), "num_domains": 1, "pretrained": False}
    assert Needs().unmet(**asked, domain_rows=False) is None
    text = "needs one row of the batch per training domain; use protocol.sampling=balanced"
    assert Needs(domain_rows=True).unmet(**asked, domain_rows=False) == text
    assert Needs(domain_rows=True).unmet(**asked) is None


def test_the_optimizer_is_the_one_that_is_named():
    weights = [torch.nn.Parameter(torch.zeros(2))]
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        algorithm = build(optim=Optim(optimizer=name, lr=0.25, weight_decay=0.5))
        made = algorithm.make_optimizer(weights)
        assert type(made) is kind
        assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.25, 0.5)
        assert algorithm.make_optimizer(weights, lr=1.0).defaults["lr"] == 1.0
        assert made.defaults.get("momentum", 0.9) == 0.9
    with pytest.raises(UnknownName, match=r"'adm' is not a known optimizer. Did you mean 'adam'"):
        build(optim=Optim(optimizer="adm")).make_optimizer(weights)


def test_what_a_method_leaves_open_is_answered_in_a_sentence():
    silent = build(type("Silent", (Algorithm,), {"HParams": HParams}))
    for call in (silent.loss, lambda batch: silent.training_step(batch, 0)):
        with pytest.raises(TypeError, match=r"Silent does not say what to minimise: define loss"):
            call(None)
    assert silent.make_sampler(torch.zeros(2), torch.zeros(2)) is None
    assert silent.on_evaluation(0.5) is None


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_forward_is_classify_of_features_in_original_units(kind):
    task = Task(kind, C)
    if kind == "regression":
        task.fit_scale(torch.randn(50, C) * 3 + 5, "standard")
    algorithm, x = build(task=task).eval(), torch.randn(6, 5)
    assert_equal(algorithm(x), algorithm.classify(algorithm.features(x)))
    assert_equal(algorithm(x), task.decode(algorithm.network(x)))


def test_risks_are_the_mean_losses_of_each_domain():
    algorithm = build().eval()
    batch = next(iter(FromStep(algorithm, 1)))
    risks = [algorithm.task.loss(algorithm.network(batch.x[d]), batch.y[d]) for d in range(D)]
    torch.testing.assert_close(algorithm.domain_risks(batch), torch.stack(risks))
    assert_equal(algorithm.domain_risks(batch, algorithm.outputs(batch)), algorithm.domain_risks(batch))
    assert algorithm.outputs(batch).shape == (D, B, C)


@both
def test_the_best_state_comes_back_and_the_step_goes_on(cls):
    algorithm, kept = seeded(cls), []

    def keep():
        kept.append(snapshot(algorithm))

    fit(algorithm, 5, AtStep(_2=[algorithm.keep_best, keep], _4=[keep, algorithm.restore_best, keep]))
    (best, best_optimizer), (later, _), (back, back_optimizer) = kept
    assert "network.head.weight" in best
    assert any("running_mean" in name for name in best)
    assert all(not torch.equal(best[name], later[name]) for name in best if "bias" in name or "running" in name)
    assert back.pop("steps_done") == 4
    assert best.pop("steps_done") == 2
    assert_equal(back, best)
    assert_equal(back_optimizer, best_optimizer)
    assert algorithm.step == 5
    # Checkpoints need not carry it any longer.
    assert algorithm.training_state()["best"] is None
    now, _ = snapshot(algorithm)
    algorithm.restore_best()
    assert_equal(snapshot(algorithm)[0], now)


def test_without_anything_kept_restoring_changes_nothing():
    plain, restoring = seeded(Automatic), seeded(Automatic)
    fit(restoring, 4, AtStep(_2=[restoring.restore_best]))
    assert_equal(restoring.state_dict(), fit(plain, 4).state_dict())


def test_an_optimizer_starts_afresh():
    algorithm, lrs = build(), []

    def group():
        return algorithm.optimizers(use_pl_optimizer=False).param_groups[0]

    actions = {
        "_1": [algorithm.reset_optimizer, lambda: lrs.append(group()["lr"])],
        "_3": [lambda: algorithm.reset_optimizer(lr=0.125)],
    }
    fit(algorithm, 5, AtStep(**actions))
    assert [*lrs, group()["lr"]] == [1e-3, 0.125]
    state = algorithm.optimizers(use_pl_optimizer=False).state
    assert len(state) == len(algorithm.trainable())
    assert {int(of_one["step"]) for of_one in state.values()} == {1}


def test_hand_made_gradients_are_applied_once_and_cleared():
    class Ones(Manual):
        def training_step(self, batch, batch_idx):
            self.apply_gradients([torch.ones_like(p) if p.ndim == 2 else None for p in self.trainable()])

    algorithm = build(Ones, optim=Optim(optimizer="sgd", lr=0.5))
    before = [p.detach().clone() for p in algorithm.trainable()]
    fit(algorithm, 1)
    for parameter, old in zip(algorithm.trainable(), before, strict=True):
        assert_equal(parameter.detach(), old - 0.5 if old.ndim == 2 else old)
        assert parameter.grad is None


def test_hand_made_gradients_are_one_per_parameter():
    class TooFew(Manual):
        def training_step(self, batch, batch_idx):
            self.apply_gradients([None])

    with pytest.raises(ValueError, match=r"shorter"):
        fit(build(TooFew), 1)


@both
def test_a_run_continues_bit_by_bit_from_what_was_written(cls):
    def kept(algorithm):
        return {"_2": [algorithm.keep_best], "_5": [algorithm.restore_best]}

    whole, first, second = seeded(cls), seeded(cls), seeded(cls, weights=1)
    fit(whole, 8, AtStep(**kept(whole)))
    fit(first, 3, AtStep(**kept(first)))
    file = io.BytesIO()
    torch.save(first.training_state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second.load_state_dict(state["model"])
    fit(second, 8, AtStart(lambda: second.load_optimizers(state)), AtStep(**kept(second)))
    assert_equal(snapshot(second), snapshot(whole))
    assert first.seen + second.seen == whole.seen
    assert_equal(second.training_state()["best"], whole.training_state()["best"])
