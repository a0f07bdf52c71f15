"""How MNIST's files are found and read, and what is said about broken ones."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from dgbench.dataset import MissingData
from dgbench.registry import datasets

NAMES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")


def test_root_may_be_torchvisions_or_the_files_own_folder(small_mnist):
    by_data_dir = datasets["rotated_mnist"](small_mnist)
    for root in (small_mnist, small_mnist / "MNIST" / "raw"):
        by_root = datasets["rotated_mnist"]("nowhere", root=str(root))
        assert by_root.fingerprint() == by_data_dir.fingerprint()
        assert torch.equal(by_root.domains[3].inputs, by_data_dir.domains[3].inputs)
    assert "root" not in by_root.describe_options()


def test_gzipped_files_are_the_same_data(small_mnist):
    plain = datasets["colored_mnist"](small_mnist)
    fingerprint = plain.fingerprint()
    for path in list(plain.sources())[:3]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = datasets["colored_mnist"](small_mnist)
    assert [path.suffix for path in packed.sources()] == [".gz", ".gz", ".gz", ""]
    assert packed.fingerprint() == fingerprint
    assert torch.equal(packed.domains[0].inputs, plain.domains[0].inputs)


def test_fingerprint_sees_pixels_and_the_draw(small_mnist):
    first = datasets["rotated_mnist"](small_mnist)
    before = first.fingerprint()
    assert datasets["rotated_mnist"](small_mnist, data_seed=1).fingerprint() != before
    path = next(iter(first.sources()))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert datasets["rotated_mnist"](small_mnist).fingerprint() != before


def test_missing_files_are_asked_for_with_the_command(tmp_path):
    with pytest.raises(MissingData) as raised:
        datasets["rotated_mnist"](tmp_path)
    text = str(raised.value)
    assert f"MNIST is not complete in {tmp_path / 'MNIST' / 'raw'}, expected the files train-images" in text
    assert f"""python -c "from torchvision.datasets import MNIST; MNIST('{tmp_path}', download=True)\"""" in text


def test_missing_files_under_root_name_both_places(small_mnist):
    (small_mnist / "MNIST" / "raw" / NAMES[2]).unlink()
    with pytest.raises(MissingData, match=r"not complete in .*MNIST.raw or .*expected the files"):
        datasets["colored_mnist"]("nowhere", root=str(small_mnist))


def test_a_file_cut_short_is_named(small_mnist):
    path = small_mnist / "MNIST" / "raw" / NAMES[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte holds 46956 bytes, expected 47056 .*Delete it"):
        datasets["rotated_mnist"](small_mnist)


def test_a_file_of_another_kind_is_named(small_mnist):
    path = small_mnist / "MNIST" / "raw" / NAMES[1]
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte starts with \d+, expected the magic number 2051"):
        datasets["rotated_mnist"](small_mnist)


def test_an_empty_file_is_named(small_mnist):
    (small_mnist / "MNIST" / "raw" / NAMES[3]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"t10k-labels.* starts with too few bytes, expected the magic number 2049"):
        datasets["rotated_mnist"](small_mnist)


def test_a_damaged_gzip_file_is_named(small_mnist):
    path = small_mnist / "MNIST" / "raw" / NAMES[0]
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-200])
    path.unlink()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not a whole gzip file .*Delete it"):
        datasets["rotated_mnist"](small_mnist)


def test_labels_that_do_not_fit_the_images_are_refused(small_mnist, to_idx):
    (small_mnist / "MNIST" / "raw" / NAMES[3]).write_bytes(to_idx(np.zeros(39, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"100 images but 99 labels .* expected as many labels as images"):
        datasets["colored_mnist"](small_mnist)
