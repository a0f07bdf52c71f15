import copy
import functools
import json
import math
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from dgbench import backbones, network
from dgbench.backbones import InstanceAwareBatchNorm2d
from dgbench.network import NETWORKS, build_network, network_recipe, weights_hash, weights_identity
from dgbench.registry import UnknownName

NETS = {
    "mlp": ((7,), 128, 1),
    "small_cnn": ((3, 16, 16), 64, 3),
    "mnist_cnn": ((2, 14, 14), 128, 4),
    "small_resnet": ((3, 16, 16), 64, 4),
    "timm:test_resnet": ((3, 32, 32), 96, 5),
    "timm:test_vit": ((3, 32, 32), 64, 6),
    "timm:mobilenetv3_small_050": ((1, 32, 32), 1024, 5),
}


def noted(log, value, result):
    log.append(value)
    return result


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def built(name, **options):
    torch.manual_seed(0)
    return build_network(name, options.pop("input_shape", None) or NETS[name][0], 3, **options).eval()


def test_every_built_in_net_is_covered():
    assert {name for name in NETS if not name.startswith("timm:")} == set(NETWORKS)


@pytest.mark.parametrize("name", NETS)
def test_shapes_stages_hooks(name):
    shape, feature_dim, num_stages = NETS[name]
    net, x = built(name), torch.rand(4, *NETS[name][0])
    features = net.features(x)
    assert features.shape == (4, net.feature_dim) == (4, feature_dim)
    assert net(x).shape == (4, 3) == (4, net.num_outputs)
    assert torch.equal(net(x), net.head(features))
    assert net.input_shape == shape
    assert len(net.stages) == num_stages
    assert json.loads(json.dumps(net.recipe)) == net.recipe
    assert not net.pretrained
    seen: list[str] = []
    hooks = {stage: lambda z, stage=stage: noted(seen, stage, z) for stage in ("normalise", *net.stages)}
    assert torch.equal(net.features(x, hooks), features)
    assert tuple(seen) == ("normalise", *net.stages)
    for stage in hooks:
        assert not torch.equal(net.features(x, {stage: lambda z: z.flip(0) + 1}), features)
    assert torch.equal(net.features(x), features)
    assert torch.equal(copy.deepcopy(net)(x), net(x))


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient(name):
    net = built(name).train()
    net(torch.rand(4, *net.input_shape)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_parameter_counts():
    assert num_parameters(built("mlp")) == 7 * 128 + 128 + 128 * 3 + 3
    assert num_parameters(built("mlp", depth=2, width=10)) == 80 + 110 + 33
    assert num_parameters(built("mlp", depth=0)) == 7 * 3 + 3
    convs = (27 * 16 + 16) + (144 * 32 + 32) + (288 * 64 + 64)
    assert num_parameters(built("small_cnn")) == convs + 65 * 3
    mnist = (18 * 64 + 64) + (576 * 128 + 128) + 2 * (1152 * 128 + 128) + 2 * (64 + 3 * 128)
    assert num_parameters(built("mnist_cnn")) == mnist + 129 * 3


def test_depth_0_is_linear():
    net, x = built("mlp", depth=0), torch.rand(4, 7)
    assert net.stages == ()
    assert torch.equal(net.features(x), x)


def test_mnist_cnn_is_domainbeds():
    net = built("mnist_cnn").double()
    x = torch.rand(4, 2, 14, 14, dtype=torch.float64)
    z = x
    for i, stride in enumerate((1, 2, 1, 1), 1):
        conv, _, norm = net.body.get_submodule(f"conv{i}")
        z = F.relu(F.conv2d(z, conv.weight, conv.bias, stride=stride, padding=1))
        z = F.group_norm(z, 8, norm.weight, norm.bias)
    torch.testing.assert_close(net.features(x), z.mean((2, 3)))


@pytest.mark.parametrize(("size", "stride"), [(63, 1), (64, 2)])
def test_small_resnet(size, stride):
    net, x = built("small_resnet", input_shape=(3, size, size), depth=2), torch.rand(2, 3, size, size)
    shapes: list[torch.Size] = []
    net.features(x, {stage: lambda z: noted(shapes, z.shape[1:], z) for stage in net.stages})
    half = math.ceil(size / stride)
    assert shapes[:2] == [(16, half, half)] * 2
    assert [s[0] for s in shapes] == [16, 16, 32, 64]
    assert shapes[3][1] == math.ceil(half / 4)
    assert sum(isinstance(m, backbones.BasicBlock) for m in net.modules()) == 6


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "small_resnet"])
@pytest.mark.parametrize("norm", network.NORMS)
@pytest.mark.parametrize(
    ("init", "activation"), list(zip(network.INITS, ["gelu", "elu", "tanh", "leaky_relu"], strict=True))
)
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
    weight = built("mlp", width=64, init="orthogonal", input_shape=(64,)).body.layer1[0].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    weight = built("mlp", width=500, init="kaiming", input_shape=(200,)).body.layer1[0].weight
    assert float(weight.detach().std()) == pytest.approx((2 / 200) ** 0.5, rel=0.02)


