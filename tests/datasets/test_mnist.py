"""The MNIST sets: their recipes, their reader, and what it says about broken files."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.dataset import MissingData
from dgbench.registry import datasets

NAMES = (
    "train-images-idx3-ubyte",
    "t10k-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder laid out by torchvision, with 60 + 40 images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 40)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            idx(rng.integers(256, size=(n, 28, 28), dtype=np.uint8))
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(rng.integers(10, size=n, dtype=np.uint8)))
    return tmp_path


def test_root_may_be_torchvisions_or_the_files_own_folder(small):
    by_data_dir = datasets["rotated_mnist"](small)
    for root in (small, small / "MNIST" / "raw"):
        by_root = datasets["rotated_mnist"]("nowhere", root=str(root))
        assert by_root.fingerprint() == by_data_dir.fingerprint()
        assert torch.equal(by_root.domains[3].inputs, by_data_dir.domains[3].inputs)
    assert "root" not in by_root.describe_options()


def test_gzipped_files_are_the_same_data(small):
    plain = datasets["colored_mnist"](small)
    fingerprint = plain.fingerprint()
    for path in list(plain.sources())[:3]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = datasets["colored_mnist"](small)
    assert [path.suffix for path in packed.sources()] == [".gz", ".gz", ".gz", ""]
    assert packed.fingerprint() == fingerprint
    assert torch.equal(packed.domains[0].inputs, plain.domains[0].inputs)


def test_fingerprint_sees_pixels_and_the_draw(small):
    first = datasets["rotated_mnist"](small)
    assert datasets["rotated_mnist"](small, data_seed=1).fingerprint() != first.fingerprint()
    path = next(iter(first.sources()))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert datasets["rotated_mnist"](small).fingerprint() != first.fingerprint()


@pytest.mark.parametrize("name", ["rotated_mnist", "colored_mnist"])
def test_only_the_data_seed_decides_the_data(name, small):
    torch.manual_seed(0)
    first = datasets[name](small, data_seed=1)
    torch.manual_seed(1)
    again = datasets[name](small, data_seed=1)
    for a, b in zip(first.domains, again.domains, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_missing_files_are_asked_for_with_the_command(tmp_path):
    with pytest.raises(MissingData) as raised:
        datasets["rotated_mnist"](tmp_path)
    text = str(raised.value)
    assert f"MNIST is not complete in {tmp_path / 'MNIST' / 'raw'}, expected the files train-images" in text
    assert (
        f"""python -c "from torchvision.datasets import MNIST; MNIST('{tmp_path}', download=True)\"""" in text
    )


def test_missing_files_under_root_name_both_places(small):
    (small / "MNIST" / "raw" / NAMES[2]).unlink()
    with pytest.raises(MissingData, match=r"not complete in .*MNIST.raw or .*expected the files"):
        datasets["colored_mnist"]("nowhere", root=str(small))


def test_a_file_cut_short_is_named(small):
    path = small / "MNIST" / "raw" / NAMES[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte holds 46956 bytes, expected 47056 .*Delete it"
    ):
        datasets["rotated_mnist"](small)


def test_a_file_of_another_kind_is_named(small):
    path = small / "MNIST" / "raw" / NAMES[1]
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ValueError, match=r"t10k-images-idx3-ubyte starts with \d+, expected the magic number 2051"
    ):
        datasets["rotated_mnist"](small)


def test_an_empty_file_is_named(small):
    (small / "MNIST" / "raw" / NAMES[3]).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"t10k-labels.* starts with too few bytes, expected the magic number 2049"
    ):
        datasets["rotated_mnist"](small)


def test_a_damaged_gzip_file_is_named(small):
    path = small / "MNIST" / "raw" / NAMES[0]
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-200])
    path.unlink()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not a whole gzip file .*Delete it"):
        datasets["rotated_mnist"](small)


def test_labels_that_do_not_fit_the_images_are_refused(small):
    (small / "MNIST" / "raw" / NAMES[3]).write_bytes(idx(np.zeros(39, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"100 images but 99 labels .* expected as many labels as images"):
        datasets["colored_mnist"](small)


def test_colored_mnist_follows_the_recipe_in_order(small):
    dataset = datasets["colored_mnist"](small, data_seed=7)
    raw = small / "MNIST" / "raw"
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


def test_a_rotated_pixel_is_a_mean_of_its_four_sources(small):
    dataset = datasets["rotated_mnist"](small)
    images = dataset.domains[0].inputs  # angle 0: what the files hold
    raw = small / "MNIST" / "raw"
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
        source[:, y0 + j, x0 + i] * (1 - abs(x - x0 - i)) * (1 - abs(y - y0 - j))
        for i in (0, 1)
        for j in (0, 1)
    )
    np.testing.assert_array_equal(dataset.domains[2].inputs[:, 0, row, column], np.floor(by_hand))


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 60, 75])
def test_rotation_is_pillows_within_one_grey_level(angle, small):
    dataset = datasets["rotated_mnist"](small)
    i = angle // 15
    raw = small / "MNIST" / "raw"
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
    assert sum(torch.bincount(domain.targets) for domain in dataset.domains).sum() == 70000


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
