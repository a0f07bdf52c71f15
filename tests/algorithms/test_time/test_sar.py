import math
import sys
from typing import Any

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.algorithm import build_algorithm
from dgbench.network import build_network
from dgbench.registry import adapters
from dgbench.task import Task
from tests.algorithms.test_time.norm_reference import AFFINE, answer, entropies, parameters, run, stream, trained

HP = {"lr": 0.05, "rho": 0.3, "entropy_threshold": 0.7, "recovery_threshold": 0.0}


def reference(algorithm, batches, *, lr, rho, entropy_threshold, recovery_threshold, frozen=AFFINE[2:]):
    """Niu et al. 2023 by the specification: answers, weights, mean loss, the examples of both passes, recoveries."""
    start = parameters(algorithm)
    w = [p.clone() for p in start]
    moved = [i for i in AFFINE if i not in frozen]
    v, e, recoveries = dict.fromkeys(moved, 0.0), None, 0
    limit, answers, counts = entropy_threshold * math.log(4), [], []

    def gradients(weights, x, keep):
        free = [weights[i].clone().requires_grad_() for i in moved]
        used = list(weights)
        for i, p in zip(moved, free, strict=True):
            used[i] = p
        h = entropies(answer(used, x))
        chosen = [b for b in keep if h[b] < limit]
        if not chosen:
            return h, chosen, None, None
        loss = sum(h[b] for b in chosen) / len(chosen)
        return h, chosen, float(loss.detach()), dict(zip(moved, torch.autograd.grad(loss, free), strict=True))

    for x in batches:
        answers.append(answer(w, x))
        _, first, _, g = gradients(w, x, range(len(x)))
        second = []
        if first:
            norm = math.sqrt(sum(float((g[i] ** 2).sum()) for i in moved))
            nearby = [p + rho * g[i] / norm if i in moved else p for i, p in enumerate(w)]
            _, second, loss, g = gradients(nearby, x, first)
        counts.append((len(first), len(second)))
        if second:
            for i in moved:
                v[i] = 0.9 * v[i] + g[i]
                w[i] = w[i] - lr * v[i]
            e = loss if e is None else 0.9 * e + 0.1 * loss
            if e < recovery_threshold:
                w, v, e = [p.clone() for p in start], dict.fromkeys(moved, 0.0), None
                recoveries += 1
    return answers, w, e, counts, recoveries


@pytest.mark.parametrize(("recovery", "frozen"), [(0.0, 0), (0.0, 1), (0.639, 0), (0.5625, 1)])
def test_answers_and_weights_are_the_papers(recovery, frozen):
    algorithm, hp = trained(), {**HP, "recovery_threshold": recovery}
    adapter, answers = run("sar", algorithm, stream(), hparams={**hp, "num_frozen_stages": frozen})
    expected, weights, e, counts, recoveries = reference(algorithm, stream(), **hp, frozen=AFFINE[2:] if frozen else ())
    assert any(second < first for first, second in counts)
    assert 0 < recoveries < 6 or not recovery
    torch.testing.assert_close(answers, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parameters(adapter), weights, rtol=1e-8, atol=1e-8)
    assert (adapter.mean_loss is None and e is None) or math.isclose(adapter.mean_loss, e, rel_tol=1e-8)


@pytest.mark.parametrize("other", [{"rho": 0.0}, {"entropy_threshold": 1.0}, {"num_frozen_stages": 0}])
def test_each_part_has_its_effect(other):
    one, two = (
        run("sar", trained(), stream(), hparams={**HP, **change})[1][-1] for change in (dict[str, Any](), other)
    )
    assert (one - two).abs().max() > 1e-4


def test_without_a_radius_it_descends_the_entropy_of_the_reliable():
    algorithm = trained()
    answers = run("sar", algorithm, stream(), hparams={**HP, "rho": 0.0})[1]
    expected, *_, counts, _ = reference(algorithm, stream(), **{**HP, "rho": 0.0})
    assert all(first == second for first, second in counts)
    torch.testing.assert_close(answers, expected, rtol=1e-8, atol=1e-8)


def test_the_perturbation_has_length_rho_and_leaves_no_trace(monkeypatch):
    adapter = build_adapter("sar", trained(), hparams={**HP, "lr": 0.0})
    before, seen = parameters(adapter), []
    logits = adapter.logits

    def spied(self, x):
        seen.append(parameters(self))
        return logits(x)

    monkeypatch.setattr(type(adapter), "logits", spied)
    adapter.step(stream()[0])
    here, nearby = seen
    length = sum(float(((a - b) ** 2).sum()) for a, b in zip(here, nearby, strict=True)) ** 0.5
    assert math.isclose(length, 0.3, rel_tol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(adapter), strict=True))