def iabn(k):
    torch.manual_seed(0)
    norm, plain = InstanceAwareBatchNorm2d(5, k=k).double(), nn.BatchNorm2d(5).double()
    state = {
        "weight": torch.rand(5),
        "bias": torch.rand(5),
        "running_mean": torch.rand(5),
        "running_var": torch.rand(5),
    }
    for module in (norm, plain):
        module.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})
    return norm, plain, torch.randn(4, 5, 6, 3, dtype=torch.float64) * 2 + 1


def test_iabn_limits():
    norm, plain, x = iabn(math.inf)
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))
    norm, plain, x = iabn(0)
    var, mean = torch.var_mean(x, (2, 3), keepdim=True)
    weight, bias = plain.weight[:, None, None], plain.bias[:, None, None]
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), (x - mean) / (var + norm.eps).sqrt() * weight + bias)


def test_iabn_of_one_pixel_is_batch_norm():
    norm, plain, x = iabn(4)
    torch.testing.assert_close(norm.eval()(x[:, :, :1, :1]), plain.eval()(x[:, :, :1, :1]))


def test_iabn_trains_as_batch_norm():
    norm, plain, x = iabn(4)
    norm(x), plain(x)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    with pytest.raises(ValueError, match="needs more than one value per channel to train, got one"):
        norm(x[:1, :, :1, :1])


def test_iabn_by_hand():
    # Batch statistics 0 and 1, 4 pixels of mean 5 and unbiased variance 4: margins are 2 and 3.27.
    norm = InstanceAwareBatchNorm2d(1, k=4.0, eps=0.0).double().eval()
    x = 5 + torch.tensor([1.0, 1, -1, -1], dtype=torch.float64).mul(3**0.5).view(1, 1, 2, 2)
    expected = (x - (5 - 2)) / (1 + max(3 - 4 * (2 / 3) ** 0.5, 0)) ** 0.5
    torch.testing.assert_close(norm(x), expected)


def test_freeze_bn():
    net = built("small_resnet", freeze_bn=True)
    before = copy.deepcopy(dict(net.named_buffers()))
    assert net.train() is net
    nn.Sequential(net).train()
    net(torch.rand(4, 3, 16, 16)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(not m.training and m.weight.grad is not None for m in norms)
    assert net.dropout.training


def test_dropout_only_in_training():
    net, x = built("mlp", dropout=0.5), torch.rand(4, 7)
    assert torch.equal(net.features(x), net.features(x))
    assert not torch.equal(net.train().features(x), net.features(x))


def test_normalise():
    net, x = built("mlp"), torch.randn(50, 7) * 3 + 2
    assert torch.equal(net.normalise(x), x)
    x[:, 0] = 5
    net.normalise.fit(x)
    z = net.normalise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([0.0, *[1.0] * 6]))
    image = built("small_cnn").normalise
    image.fit(torch.rand(5, 3, 4, 4))
    assert image.mean.shape == (3, 1, 1)


