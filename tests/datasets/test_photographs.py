"""Patches and tiles against recipes written out by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import skimage.data
import torch
from scipy import ndimage
from skimage import color, filters, transform

from dgbench.registry import datasets


def windows(image: np.ndarray, side: int, stride: int) -> list[np.ndarray]:
    height, width = image.shape[:2]
    return [
        image[i : i + side, j : j + side]
        for i in range(0, height - side + 1, stride)
        for j in range(0, width - side + 1, stride)
    ]


def keys(images) -> set[bytes]:
    return {np.asarray(image, dtype=np.float32).tobytes() for image in images}


@pytest.mark.parametrize("name", ["texture_patches", "scene_tiles"])
def test_packages_ship_the_pinned_files(name, load_once):
    dataset = load_once(name, 0)
    for path in dataset.sources():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == dataset.card.checksums[path.name]


def test_plain_patches_are_cut_from_blocks_of_their_own():
    dataset = datasets["texture_patches"](data_seed=1)
    rng = np.random.default_rng(1)
    blocks = windows(skimage.data.brick() / 255, 96, 96)
    assert len(blocks) == 25
    order = rng.permutation(25)
    plain = dataset.domains[0]
    bricks = keys(plain.inputs[plain.targets == 0][:, 0])
    assert len(bricks) == 110
    own = keys(patch for j in order[0::6] for patch in windows(blocks[j], 32, 16))
    others = keys(patch for i in range(1, 6) for j in order[i::6] for patch in windows(blocks[j], 32, 16))
    assert bricks <= own
    assert not bricks & others


@pytest.mark.parametrize(
    ("name", "restyle"),
    [
        ("gamma", lambda block: block**1.8),
        ("blur", lambda block: ndimage.gaussian_filter(block, 1.5)),
        ("zoom", lambda block: ndimage.zoom(block, 1.5, order=1)),
        ("lowcon", lambda block: 0.5 + 0.4 * (block - block.mean())),
    ],
)
def test_restyled_patches_come_from_blocks_of_their_domain(name, restyle):
    dataset = datasets["texture_patches"](data_seed=1)
    order = np.random.default_rng(1).permutation(25)
    i = dataset.domain_names.index(name)
    blocks = windows(skimage.data.brick() / 255, 96, 96)
    own = np.stack([patch for j in order[i::6] for patch in windows(restyle(blocks[j]), 32, 16)])
    domain = dataset.domains[i]
    for patch in domain.inputs[domain.targets == 0][:, 0].numpy():
        assert np.abs(own - patch).max((1, 2)).min() < 1e-6


def test_noise_has_the_promised_deviation():
    dataset = datasets["texture_patches"]()
    plain, noise = dataset.domains[0].inputs, dataset.domains[4].inputs

    def roughness(x):
        return (x[..., 1:, 1:] - x[..., 1:, :-1] - x[..., :-1, 1:] + x[..., :-1, :-1]).square().mean()

    # Four independent draws with deviation 0.1 add 4 * 0.01, less what clipping takes.
    assert 0.03 < roughness(noise) - roughness(plain) < 0.05


def blocks_of(scene: np.ndarray) -> list[np.ndarray]:
    height, width = scene.shape[:2]
    scale = 480 / min(height, width)
    return windows(transform.resize(scene, (round(height * scale), round(width * scale)), anti_aliasing=True), 96, 96)


def median(block: np.ndarray, side: int) -> np.ndarray:
    return np.stack([ndimage.median_filter(block[..., c], side) for c in range(3)], axis=-1)


def art(block):
    hue, saturation, value = np.moveaxis(color.rgb2hsv(median(block, 5)), -1, 0)
    return color.hsv2rgb(np.stack([(hue + 0.33) % 1, np.clip(1.5 * saturation, 0, 1), value], axis=-1))


def cartoon(block):
    edges = np.clip(filters.sobel(color.rgb2gray(block)) / 0.15, 0, 1)
    return np.round(3 * median(block, 3)) / 3 * (1 - edges[..., None])


def sketch(block):
    edges = np.clip(filters.sobel(ndimage.gaussian_filter(color.rgb2gray(block), 0.7)) / 0.2, 0, 1)
    return np.stack([1 - edges] * 3, axis=-1)


def test_scene_tiles_follow_the_recipe_on_blocks_of_their_own(load_once):
    dataset = load_once("scene_tiles", 0)
    blocks = blocks_of(skimage.data.astronaut())  # resized from 512 to 480 pixels: 25 blocks
    assert len(blocks) == 25
    order = np.random.default_rng(0).permutation(25)
    for i, restyle in enumerate((lambda block: block, art, cartoon, sketch)):
        domain = dataset.domains[i]
        tiles = domain.inputs[domain.targets == 0].permute(0, 2, 3, 1).numpy()
        own = np.stack(
            [
                tile
                for j in order[i::4]
                for tile, photo in zip(windows(restyle(blocks[j]), 32, 16), windows(blocks[j], 32, 16), strict=True)
                if color.rgb2gray(photo).std() > 0.03
            ]
        )
        assert len(tiles) == min(60, len(own))
        for tile in tiles:
            assert np.abs(own - tile).max((1, 2, 3)).min() < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_scene_tiles_are_nearly_balanced(seed, load_once):
    for domain in load_once("scene_tiles", seed).domains:
        counts = torch.bincount(domain.targets, minlength=8)
        assert counts.max() == 60
        assert counts.min() >= 10
        assert (counts == 60).sum() >= 6


def test_sketches_are_grey(load_once):
    sketches = load_once("scene_tiles", 0).domains[3].inputs
    assert torch.equal(sketches[:, 0], sketches[:, 1])
    assert torch.equal(sketches[:, 0], sketches[:, 2])
