import hashlib
import os

import pytest
import torch

import dgbench
from dgbench.network import build_network, network_recipe
from dgbench.weights import read_weights, weights_hash, weights_identity


def built(name, input_shape=(7,), **options):
    torch.manual_seed(0)
    return build_network(name, input_shape, 3, **options)


def test_hash():
    assert weights_hash(built("mlp")) == weights_hash(built("mlp"))
    assert weights_hash(built("mlp")) != weights_hash(built("mlp").rebuild())
    assert len(weights_hash(built("mlp"))) == 16


def test_identity(tmp_path):
    assert weights_identity(None) is None
    assert weights_identity("a1_in1k") == "a1_in1k"
    (tmp_path / "a.pt").write_bytes(b"abc")
    assert str(weights_identity(tmp_path / "a.pt")).startswith("sha256:ba7816bf8f01cfea")


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, hashed, digest = tmp_path / "a.pt", [], hashlib.file_digest

    def counted(file, name):
        hashed.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    path.write_bytes(b"abc")
    first = [network_recipe("mlp", weights=path)["weights"] for _ in range(3)]
    assert (len(set(first)), len(hashed)) == (1, 1)
    path.write_bytes(b"abd")
    os.utime(path, ns=(0, 1))
    assert network_recipe("mlp", weights=path)["weights"] not in first
    assert len(hashed) == 2


@pytest.mark.parametrize("state", [{"a": torch.ones(2)}, {"epoch": 3, "model": {"a": torch.ones(2)}}])
def test_read(state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt")["a"].tolist() == [1, 1]


def test_unfit_weights(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        built("mlp", weights=path)
    torch.save({"layer.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is not a state_dict of a dgbench network"):
        built("mlp", weights=path)
    with pytest.raises(ValueError, match=r"network.weights does not fit timm:test_resnet .*Missing key"):
        built("timm:test_resnet", (3, 32, 32), weights=path)
    torch.save(built("mlp", width=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not fit network=mlp .*size mismatch.*Use the options"):
        built("mlp", weights=path)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_a_loaded_run_rebuilds_without_the_weights_it_began_with(name, tmp_path):
    net, path = build_network(name, (2, 8, 8), 3), tmp_path / "net.pt"
    net.normalise.fit(torch.rand(9, 2, 8, 8))
    torch.save(net.state_dict(), path)
    few = {"protocol": {"num_steps": 1, "evaluate_every": 1}, "optim.batch_size": 2}
    outcome = dgbench.train(
        dataset="digits_color", network={"name": name, "weights": str(path)}, test_domains=[0], **few
    )
    loaded = dgbench.load(outcome.folder).network
    path.unlink()
    made = loaded.rebuild(num_outputs=5)
    assert (loaded.recipe["normalise"], made.recipe["normalise"]) == ("weights", "data")
    assert (made.recipe["weights"], made.num_outputs) == (None, 5)
    assert torch.equal(made.normalise.mean, net.normalise.mean)
    assert torch.equal(made.normalise.std, net.normalise.std)
