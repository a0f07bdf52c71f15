"""Datasets of image files: what is read, in which order, and as what."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.registry import datasets

PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def test_pacs_reads_domains_classes_and_files_in_order(pacs):
    dataset = datasets["pacs"](pacs, image_size=16)
    assert dataset.domain_names == PACS_DOMAINS
    assert dataset.class_names == PACS_CLASSES
    assert dataset.task.num_classes == 7
    assert dataset.input_shape == (3, 16, 16)
    for domain in dataset.domains:
        assert domain.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
        assert [path.name for path in domain.paths] == ["a.jpg", "b.png"] * 7
        assert domain.resident is None


def test_root_overrides_data_dir(pacs):
    by_root = datasets["pacs"]("nowhere", root=str(pacs / "PACS"))
    assert by_root.fingerprint() == datasets["pacs"](pacs).fingerprint()


def test_items_are_resized_without_keeping_the_aspect(pacs):
    domain = datasets["pacs"](pacs, image_size=16).domains[1]
    x, y = domain.__getitems__(torch.tensor([3, 1]))
    assert x.dtype == torch.float32
    assert y.tolist() == [1, 0]
    for row, index in enumerate((3, 1)):
        with Image.open(domain.paths[index]) as image:
            by_hand = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(x[row].permute(1, 2, 0), by_hand, atol=1e-6)
    empty = domain.__getitems__([])
    assert empty.x.shape == (0, 3, 16, 16)
    assert empty.y.shape == (0,)


def test_training_items_are_augmented_by_torchs_generator(pacs):
    domain = datasets["pacs"](pacs, image_size=16).domains[0]
    torch.manual_seed(0)
    first = domain.training_items([0, 1]).x
    assert first.shape == (2, 3, 16, 16)
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.equal(first, domain.training_items([0, 1]).x)
    torch.manual_seed(0)
    assert torch.equal(first, domain.training_items([0, 1]).x)
    assert not torch.equal(first, domain.__getitems__([0, 1]).x)


def test_augmentation_varies_what_domainbeds_does(tmp_path, write_image):
    # Left half red: a flip, a crop, a change of colour and a grey image can each be told.
    for domain in ("a", "b"):
        write_image(tmp_path / domain / "x" / "1.png")
        pixels = np.zeros((64, 64, 3), dtype=np.uint8)
        pixels[:, :32, 0], pixels[:, 32:] = 200, 100
        Image.fromarray(pixels).save(tmp_path / domain / "x" / "1.png")
    domain = datasets["image_folder"](root=str(tmp_path), image_size=32).domains[0]
    torch.manual_seed(0)
    x = domain.training_items([0] * 400).x
    saturation = x.amax(1) - x.amin(1)
    is_gray = saturation.amax((1, 2)) == 0
    assert 0.05 < is_gray.double().mean() < 0.16
    colored = saturation[~is_gray]
    is_flipped = colored[:, :, -4:].mean((1, 2)) > colored[:, :, :4].mean((1, 2))
    assert 0.4 < is_flipped.double().mean() < 0.6
    width = (colored > 0.1).double().mean((1, 2))
    assert width.std() > 0.02
    assert x.amax((1, 2, 3)).std() > 0.05


def test_gray_and_transparent_images_become_three_channels(photos, load_photos):
    Image.new("L", (8, 8), 51).save(photos / "art" / "cup" / "2.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(photos / "art" / "cup" / "3.png")
    domain = load_photos(photos).domains[1]
    x, _ = domain.__getitems__([2, 3])
    assert torch.allclose(x[0], torch.tensor(0.2))
    assert x[1, :, 0, 0].tolist() == [1, 0, 0]


def test_domains_travel_to_worker_processes(pacs):
    domain = datasets["pacs"](pacs, image_size=16).domains[0]
    again = pickle.loads(pickle.dumps(domain))
    assert torch.equal(again.__getitems__([0]).x, domain.__getitems__([0]).x)


def test_image_folder_finds_domains_and_classes(photos, load_photos):
    (photos / "README.txt").write_text("notes")
    (photos / "art" / "cup" / ".DS_Store").write_bytes(b"")
    (photos / "art" / "cup" / "._1.png").write_bytes(b"junk")
    (photos / "art" / "cup" / "notes.txt").write_text("")
    dataset = load_photos(photos)
    assert dataset.domain_names == ("real_world", "art")
    assert dataset.class_names == ("Bed", "cup")
    assert dataset.task.num_classes == 2
    assert [len(domain) for domain in dataset.domains] == [2, 2]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Real World", "real_world"),
        ("art-2", "art_2"),
        ("a__b", "a__b"),
        ("(Clip) Art!", "clip_art"),
        ("X", "x"),
    ],
)
def test_folders_become_domain_names(folder, name, tmp_path, write_image, load_photos):
    write_image(tmp_path / folder / "cup" / "1.png")
    assert load_photos(tmp_path).domain_names == (name,)


def test_fingerprint_is_of_names_and_sizes_wherever_they_lie(photos, tmp_path, load_photos):
    before = load_photos(photos).fingerprint()
    moved = photos.rename(tmp_path / "moved")
    assert load_photos(moved).fingerprint() == before
    with (moved / "art" / "cup" / "1.png").open("ab") as file:
        file.write(b"\0")
    longer = load_photos(moved).fingerprint()
    assert longer != before
    (moved / "art" / "cup" / "1.png").rename(moved / "art" / "cup" / "2.png")
    assert load_photos(moved).fingerprint() not in (before, longer)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_is_named_when_it_is_read(suffix, photos, write_image, load_photos):
    path = photos / "art" / "cup" / f"0.{suffix}"
    write_image(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    domain = load_photos(photos).domains[1]
    for read in (domain.__getitems__, domain.training_items):
        with pytest.raises(ValueError, match=rf"0\.{suffix} cannot be read as an image .* expected a whole image"):
            read([1])


def test_a_file_that_is_no_image_is_named_when_it_is_read(photos, load_photos):
    (photos / "art" / "cup" / "0.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"0\.jpg cannot be read as an image .*cannot identify.* Replace or remove"):
        load_photos(photos).domains[1].__getitems__([1])


def test_real_pacs_fits_the_card(data_dir):
    dataset = datasets["pacs"](data_dir)
    assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    sketch = dataset.domains[3]
    assert torch.bincount(sketch.targets).tolist() == [772, 740, 753, 608, 816, 80, 160]
    x, y = sketch.__getitems__([0, 3928])
    assert x.shape == (2, 3, 224, 224)
    assert y.tolist() == [0, 6]
    assert sum("n02103406_4068-1." in path.name for path in sketch.paths) == 1
