import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dgbench.network import build_network, weights_hash


def built(name, input_shape=(3, 32, 32), **options):
    torch.manual_seed(0)
    return build_network(name, input_shape, 3, **options).eval()


def test_timm_is_imported_on_demand():
    code = "import sys, dgbench.network as n; n.build_network('mlp', (7,), 3); sys.exit('timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
    net = built("timm:resnet10t", weights="c3_in1k")
    assert calls == [("resnet10t.c3_in1k", True)]
    assert net.pretrained
    assert net.recipe["weights"] == "c3_in1k"
    assert net.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_timm_tag_that_cannot_be_had(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", fail)
    text = r"'c3_in1k' of the timm model 'resnet10t' could not be .*\(OSError: no route\).*network.weights=<loc"
    with pytest.raises(ValueError, match=text):
        built("timm:resnet10t", weights="c3_in1k")


def test_features_must_be_vectors(monkeypatch):
    class Maps(nn.Identity):
        pretrained_cfg: Any = None

    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Maps())
    with pytest.raises(ValueError, match=r"returns features of shape \('N', 3, 32, 32\), expected \(N, F\)"):
        built("timm:test_resnet")
