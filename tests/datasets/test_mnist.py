"""The recipes of the MNIST sets."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.registry import datasets

NAMES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("name", ["rotated_mnist", "colored_mnist"])
def test_only_the_data_seed_decides_the_data(name, small_mnist):
    torch.manual_seed(0)
    first = datasets[name](small_mnist, data_seed=1)
    torch.manual_seed(1)
    again = datasets[name](small_mnist, data_seed=1)
    for a, b in zip(first.domains, again.domains, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_colored_mnist_follows_the_recipe_in_order(small_mnist):
    dataset = datasets["colored_mnist"](small_mnist, data_seed=7)
    raw = small_mnist / "MNIST" / "raw"
    images = np.concatenate([np.frombuffer((raw / n).read_bytes(), np.uint8, offset=16) for n in NAMES[:2]])
    digits = np.concatenate([np.frombuffer((raw / n).read_bytes(), np.uint8, offset=8) for n in NAMES[2:]])
    images = images.reshape(100, 28, 28)
    rng = np.random.default_rng(7)
    order = rng.permutation(100)
    assert [len(domain) for domain in dataset.domains] == [34, 33, 33]
    for i, flip in enumerate((0.1, 0.2, 0.9)):
        part, domain = order[i::3], dataset.domains[i]
        label = np.logical_xor(digits[part] < 5, rng.random(len(part)) < 0.25)
        color = np.logical_xor(label, rng.random(len(part)) < flip).astype(int)
        assert domain.targets.tolist() == label.astype(int).tolist()
        for j, c in enumerate(color):
            np.testing.assert_array_equal(domain.inputs[j, c], images[part[j]])
            assert not domain.inputs[j, 1 - c].any()
        x, _ = domain.__getitems__([0])
        np.testing.assert_allclose(x[0, color[0]], images[part[0]] / 255, rtol=1e-6)


def test_a_rotated_pixel_is_a_mean_of_its_four_sources(small_mnist):
    dataset = datasets["rotated_mnist"](small_mnist)
    images = dataset.domains[0].inputs  # angle 0: what the files hold
    raw = small_mnist / "MNIST" / "raw"
    stored = np.concatenate([np.frombuffer((raw / n).read_bytes(), np.uint8, offset=16) for n in NAMES[:2]])
    stored = stored.reshape(100, 28, 28)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(images[:, 0], stored[order[0::6]])
    angle, row, column = math.radians(30), 9, 17
    # Row and column of the place that a counter-clockwise turn by 30 degrees moves here.
    dx, dy = column - 13.5, row - 13.5
    x = 13.5 + dx * math.cos(angle) - dy * math.sin(angle)
    y = 13.5 + dx * math.sin(angle) + dy * math.cos(angle)
    x0, y0 = math.floor(x), math.floor(y)
    source = stored[order[2::6]].astype(float)
    by_hand = sum(
        source[:, y0 + j, x0 + i] * (1 - abs(x - x0 - i)) * (1 - abs(y - y0 - j)) for i in (0, 1) for j in (0, 1)
    )
    np.testing.assert_array_equal(dataset.domains[2].inputs[:, 0, row, column], np.floor(by_hand))


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 60, 75])
def test_rotation_is_pillows_within_one_grey_level(angle, small_mnist):
    dataset = datasets["rotated_mnist"](small_mnist)
    i = angle // 15
    raw = small_mnist / "MNIST" / "raw"
    stored = np.concatenate([np.frombuffer((raw / n).read_bytes(), np.uint8, offset=16) for n in NAMES[:2]])
    own = stored.reshape(100, 28, 28)[np.random.default_rng(0).permutation(100)[i::6]]
    for image, rotated in zip(own, dataset.domains[i].inputs[:, 0].numpy(), strict=True):
        by_pillow = np.asarray(Image.fromarray(image).rotate(angle, resample=Image.Resampling.BILINEAR))
        assert np.abs(by_pillow.astype(int) - rotated).max() <= 1


def test_real_files_have_the_pinned_checksums(data_dir):
    dataset = datasets["rotated_mnist"](data_dir)
    for path in dataset.sources():
        assert hashlib.md5(path.read_bytes()).hexdigest() == dataset.card.checksums[path.name]


@pytest.mark.parametrize("name", ["rotated_mnist", "colored_mnist"])
def test_real_data_fit_the_card(name, data_dir):
    dataset = datasets[name](data_dir)
    assert dataset.domain_names == dataset.card.domains
    assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    assert all(domain.inputs.dtype == torch.uint8 for domain in dataset.domains)
    assert dataset.input_shape == ((1, 28, 28) if name == "rotated_mnist" else (2, 28, 28))
    assert sum(len(domain.targets) for domain in dataset.domains) == 70000


def test_real_colors_agree_with_labels_as_often_as_promised(data_dir):
    dataset = datasets["colored_mnist"](data_dir)
    raw = data_dir / "MNIST" / "raw"
    digits = np.concatenate([np.frombuffer((raw / n).read_bytes(), np.uint8, offset=8) for n in NAMES[2:]])
    order = np.random.default_rng(0).permutation(70000)
    for i, flip in enumerate((0.1, 0.2, 0.9)):
        domain = dataset.domains[i]
        n = len(domain)
        color = domain.inputs.flatten(2).any(-1).int().argmax(1)
        agree = (color == domain.targets).double().mean().item()
        clean = (torch.from_numpy(digits[order[i::3]] < 5) == domain.targets).double().mean().item()
        assert abs(agree - (1 - flip)) < 4 * (flip * (1 - flip) / n) ** 0.5
        assert abs(clean - 0.75) < 4 * (0.25 * 0.75 / n) ** 0.5
