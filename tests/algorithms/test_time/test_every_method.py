"""Every adapter on a model of every method: it answers, or refuses in a sentence of its own."""

import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.adapter_contract import _source
from dgbench.algorithm import build_algorithm
from dgbench.network import build_network
from dgbench.registry import adapters, algorithms
from dgbench.task import Task
from dgbench.workbench import INPUT_SHAPE, Workbench, inputs

CLASSIFIERS = [name for name in algorithms.names() if "classification" in algorithms[name].needs.tasks]
# Few copies, few images from one update to the next, and thresholds that something passes.
FAST = {
    "cotta": {"num_augmentations": 2, "threshold": 1.0},
    "memo": {"num_augmentations": 2},
    "drm_select": {"beta": 0.1},
    "note": {"memory_size": 4, "update_every": 4},
    "rotta": {"memory_size": 4, "update_every": 4},
    "pseudo_label": {"threshold": 0.3},
    "eata": {"entropy_threshold": 1.0, "redundancy_threshold": 1.0},
    "sar": {"entropy_threshold": 1.0, "num_frozen_stages": 0},
    "adanpc": {"adapts_norm": True},
}
# The only pairs that do not go together on a network with batch norm.
REFUSALS = {
    "note": (CLASSIFIERS, "NOTE needs a network with instance_aware normalisation"),
    "drm_select": ([name for name in CLASSIFIERS if name != "drm"], "DRMSelect adapts models trained by drm, got"),
    "t3a": (["drm", "knn_loss"], "T3A needs predictions that are one linear layer of the features"),
}
NEEDS_FEATURES = ("adanpc", "lame", "shot_im", "t3a")


def model_of(method, folder, norm="batch"):
    bench = Workbench(algorithms[method], folder)
    model = bench.build("classification", norm=norm)
    bench.train(model, range(3))
    return model.eval()


def answers(name, model):
    adapter = build_adapter(name, model, hparams=FAST.get(name), source=_source(model))
    read = {p for p, _ in adapter.algorithm.named_parameters()}
    assert set(adapter.adapted_parameters()) <= read
    for x in inputs(16).split(8):
        rows = adapter.step(x)
        assert rows.shape == (8, 3)
        assert rows.isfinite().all()
    return rows


def refusal(name, method):
    if name in NEEDS_FEATURES and not algorithms[method].composite:
        return "needs predictions that are made from features, which those of"
    methods, text = REFUSALS.get(name, ((), ""))
    return text if method in methods else None


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_each_adapter_answers_or_refuses_in_a_sentence(method, tmp_path):
    model = model_of(method, tmp_path)
    for name in adapters.names():
        text = refusal(name, method)
        if text is None:
            answers(name, model)
        else:
            with pytest.raises(ValueError, match=text):
                build_adapter(name, model, source=_source(model))


@pytest.mark.parametrize("method", ["erm", "arm"])
def test_a_model_says_what_shape_its_examples_have(method, tmp_path):
    """The network of ARM sees one channel more."""
    assert model_of(method, tmp_path).input_shape == INPUT_SHAPE


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_note_answers_where_the_norm_is_instance_aware(method, tmp_path):
    model = model_of(method, tmp_path, "instance_aware")
    assert not torch.equal(answers("note", model), answers("source", model))


@pytest.mark.parametrize(
    ("method", "prefix"), [("erm_plus_plus", "average."), ("adrmx", ""), ("miro", ""), ("self_reg", "")]
)
def test_only_what_predictions_read_counts_as_adapted(method, prefix, tmp_path):
    """These hold networks or heads with norms that only training reads."""
    model = model_of(method, tmp_path)
    layers = [f"{prefix or 'network.'}body.conv{i}.1" for i in (1, 2)]
    for name in ("tent", "eata", "sar", "rotta"):
        expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        adapter = build_adapter(name, model, hparams=FAST.get(name), source=_source(model))
        assert set(adapter.adapted_parameters()) == expected
    everything = build_adapter("pseudo_label", model).adapted_parameters()
    assert 4 < len(everything) < len(list(model.parameters()))
    for name in ("cotta", "memo"):
        assert build_adapter(name, model).adapted_parameters() == everything


def test_norms_that_only_training_reads_are_none_to_adapt(tmp_path):
    """SelfReg's projections have batch norms, which its network has not."""
    model = model_of("self_reg", tmp_path, "none")
    for name in ("tent", "eata", "sar", "rotta"):
        with pytest.raises(ValueError, match=r"predictions of SelfReg on network=small_cnn read no weights of normal"):
            build_adapter(name, model, source=_source(model))


@pytest.mark.parametrize("name", ["tent", "rotta", "eata", "sar", "bn_adapt"])
def test_norms_of_timm_with_an_activation_of_their_own_are_adapted(name):
    network = build_network("timm:test_efficientnet", (3, 32, 32), 3)
    model = build_algorithm("erm", task=Task("classification", 3), network=network, num_domains=2).eval()
    adapter = build_adapter(name, model, hparams=FAST.get(name), source=_source(model))
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first = adapter.step(x)
    if name == "rotta":
        torch.testing.assert_close(first, model(x), rtol=1e-4, atol=1e-5)  # before its first update, activations too
    assert (adapter.predict(x) - model(x)).abs().max() > 1e-4
    assert (len(adapter.adapted_parameters()) > 20) == (name != "bn_adapt")
