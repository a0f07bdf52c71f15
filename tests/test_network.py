import copy
import functools
import json

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("name", ["mlp", "timm:test_resnet"])
def test_compile(name, monkeypatch):
    # The machine's compiler is torch's own matter; what counts here is what is compiled.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
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


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mnist_cnn", {"width": 8}, r"network.width=8, but mnist_cnn takes only init, normalise. Leave width out"),
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


def test_recipe_is_resolved_without_building():
    assert network_recipe("mlp", depth=None, dropout=0.2) == built("mlp", dropout=0.2).recipe
