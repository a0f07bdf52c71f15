"""Images that are rotated, and coloured by the angle."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.dataset import MissingData
from dgbench.datasets._mnist import read_idx
from dgbench.registry import UnknownName, datasets

FILE = "train-images-idx3-ubyte"


def stored(folder) -> np.ndarray:
    return np.frombuffer((folder / "MNIST" / "raw" / FILE).read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.fixture
def fashion(small_mnist, to_idx):
    """Beside the 60 digits of noise, 30 garments of noise."""
    raw = small_mnist / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    garments = np.random.default_rng(1).integers(256, size=(30, 28, 28), dtype=np.uint8)
    (raw / FILE).write_bytes(to_idx(garments))
    return small_mnist


def test_the_recipe_in_order(small_mnist):
    dataset = datasets["rcf_mnist"](small_mnist, data_seed=5)
    images, rng = stored(small_mnist), np.random.default_rng(5)
    order, turns = rng.permutation(60), rng.random(60, dtype=np.float32)
    chance = rng.random(60, dtype=np.float32)
    # 40 train, 32 of them with the colour that agrees; 10 validate; 10 test, 8 of them with the opposite.
    expected = {
        "agree": ([*order[:32], *order[58:]], lambda i: turns[i]),
        "oppose": ([*order[32:40], *order[50:58]], lambda i: 1 - turns[i]),
        "random": ([*order[40:50]], lambda i: chance[i]),
    }
    assert dataset.domain_names == tuple(expected)
    for domain in dataset.domains:
        part, red = expected[domain.name]
        assert domain.inputs.dtype == torch.uint8
        assert domain.targets[:, 0].tolist() == turns[part].tolist()
        for source, image in zip(part, domain.inputs.numpy(), strict=True):
            grey = np.asarray(Image.fromarray(images[source]).rotate(360 * turns[source])).astype(int)
            shares = (red(source), 0, 1 - red(source))
            for channel, share in zip(image.astype(int), shares, strict=True):
                assert (channel[grey <= 5] == grey[grey <= 5]).all()
                assert np.abs(channel - share * grey)[grey > 5].max() <= 0.501


def test_two_colour_rules_train_and_test_and_a_third_validates(small_mnist):
    dataset = datasets["rcf_mnist"](small_mnist)
    assert dataset.designated == (("agree", "oppose"), ("agree", "oppose"))
    assert {split: {d: i.tolist() for d, i in parts.items()} for split, parts in dataset.splits.items()} == {
        "in": {"agree": [*range(32)], "oppose": [*range(8)], "random": [*range(10)]},
        "test": {"agree": [32, 33], "oppose": [*range(8, 16)]},
    }
    assert (dataset.task.kind, dataset.task.num_outputs, dataset.input_shape) == ("regression", 1, (3, 28, 28))


def test_garments_come_before_digits(fashion):
    sizes = {
        images: sum(map(len, datasets["rcf_mnist"](fashion, images=images).domains)) for images in ("auto", "mnist")
    }
    assert sizes == {"auto": 30, "mnist": 60}
    auto, garments = datasets["rcf_mnist"](fashion), datasets["rcf_mnist"](fashion, images="fashion_mnist")
    assert auto.fingerprint() == garments.fingerprint() != datasets["rcf_mnist"](fashion, images="mnist").fingerprint()


def test_the_root_may_hold_the_file_itself_gzipped(fashion):
    raw = fashion / "FashionMNIST" / "raw"
    before = datasets["rcf_mnist"](fashion).fingerprint()
    (raw / f"{FILE}.gz").write_bytes(gzip.compress((raw / FILE).read_bytes()))
    (raw / FILE).unlink()
    for root in (fashion, raw):
        assert datasets["rcf_mnist"]("nowhere", root=str(root)).fingerprint() == before


@pytest.mark.parametrize(("images", "kind"), [("auto", "FashionMNIST"), ("mnist", "MNIST")])
def test_missing_images_are_asked_for_with_the_command(images, kind, tmp_path):
    with pytest.raises(MissingData) as raised:
        datasets["rcf_mnist"](tmp_path, images=images)
    text = str(raised.value)
    assert f"RCFMNIST looked for {FILE}, plain or with .gz, in {tmp_path / kind / 'raw'}" in text
    assert f"from torchvision.datasets import {kind}; {kind}('{tmp_path}', download=True)" in text


def test_an_unknown_source_is_refused(small_mnist):
    with pytest.raises(UnknownName, match="images"):
        datasets["rcf_mnist"](small_mnist, images="kmnist")


def test_real_images_fit_the_card_and_their_colours_the_angles(data_dir, monkeypatch):
    # Every tenth image: turning all of them takes seconds.
    monkeypatch.setattr("dgbench.datasets.rcf_mnist.read_idx", lambda *arguments: read_idx(*arguments)[::10])
    dataset = datasets["rcf_mnist"](data_dir)
    assert [10 * len(domain) for domain in dataset.domains] == list(dataset.card.sizes)
    for domain, sign in zip(dataset.domains, (1, -1, 0), strict=True):
        sums = domain.inputs.double().sum((2, 3))
        red = sums[:, 0] / (sums[:, 0] + sums[:, 2])
        correlation = torch.corrcoef(torch.stack([red, domain.targets[:, 0].double()]))[0, 1]
        assert abs(float(correlation) - sign) < (0.01 if sign else 0.15)
