"""The digit sets against recipes written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from dgbench.registry import datasets

EMBEDDED = ("digits_rot", "digits_color", "digits_style", "texture_patches", "scene_tiles")


def parts(seed: int, num_domains: int) -> tuple[list[np.ndarray], np.random.Generator]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(1797)
    return [order[i::num_domains] for i in range(num_domains)], rng


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_keep_the_contract(name, load_once):
    dataset = load_once(name, 0)
    assert dataset.domain_names == dataset.card.domains
    if dataset.card.sizes:
        assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    for domain in dataset.domains:
        x, y = domain.__getitems__([0, len(domain) - 1])
        assert x.dtype == torch.float32
        assert x.shape == (2, *dataset.input_shape)
        assert y.dtype == torch.int64
        inputs, targets = domain.resident
        assert inputs.min() >= 0
        assert inputs.max() <= 1
        assert inputs.is_contiguous()
        assert set(targets.tolist()) == set(range(len(dataset.class_names)))
    assert all(path.is_file() for path in dataset.sources())
    assert {path.name for path in dataset.sources()} == set(dataset.card.checksums)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_data_seed_and_nothing_else_decides_the_data(name, load_once):
    first, other = load_once(name, 0), load_once(name, 1)
    torch.manual_seed(1234)
    np.random.seed(1234)
    again = datasets[name](data_seed=0)
    for a, b in zip(first.domains, again.domains, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert first.fingerprint() == again.fingerprint()
    a, b = first.domains[0].inputs, other.domains[0].inputs
    assert a.shape != b.shape or not torch.equal(a, b)


def test_digits_rot_rotates_each_padded_image():
    dataset = datasets["digits_rot"](data_seed=1)
    digits = load_digits()
    own, _ = parts(1, 6)
    for i, angle in enumerate((0, 15, 30, 45, 60, 75)):
        domain = dataset.domains[i]
        assert domain.name == f"rot{angle}"
        assert domain.targets.tolist() == digits.target[own[i]].tolist()
        for j in (0, 7, 298):
            padded = np.zeros((12, 12))
            padded[2:10, 2:10] = digits.images[own[i][j]] / 16
            by_hand = ndimage.rotate(padded, angle, order=1, reshape=False, cval=0).clip(0, 1)
            np.testing.assert_allclose(domain.inputs[j, 0], by_hand, atol=1e-6)


def test_digits_rot_turns_counter_clockwise():
    bar = np.zeros((12, 12))
    bar[1, 6:11] = 1  # top right
    turned = ndimage.rotate(bar[None], 75, axes=(2, 1), order=1, reshape=False)[0]
    assert turned[:, :6].sum() > 10 * turned[:, 6:].sum()


def test_domains_share_no_image():
    own, _ = parts(0, 6)
    assert sorted(np.concatenate(own).tolist()) == list(range(1797))
    plain = datasets["digits_rot"]().domains[0].inputs[:, 0, 2:10, 2:10].reshape(300, 64) * 16
    assert torch.equal(plain.round(), torch.from_numpy(load_digits().data[own[0]]).float())


def test_digits_color_follows_the_recipe_in_order():
    dataset = datasets["digits_color"](data_seed=2)
    digits = load_digits()
    own, rng = parts(2, 3)
    for domain, part, flip in zip(dataset.domains, own, (0.1, 0.2, 0.9), strict=True):
        label = np.logical_xor(digits.target[part] < 5, rng.random(599) < 0.25)
        color = np.logical_xor(label, rng.random(599) < flip)
        assert domain.targets.tolist() == label.astype(int).tolist()
        for j in (0, 100, 598):
            channel = int(color[j])
            np.testing.assert_array_equal(domain.inputs[j, channel], digits.images[part[j]] / 16)
            assert not domain.inputs[j, 1 - channel].any()


def test_digits_color_has_the_promised_correlations():
    n = 5 * 599
    for i, flip in enumerate((0.1, 0.2, 0.9)):
        agree, clean = 0, 0
        for seed in range(5):
            domain = datasets["digits_color"](data_seed=seed).domains[i]
            color = domain.inputs.sum((2, 3)).argmax(1)
            agree += int((color == domain.targets).sum())
            digit = load_digits().target[parts(seed, 3)[0][i]]
            clean += int((domain.targets == torch.from_numpy(digit < 5)).sum())
        assert abs(agree / n - (1 - flip)) < 4 * (flip * (1 - flip) / n) ** 0.5
        assert abs(clean / n - 0.75) < 4 * (0.25 * 0.75 / n) ** 0.5


def test_digits_style_follows_the_recipe():
    dataset = datasets["digits_style"](data_seed=5)
    images = load_digits().images / 16
    own, rng = parts(5, 6)
    inputs = {domain.name: domain.inputs[:, 0].double().numpy() for domain in dataset.domains}
    assert tuple(inputs) == ("clean", "invert", "dilate", "noise", "blur", "occlude")
    np.testing.assert_array_equal(inputs["clean"], images[own[0]])
    np.testing.assert_allclose(inputs["invert"], 1 - images[own[1]], atol=1e-7)
    # A 2 x 2 dilation is the largest of a pixel and its lower and right neighbours.
    padded = np.pad(images[own[2]], ((0, 0), (0, 1), (0, 1)), mode="edge")
    corners = [padded[:, i : i + 8, j : j + 8] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(inputs["dilate"], np.max(corners, axis=0))
    noisy = np.clip(images[own[3]] + rng.normal(0, 0.35, (299, 8, 8)), 0, 1)
    np.testing.assert_allclose(inputs["noise"], noisy, atol=1e-7)
    for j in (0, 150):
        blurred = ndimage.gaussian_filter(images[own[4]][j], 1)
        np.testing.assert_allclose(inputs["blur"][j], blurred, atol=1e-6)


def test_digits_style_occludes_one_square_of_one_grey():
    domain = datasets["digits_style"]().domains[5]
    images = load_digits().images[parts(0, 6)[0][5]] / 16
    places = set()
    for seen, clean in zip(domain.inputs[:, 0].numpy(), images, strict=True):
        rows, columns = np.nonzero(seen != clean.astype(np.float32))
        assert len(np.unique(seen[rows, columns])) <= 1
        assert np.ptp(rows) <= 2
        assert np.ptp(columns) <= 2
        places.add((rows.min(), columns.min()))
    assert len(places) > 20


def test_exclude_invert_changes_no_other_domain():
    every, most = datasets["digits_style"](), datasets["digits_style"](exclude_invert=True)
    assert most.domain_names == ("clean", "dilate", "noise", "blur", "occlude")
    kept = [domain for domain in every.domains if domain.name != "invert"]
    for a, b in zip(kept, most.domains, strict=True):
        assert torch.equal(a.inputs, b.inputs)
    assert most.describe_options()["exclude_invert"] is True
    assert every.fingerprint() != most.fingerprint()
