"""Datasets of image files: reading, order, and every sentence about folders that are wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench.dataset import MissingData
from dgbench.registry import datasets

PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    """A data_dir with two images per class of PACS."""
    for i, domain in enumerate(PACS_DOMAINS):
        for j, name in enumerate(PACS_CLASSES):
            for k, file in enumerate(("b.png", "a.jpg")):
                write(tmp_path / "PACS" / domain / name / file, seed=100 * i + 10 * j + k)
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The reader's folder: two domains, two classes."""
    for domain in ("Real World", "art"):
        for name in ("cup", "Bed"):
            write(tmp_path / "photos" / domain / name / "1.png")
    return tmp_path / "photos"


def load_photos(root: Path, **options):
    return datasets["image_folder"](root=str(root), image_size=16, **options)


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


def test_augmentation_varies_what_domainbeds_does(tmp_path):
    # Left half red: a flip, a crop, a change of colour and a grey image can each be told.
    for domain in ("a", "b"):
        write(tmp_path / domain / "x" / "1.png")
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


def test_gray_and_transparent_images_become_three_channels(photos):
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


def test_image_folder_finds_domains_and_classes(photos):
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
def test_folders_become_domain_names(folder, name, tmp_path):
    write(tmp_path / folder / "cup" / "1.png")
    assert load_photos(tmp_path).domain_names == (name,)


def test_fingerprint_is_of_names_and_sizes_wherever_they_lie(photos, tmp_path):
    before = load_photos(photos).fingerprint()
    moved = photos.rename(tmp_path / "moved")
    assert load_photos(moved).fingerprint() == before
    with (moved / "art" / "cup" / "1.png").open("ab") as file:
        file.write(b"\0")
    longer = load_photos(moved).fingerprint()
    assert longer != before
    (moved / "art" / "cup" / "1.png").rename(moved / "art" / "cup" / "2.png")
    assert load_photos(moved).fingerprint() not in (before, longer)


def test_pacs_that_is_not_there_says_where_it_looked(tmp_path):
    with pytest.raises(
        MissingData, match=r"looked for in .*PACS, which is not a folder\. Set dataset.root .* gdown"
    ):
        datasets["pacs"](tmp_path)


def test_pacs_without_a_domain_names_it(pacs):
    (pacs / "PACS" / "photo").rename(pacs / "PACS" / "Photo2")
    text = r"lacks the domain 'photo': .* holds the folders Photo2, art_painting, .* expected art_painting, .* gdown"
    with pytest.raises(MissingData, match=text):
        datasets["pacs"](pacs)


@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints", "quickdraw"])
def test_pacs_refuses_a_stray_folder_beside_the_domains(name, pacs):
    (pacs / "PACS" / name).mkdir()
    with pytest.raises(
        ValueError, match=rf"stray folder '{name}', expected only the domains art_.* Move it out"
    ):
        datasets["pacs"](pacs)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "cow"])
def test_pacs_refuses_a_folder_that_is_no_class(name, pacs):
    (pacs / "PACS" / "photo" / name).mkdir()
    with pytest.raises(
        ValueError, match=rf"photo has a stray folder '{name}', expected the classes dog, elephant"
    ):
        datasets["pacs"](pacs)


def test_pacs_names_the_class_that_a_domain_lacks(pacs):
    (pacs / "PACS" / "sketch" / "house").rename(pacs / "house")
    with pytest.raises(
        ValueError, match=r"sketch has no folder for the class 'house', expected the same .* Add it"
    ):
        datasets["pacs"](pacs)


def test_image_folder_names_the_class_that_a_domain_lacks(photos):
    write(photos / "art" / "lamp" / "1.png")
    with pytest.raises(
        ValueError, match=r"Real World has no folder for the class 'lamp', expected the same classes"
    ):
        load_photos(photos)