def test_rebuild_keeps_recipe_and_normalisation():
    net = built("small_cnn", width=4, dropout=0.1)
    net.normalise.fit(torch.rand(5, 3, 4, 4))
    wide = net.rebuild(input_shape=(5, 16, 16), num_outputs=2)
    assert wide.recipe == net.recipe
    assert wide(torch.rand(2, 5, 16, 16)).shape == (2, 2)
    assert torch.equal(wide.normalise.mean.flatten(), torch.tensor([*net.normalise.mean.flatten(), 0.0, 0.0]))
    assert torch.equal(wide.normalise.std.flatten()[3:], torch.ones(2))
    assert net.rebuild(width=8).feature_dim == 32
    assert weights_hash(net.rebuild()) != weights_hash(net)


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "timm:test_resnet"])
def test_own_weights(name, tmp_path):
    net, path = built(name), tmp_path / "net.pt"
    net.normalise.fit(torch.rand(9, *net.input_shape))
    torch.save(net.state_dict(), path)
    loaded = build_network(name, net.input_shape, 8, weights=path).eval()
    x = torch.rand(4, *net.input_shape)
    assert loaded.pretrained
    assert torch.equal(loaded.features(x), net.features(x))
    assert loaded.head.out_features == 8
    assert loaded.recipe["weights"] == weights_identity(path)
    assert str(tmp_path) not in json.dumps(loaded.recipe)
    assert weights_hash(loaded.rebuild().body) == weights_hash(net.body)
    assert torch.equal(loaded.rebuild().eval().features(x), net.features(x))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_weights_and_channels(suffix, tmp_path):
    from safetensors.torch import save_file

    source: Any = timm.create_model("test_resnet", num_classes=10).eval()
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    net = built("timm:test_resnet", weights=path)
    x = torch.rand(2, 3, 32, 32)
    expected = source.forward_head(source.forward_features((x - 0.5) / 0.5), pre_logits=True)
    torch.testing.assert_close(net.features(x), expected)
    wide = net.rebuild(input_shape=(5, 32, 32)).eval()
    weight, wide_weight = net.body.model.conv1[0].weight, wide.body.model.conv1[0].weight
    assert torch.equal(wide_weight, weight[:, [0, 1, 2, 0, 1]])
    assert wide.normalise.mean.flatten().tolist() == [0.5, 0.5, 0.5, 0, 0]
    direct = built("timm:test_resnet", weights=path, input_shape=(5, 32, 32))
    assert weights_hash(direct.body) == weights_hash(wide.body)


def test_timm_tag(monkeypatch):
    create, calls = timm.create_model, []

    def offline(name, pretrained=False, **kwargs):
        calls.append((name, pretrained))
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    net = built("timm:resnet10t", weights="c3_in1k", input_shape=(3, 32, 32))
    assert calls == [("resnet10t.c3_in1k", True)]
    assert net.pretrained
    assert net.recipe["weights"] == "c3_in1k"
    assert net.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])

    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", fail)
    text = (
        r"'c3_in1k' of the timm model 'resnet10t' could not be .*\(OSError: no route\).*network.weights=<loc"
    )
    with pytest.raises(ValueError, match=text):
        built("timm:resnet10t", weights="c3_in1k", input_shape=(3, 32, 32))


