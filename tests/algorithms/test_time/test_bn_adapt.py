import pytest
import torch

from dgbench.adapter import build_adapter
from tests.algorithms.test_time.small_model import logits, same, statistics_of, stream, trained, weights_of


@pytest.mark.parametrize("prior", [0.0, 8.0, 16.0])
@pytest.mark.parametrize("N", [1, 2, 8])
def test_normalises_by_both_statistics(prior, N):
    """Schneider et al. 2020: pi = N / (N + n), mean = pi source + (1 - pi) batch, and the variance likewise."""
    model = trained()
    adapter = build_adapter("bn_adapt", model, hparams={"prior": prior})
    for x in stream(N=N):
        share = prior / (prior + len(x))
        expected = logits(weights_of(model), x, statistics_of(model), share)
        same(adapter.step(x), expected)
        same(adapter.predict(x), expected)
        assert (expected - logits(weights_of(model), x, statistics_of(model), 1.0)).abs().max() > 1e-2


def test_a_prior_of_16_leaves_one_example_a_share_of_one_seventeenth():
    from dgbench.algorithms.test_time.bn_adapt import source_share

    assert [round(source_share(16, n), 4) for n in (1, 16, 48)] == [0.9412, 0.5, 0.25]
    assert source_share(0, 1) == 0


def test_with_regression():
    model = trained(kind="regression")
    adapter, x = build_adapter("bn_adapt", model), stream(1)[0]
    inner = logits(weights_of(model), x, statistics_of(model), 0.0)
    same(adapter.step(x), inner * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5)


def test_a_great_prior_is_the_source():
    model = trained()
    adapter, x = build_adapter("bn_adapt", model, hparams={"prior": 1e12}), stream(1)[0]
    same(adapter.step(x), model(x))


def test_maps_are_normalised_over_examples_and_places():
    """By hand: the statistics of maps (N, C, H, W) are those of N * H * W rows."""
    model = trained(name="small_cnn", width=4, depth=1, shape=(3, 8, 8))
    x = 1 + 2 * torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    norm = model.network.body.get_submodule("conv1.1")
    maps = []
    handle = norm.register_forward_hook(lambda _module, inputs, _output: maps.append(inputs[0]))
    model(x)
    handle.remove()
    rows = maps[0].transpose(0, 1).flatten(1)  # (C, N * H * W)
    mean, var = rows.mean(1).view(-1, 1, 1), rows.var(1, correction=0).view(-1, 1, 1)
    expected = (maps[0] - mean) / (var + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    adapter, got = build_adapter("bn_adapt", model), []
    adapter.algorithm.network.body.get_submodule("conv1.1").register_forward_hook(lambda *args: got.append(args[-1]))
    adapter.step(x)
    same(got[0], expected)


def test_statistics_of_training_stay():
    model = trained()
    adapter = build_adapter("bn_adapt", model, hparams={"prior": 8.0})
    for x in stream():
        adapter.step(x)
    norm = adapter.algorithm.network.body.get_submodule("layer1.1")
    assert torch.equal(norm.state_dict()["running_mean"], statistics_of(model)[0])
    assert torch.equal(norm.state_dict()["running_var"], statistics_of(model)[1])
    assert adapter.adapted_parameters() == []


def test_answers_follow_a_permutation_of_the_batch():
    adapter, x = build_adapter("bn_adapt", trained()), stream(1)[0]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    same(adapter.step(x[order]), adapter.step(x)[order])


def test_constant_inputs_have_finite_answers():
    adapter = build_adapter("bn_adapt", trained())
    assert adapter.step(torch.full((6, 5), 0.5).double()).isfinite().all()


def test_needs_batch_norm():
    with pytest.raises(
        ValueError, match=r"BNAdapt needs a network with batch normalisation, but mlp has layer; train "
    ):
        build_adapter("bn_adapt", trained(norm="layer"))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"adapter\.prior=-1, expected a number of examples, 0 or more"):
        build_adapter("bn_adapt", trained(), hparams={"prior": -1.0})