def test_a_folder_inside_a_class_is_named(photos):
    (photos / "art" / "cup" / "more").mkdir()
    with pytest.raises(
        ValueError, match=r"cup.more is a folder inside a class folder, expected only images.* Move"
    ):
        load_photos(photos)


def test_a_class_without_images_is_named(photos):
    (photos / "art" / "cup" / "1.png").rename(photos / "art" / "cup" / "1.gif")
    with pytest.raises(
        ValueError, match=r"cup holds no image, expected at least one file ending in \.jpg.* Add"
    ):
        load_photos(photos)


def test_an_image_of_no_bytes_is_named_at_once(photos):
    (photos / "art" / "cup" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cup.1\.png is empty \(0 bytes\), expected an image\. Replace"):
        load_photos(photos)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_is_named_when_it_is_read(suffix, photos):
    path = photos / "art" / "cup" / f"0.{suffix}"
    write(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    domain = load_photos(photos).domains[1]
    for read in (domain.__getitems__, domain.training_items):
        with pytest.raises(
            ValueError, match=rf"0\.{suffix} cannot be read as an image .* expected a whole image"
        ):
            read([1])


def test_a_file_that_is_no_image_is_named_when_it_is_read(photos):
    (photos / "art" / "cup" / "0.jpg").write_text("<html>not found</html>")
    with pytest.raises(
        ValueError, match=r"0\.jpg cannot be read as an image .*cannot identify.* Replace or remove"
    ):
        load_photos(photos).domains[1].__getitems__([1])


def test_image_folder_needs_a_root():
    with pytest.raises(
        MissingData, match=r"none is given\. Set dataset.root to a folder that holds <domain>"
    ):
        datasets["image_folder"]()


def test_image_folder_names_a_wrong_root(tmp_path):
    with pytest.raises(
        MissingData, match=r"looked for images in .*photo, which is not a folder\. Set dataset.root"
    ):
        load_photos(tmp_path / "photo")


def test_image_folder_refuses_an_empty_root(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no folders, expected one per domain: <domain>/<class>/<image>"
    ):
        load_photos(tmp_path)


def test_image_folder_refuses_a_root_one_folder_too_deep(photos):
    with pytest.raises(ValueError, match=r"Bed has no class folders inside, expected .* one folder higher"):
        load_photos(photos / "art")


@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints"])
def test_image_folder_refuses_hidden_folders(name, photos):
    write(photos / "art" / name / "1.png")
    with pytest.raises(
        ValueError, match=rf"art has a stray folder '{name}', expected only images in folders"
    ):
        load_photos(photos)
    (photos / "art" / name).rename(photos / name)
    with pytest.raises(
        ValueError, match=rf"photos has a stray folder '{name}', expected only images in folders"
    ):
        load_photos(photos)


def test_image_folder_refuses_two_folders_of_one_name(photos):
    write(photos / "real_world" / "cup" / "1.png")
    with pytest.raises(
        ValueError, match=r"'Real World' and 'real_world' in .* both make the domain 'real_world'"
    ):
        load_photos(photos)


@pytest.mark.parametrize("name", ["2012", "写真"])
def test_image_folder_refuses_a_folder_that_makes_no_name(name, photos):
    write(photos / name / "cup" / "1.png")
    with pytest.raises(
        ValueError, match=rf"{name} makes no domain name, expected one that starts .* Rename it"
    ):
        load_photos(photos)


def test_real_pacs_fits_the_card(data_dir):
    dataset = datasets["pacs"](data_dir)
    assert tuple(map(len, dataset.domains)) == dataset.card.sizes
    sketch = dataset.domains[3]
    assert torch.bincount(sketch.targets).tolist() == [772, 740, 753, 608, 816, 80, 160]
    x, y = sketch.__getitems__([0, 3928])
    assert x.shape == (2, 3, 224, 224)
    assert y.tolist() == [0, 6]
    assert sum("n02103406_4068-1." in path.name for path in sketch.paths) == 1