def test_compile(monkeypatch):
    # The machine's compiler is torch's own matter; what counts here is what is compiled.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    for name in ("mlp", "timm:test_resnet"):
        plain, net = built(name), built(name, compile=True)
        x, last = torch.rand(2, *net.input_shape), net.stages[-1]
        assert list(net.state_dict()) == list(plain.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(net(x), plain(x))
            # A hook placed after the first compiled call must still be seen, and must go.
            hooks = {last: lambda z: 2 * z}
            torch.testing.assert_close(net.features(x, hooks), plain.features(x, hooks))
            torch.testing.assert_close(net(x), plain(x))


@pytest.mark.parametrize("name", ["small_resnet", "timm:test_resnet"])
def test_channels_last(name):
    plain, net = built(name), built(name, channels_last=True)
    x = torch.rand(2, *net.input_shape)
    torch.testing.assert_close(net(x), plain(x))
    assert weights_hash(net) == weights_hash(plain)
    z: list[torch.Tensor] = []
    net.features(x, {net.stages[0]: lambda y: noted(z, y, y)})
    assert z[0].is_contiguous(memory_format=torch.channels_last)


def test_weights_hash_and_identity(tmp_path):
    assert weights_hash(built("mlp")) == weights_hash(built("mlp"))
    assert len(weights_hash(built("mlp"))) == 16
    assert weights_identity(None) is None
    assert weights_identity("a1_in1k") == "a1_in1k"
    (tmp_path / "a.pt").write_bytes(b"abc")
    assert str(weights_identity(tmp_path / "a.pt")).startswith("sha256:ba7816bf8f01cfea")


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mnist_cnn", {"width": 8}, r"network.width=8, but mnist_cnn takes only init. Leave width out"),
        ("timm:test_resnet", {"norm": "batch"}, r"norm='batch', but timm:test_resnet takes no options"),
        ("mlp", {"width": 0}, "network.width=0, expected at least 1 for mlp"),
        ("mlp", {"depth": -1}, "network.depth=-1, expected at least 0"),
        ("small_cnn", {"depth": 0}, "network.depth=0, expected at least 1"),
        ("mlp", {"norm": "instance_aware"}, "mlp has none. Use batch or layer"),
        ("mlp", {"dropout": 1.0}, "network.dropout=1.0, expected a probability"),
        ("mlp", {"channels_last": True}, "but mlp flattens"),
        ("mlp", {"input_shape": (3, 8, 8), "channels_last": True}, "but mlp flattens"),
        ("small_cnn", {"input_shape": (7,)}, r"takes images \(C, H, W\), got inputs of \(7,\). Use"),
        ("mnist_cnn", {"freeze_bn": True}, "mnist_cnn as configured has no batch norm"),
        ("mlp", {"weights": "a1_in1k"}, r"expected a local file \(.safetensors, .pth, .pt\) for mlp"),
        ("mlp", {"weights": "nowhere.pt"}, "'nowhere.pt' does not exist"),
        ("timm:resnet18.a1_in1k", {"input_shape": (3, 8, 8)}, "Use network=timm:resnet18 network.weights=a1"),
        ("timm:test_vit", {"input_shape": (3, 8, 8)}, r"cannot be made for images of shape \(3, 8, 8\)"),
    ],
)  # fmt: skip
def test_refusals(name, options, text):
    with pytest.raises(ValueError, match=text):
        built(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mpl", {"input_shape": (7,)}, r"known network. Did you mean 'mlp'\? Known: mlp, .*timm:<name>"),
        ("mlp", {"activation": "rely"}, r"known activation. Did you mean 'relu'"),
        ("mlp", {"init": "x"}, "known init. Known: default, kaiming"),
        ("mlp", {"norm": "x"}, "known norm. Known: none, batch"),
        ("mlp", {"widht": 3}, r"known option of a network. Did you mean 'width'"),
        ("timm:resnet10", {"input_shape": (3, 8, 8)}, r"known timm model. Did you mean 'resnet10t'"),
        ("timm:resnet10t", {"input_shape": (3, 8, 8), "weights": "c3_in1"}, r"Did you mean 'c3_in1k'"),
    ],
)
def test_unknown_names(name, options, text):
    with pytest.raises(UnknownName, match=text):
        built(name, **options)


def test_unknown_stage():
    with pytest.raises(UnknownName, match=r"known stage of mlp. .*Known: normalise, layer1"):
        built("mlp").features(torch.rand(1, 7), {"layer2": torch.relu})


def test_unfit_weights(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        built("mlp", weights=path)
    torch.save({"layer.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not a state_dict of a dgbench network"):
        built("mlp", weights=path)
    with pytest.raises(ValueError, match=r"network.weights does not fit timm:test_resnet .*Missing key"):
        built("timm:test_resnet", weights=path)
    torch.save(built("mlp", width=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not fit network=mlp .*size mismatch.*Use the options"):
        built("mlp", weights=path)


def test_timm_features_must_be_vectors(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: _Maps())
    with pytest.raises(ValueError, match=r"returns features of shape \('N', 3, 32, 32\), expected \(N, F\)"):
        built("timm:test_resnet")


class _Maps(nn.Identity):
    pretrained_cfg: dict = {}  # noqa: RUF012


def test_recipe_is_resolved_without_building():
    assert network_recipe("mlp", depth=None, dropout=0.2) == built("mlp", dropout=0.2).recipe
