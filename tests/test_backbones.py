import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.backbones import INITS, BasicBlock
from dgbench.network import build_network
from dgbench.normalisation import NORMS, InstanceAwareBatchNorm2d


def built(name, input_shape=(3, 16, 16), **options):
    torch.manual_seed(0)
    return build_network(name, input_shape, 3, **options).eval()


@pytest.mark.parametrize(
    ("name", "input_shape", "options", "expected"),
    [
        ("mlp", (7,), {}, 7 * 128 + 128),
        ("mlp", (7,), {"depth": 2, "width": 10}, 80 + 110),
        ("mlp", (7,), {"depth": 0}, 0),
        ("small_cnn", (3, 16, 16), {}, (27 * 16 + 16) + (144 * 32 + 32) + (288 * 64 + 64)),
        (
            "mnist_cnn",
            (2, 14, 14),
            {},
            (18 * 64 + 64) + (576 * 128 + 128) + 2 * (1152 * 128 + 128) + 2 * (64 + 3 * 128),
        ),
    ],
)
def test_parameter_counts(name, input_shape, options, expected):
    assert sum(p.numel() for p in built(name, input_shape, **options).body.parameters()) == expected


def test_depth_0_is_linear():
    net, x = built("mlp", (7,), depth=0), torch.rand(4, 7)
    assert net.stages == ()
    assert torch.equal(net.features(x), x)


def test_mnist_cnn_is_domainbeds():
    net = built("mnist_cnn", (2, 14, 14)).double()
    x = torch.rand(4, 2, 14, 14, dtype=torch.float64)
    z = x
    for i, stride in enumerate((1, 2, 1, 1), 1):
        conv, _, norm = net.body.get_submodule(f"conv{i}")
        z = F.relu(F.conv2d(z, conv.weight, conv.bias, stride=stride, padding=1))
        z = F.group_norm(z, 8, norm.weight, norm.bias)
    torch.testing.assert_close(net.features(x), z.mean((2, 3)))


@pytest.mark.parametrize(("size", "stride"), [(63, 1), (64, 2)])
def test_small_resnet(size, stride):
    net, z = built("small_resnet", (3, size, size), depth=2), torch.rand(2, 3, size, size)
    shapes = []
    for stage in net.stages:
        z = net.body.stage(stage)(z)
        shapes.append(z.shape[1:])
    half = math.ceil(size / stride)
    assert shapes[:2] == [(16, half, half)] * 2
    assert [s[0] for s in shapes] == [16, 16, 32, 64]
    assert shapes[3][1] == math.ceil(half / 4)
    assert sum(isinstance(m, BasicBlock) for m in net.modules()) == 6


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "small_resnet"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("init", "activation"), list(zip(INITS, ["gelu", "elu", "tanh", "leaky_relu"], strict=True)))
def test_options(name, norm, init, activation):
    # The other norms of maps are those of vectors too; this one the mlp refuses.
    norm = "none" if (name, norm) == ("mlp", "instance_aware") else norm
    net = built(name, width=12, depth=2, norm=norm, init=init, activation=activation)
    assert net(torch.rand(2, *net.input_shape)).isfinite().all()
    assert net.recipe["norm"] == norm
    kinds = {nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, InstanceAwareBatchNorm2d}
    assert any(type(m) in kinds for m in net.modules()) == (norm != "none")
    if norm == "group":
        assert {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)} <= {6, 8}
    if init != "default":
        assert not net.head.bias.any()
        assert not net.new_head(5).bias.any()


def test_orthogonal_and_kaiming_scales():
    weight = built("mlp", (64,), width=64, init="orthogonal").body.layer1[0].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    weight = built("mlp", (200,), width=500, init="kaiming").body.layer1[0].weight
    assert float(weight.detach().std()) == pytest.approx((2 / 200) ** 0.5, rel=0.02)
