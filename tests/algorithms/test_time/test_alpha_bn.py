import pytest
import torch

from dgbench.adapter import build_adapter
from dgbench.hparams import draw
from dgbench.registry import adapters
from tests.algorithms.test_time.small_model import logits, same, statistics_of, stream, trained, weights_of


def adapted(model, alpha):
    return build_adapter("alpha_bn", model, hparams={"alpha": alpha})


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_normalises_by_both_statistics(alpha, kind):
    """You et al. 2021: mean = alpha source + (1 - alpha) batch, variance likewise, for a batch of any size."""
    model = trained(kind=kind)
    adapter = adapted(model, alpha)
    scale, shift = (torch.tensor([1.0, 2.0, 3.0, 4.0]), 5) if kind == "regression" else (1, 0)
    for x in [*stream(2, N=8), *stream(2, N=1)]:
        expected = logits(weights_of(model), x, statistics_of(model), alpha) * scale + shift
        same(adapter.step(x), expected)
        same(adapter.predict(x), expected)
        other = logits(weights_of(model), x, statistics_of(model), 1 - alpha) * scale + shift
        assert ((expected - other).abs().max() > 1e-2) == (alpha != 0.5)


def test_alpha_1_is_the_source_bit_for_bit():
    model = trained()
    adapter, x = adapted(model, 1.0), stream(1)[0]
    assert torch.equal(adapter.step(x), build_adapter("source", model).step(x))
    assert torch.equal(adapter.step(x)[:3], adapter.step(x[:3]))


def test_alpha_0_is_bn_adapt_bit_for_bit():
    model = trained()
    adapter, bn_adapt = adapted(model, 0.0), build_adapter("bn_adapt", model)
    for x in stream():
        assert torch.equal(adapter.step(x), bn_adapt.step(x))


def test_statistics_go_from_the_batch_to_the_source_in_a_straight_line():
    model, x = trained(), stream(1)[0]
    seen = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 0.999999):
        adapter = adapted(model, alpha)
        layer = adapter.algorithm.network.body.get_submodule("layer1.1")
        layer.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
        adapter.step(x)
    # Of two rows, (h1 - h2) / (y1 - y2) = sqrt(var + eps) / gamma: the square is linear in alpha.
    gamma = weights_of(model)[2]
    var = torch.stack([((h[0] - h[1]) / (y[0] - y[1]) * gamma) ** 2 for h, y in seen])
    same(var.diff(dim=0)[0], var.diff(dim=0)[1])
    same(var.diff(dim=0)[0], var.diff(dim=0)[2])
    torch.testing.assert_close(var[-1], statistics_of(model)[1] + 1e-5, rtol=1e-4, atol=1e-4)


def test_statistics_of_training_stay():
    model = trained()
    adapter = adapted(model, 0.3)
    for x in stream():
        adapter.step(x)
    norm = adapter.algorithm.network.body.get_submodule("layer1.1")
    now = norm.running_mean, norm.running_var
    assert all(torch.equal(a, b) for a, b in zip(now, statistics_of(model), strict=True))
    assert adapter.adapted_parameters() == []


def test_answers_follow_a_permutation_of_the_batch():
    adapter, x = adapted(trained(), 0.5), stream(1)[0]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    same(adapter.step(x[order]), adapter.step(x)[order])


def test_needs_batch_norm():
    with pytest.raises(ValueError, match=r"AlphaBN needs a network with batch normalisation, but mlp has layer"):
        build_adapter("alpha_bn", trained(norm="layer"))


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_bad_values_are_refused(alpha):
    with pytest.raises(ValueError, match=rf"adapter\.alpha={alpha}, expected the source's share, from 0 to 1"):
        adapted(trained(), alpha)


def test_default_and_draws():
    HParams = adapters["alpha_bn"].HParams
    assert HParams().alpha == 0.9
    drawn = [draw(HParams, seed).alpha for seed in range(1, 20)]
    assert 0 < min(drawn) < 0.3
    assert 0.7 < max(drawn) < 1
