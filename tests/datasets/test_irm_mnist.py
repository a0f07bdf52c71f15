"""The coloured digits of the paper on invariant risks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dgbench.registry import datasets

FLIPS = {"plus80": 0.2, "plus90": 0.1, "minus90": 0.9}


def stored(folder) -> tuple[np.ndarray, np.ndarray]:
    """Images and digits of the training files."""
    raw = folder / "MNIST" / "raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    digits = np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), digits


def test_the_recipe_in_order(small_mnist):
    dataset = datasets["colored_mnist_irm"](small_mnist, data_seed=3)
    images, digits = stored(small_mnist)
    rng = np.random.default_rng(3)
    order = rng.permutation(50)  # of 60: five sixths train
    parts = {"plus80": order[0::2], "plus90": order[1::2], "minus90": np.arange(50, 60)}
    assert dataset.domain_names == tuple(parts)
    for domain in dataset.domains:
        part = parts[domain.name]
        label = np.logical_xor(digits[part] < 5, rng.random(len(part)) < 0.25)
        color = np.logical_xor(label, rng.random(len(part)) < FLIPS[domain.name])
        assert domain.targets.tolist() == label.astype(int).tolist()
        for row, (source, channel) in enumerate(zip(part, color.astype(int), strict=True)):
            np.testing.assert_array_equal(domain.inputs[row, channel], images[source, 0:28:2, 0:28:2])
            assert not domain.inputs[row, 1 - channel].any()


def test_grayscale_is_the_same_data_without_the_colour(small_mnist):
    colored = datasets["colored_mnist_irm"](small_mnist)
    gray = datasets["colored_mnist_irm"](small_mnist, grayscale=True)
    assert gray.input_shape == (1, 14, 14)
    for a, b in zip(colored.domains, gray.domains, strict=True):
        assert b.inputs.dtype == torch.uint8
        assert torch.equal(a.inputs.int().sum(1, keepdim=True), b.inputs.int())
        assert torch.equal(a.targets, b.targets)


def test_the_test_files_play_no_part(small_mnist, to_idx):
    dataset = datasets["colored_mnist_irm"](small_mnist)
    assert [path.name for path in dataset.sources()] == list(dataset.card.checksums)
    before = dataset.fingerprint()
    raw = small_mnist / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte").write_bytes(to_idx(np.zeros((40, 28, 28), dtype=np.uint8)))
    assert datasets["colored_mnist_irm"](small_mnist).fingerprint() == before
    raw.joinpath("train-labels-idx1-ubyte").write_bytes(to_idx(np.zeros(60, dtype=np.uint8)))
    assert datasets["colored_mnist_irm"](small_mnist).fingerprint() != before


def test_the_official_splits_are_the_designated_domains(small_mnist):
    dataset = datasets["colored_mnist_irm"](small_mnist)
    assert dataset.designated == (("plus80", "plus90"), ("minus90",))
    assert dataset.splits is not None
    indices = {split: {d: i.tolist() for d, i in parts.items()} for split, parts in dataset.splits.items()}
    assert indices == {
        "in": {"plus80": list(range(25)), "plus90": list(range(25))},
        "test": {"minus90": list(range(10))},
    }
    assert (dataset.task.num_outputs, dataset.task.num_classes) == (1, 2)


@pytest.fixture(scope="module")
def real(data_dir):
    return datasets["colored_mnist_irm"](data_dir)


def test_real_data_fit_the_card(real):
    assert tuple(map(len, real.domains)) == real.card.sizes == (25000, 25000, 10000)
    assert all(domain.inputs.dtype == torch.uint8 for domain in real.domains)


def test_real_colours_and_labels_are_as_reliable_as_promised(real, data_dir):
    _, digits = stored(data_dir)
    order = np.random.default_rng(0).permutation(50000)
    parts = (order[::2], order[1::2], np.arange(50000, 60000))
    for domain, part in zip(real.domains, parts, strict=True):
        n, flip = len(domain), FLIPS[domain.name]
        color = domain.inputs.flatten(2).any(-1).int().argmax(1)
        agree = (color == domain.targets).double().mean().item()
        clean = (torch.from_numpy(digits[part] < 5) == domain.targets).double().mean().item()
        assert abs(agree - (1 - flip)) < 4 * (flip * (1 - flip) / n) ** 0.5
        assert abs(clean - 0.75) < 4 * (0.25 * 0.75 / n) ** 0.5