@pytest.mark.parametrize("change", [{"entropy_threshold": 0.0}, {"lr": 0.0}])
def test_with_nothing_reliable_or_no_rate_it_is_bn_adapt_bit_for_bit(change):
    algorithm = trained()
    adapter, answers = run("sar", algorithm, stream(), hparams={**HP, **change})
    expected = run("bn_adapt", algorithm, stream())[1]
    assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(algorithm), strict=True))


@pytest.mark.parametrize("reliable_at_first", [False, True])
def test_a_batch_without_reliable_examples_moves_nothing_in_spite_of_momentum(reliable_at_first):
    adapter, _ = run("sar", trained(), stream(), hparams=HP)
    assert any(state["momentum_buffer"].abs().max() > 0 for state in adapter.optimizer.state.values())
    before, e, x = parameters(adapter), adapter.mean_loss.clone(), stream()[0]
    # Of the most certain example alone, the perturbation raises the entropy, and beyond this.
    adapter.threshold = float(entropies(answer(before, x)).min()) + 1e-6 if reliable_at_first else 0.0
    adapter.step(x)
    assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), before, strict=True))
    assert torch.equal(adapter.mean_loss, e)


def test_a_mean_loss_that_is_always_too_low_recovers_the_source_after_each_batch():
    algorithm = trained()
    adapter = build_adapter("sar", algorithm, hparams={**HP, "recovery_threshold": 9.0})
    for k, x in enumerate(stream(), 1):
        adapter.step(x)
        assert all(torch.equal(a, b) for a, b in zip(parameters(adapter), parameters(algorithm), strict=True))
        assert (adapter.mean_loss, len(adapter.optimizer.state), adapter.steps) == (None, 0, k)


@pytest.mark.parametrize(("frozen", "moved"), [(1, AFFINE[:2]), (0, AFFINE)])
def test_only_weights_of_norms_before_the_last_stage_move(frozen, moved):
    algorithm = trained()
    adapter = run("sar", algorithm, stream(), hparams={**HP, "num_frozen_stages": frozen})[0]
    pairs = zip(parameters(adapter), parameters(algorithm), strict=True)
    assert tuple(i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)) == moved


@pytest.mark.parametrize(
    ("name", "shape", "first", "last"),
    [
        ("timm:resnet18", (3, 32, 32), "bn1", "layer3.1.bn2"),
        ("small_resnet", (3, 16, 16), "stem.1", "layer2.0.shortcut.1"),
    ],
)
def test_a_stem_is_adapted_and_the_last_stage_is_not(name, shape, first, last):
    network = build_network(name, shape, 4)
    algorithm = build_algorithm("erm", task=Task("classification", 4), network=network, num_domains=2)
    names = build_adapter("sar", algorithm.eval()).adapted_parameters()
    assert names[0].endswith(f"{first}.weight")
    assert names[-1].endswith(f"{last}.bias")


def test_the_final_norm_of_a_transformer_lies_behind_its_last_stage():
    network = build_network("timm:vit_tiny_patch16_224", (3, 224, 224), 4)
    late = {id(p) for p in sys.modules[adapters["sar"].__module__].late_parameters(network, 1)}
    names = {
        name.removeprefix("body.model.").rpartition(".")[0] for name, p in network.named_parameters() if id(p) in late
    }
    assert {name for name in names if "norm" in name} == {"blocks.11.norm1", "blocks.11.norm2", "norm"}
    assert all(name.startswith(("blocks.11.", "norm")) for name in names)


def test_of_several_networks_that_which_predictions_read_keeps_its_last_stage():
    algorithm = build_algorithm(
        "erm_plus_plus",
        task=Task("classification", 4),
        network=build_network("mlp", (5,), 4, depth=2, norm="batch"),
        num_domains=2,
    )
    names = build_adapter("sar", algorithm.eval()).adapted_parameters()
    assert names == ["average.body.layer1.1.weight", "average.body.layer1.1.bias"]


def test_where_only_the_last_stages_normalise_they_are_adapted():
    names = build_adapter("sar", trained(), hparams={"num_frozen_stages": 2}).adapted_parameters()
    assert names == [f"network.body.{layer}.1.{p}" for layer in ("layer1", "layer2") for p in ("weight", "bias")]


def test_values_out_of_range_are_refused():
    for name in ("rho", "num_frozen_stages"):
        with pytest.raises(ValueError, match=f"adapter.{name}=-1, expected 0 or more."):
            adapters["sar"].HParams(**{name: -1})
