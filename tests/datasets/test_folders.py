"""Datasets of image files: every sentence about folders that are not as they should be."""

from __future__ import annotations

import pytest

from dgbench.dataset import MissingData
from dgbench.registry import datasets


def test_pacs_that_is_not_there_says_where_it_looked(tmp_path):
    with pytest.raises(MissingData, match=r"looked for in .*PACS, which is not a folder\. Set dataset.root .* gdown"):
        datasets["pacs"](tmp_path)


def test_pacs_without_a_domain_names_it(pacs):
    (pacs / "PACS" / "photo").rename(pacs / "PACS" / "Photo2")
    text = r"lacks the domain 'photo': .* holds the folders Photo2, art_painting, .* expected art_painting, .* gdown"
    with pytest.raises(MissingData, match=text):
        datasets["pacs"](pacs)


@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints", "quickdraw"])
def test_pacs_refuses_a_stray_folder_beside_the_domains(name, pacs):
    (pacs / "PACS" / name).mkdir()
    with pytest.raises(ValueError, match=rf"stray folder '{name}', expected only the domains art_.* Move it out"):
        datasets["pacs"](pacs)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "cow"])
def test_pacs_refuses_a_folder_that_is_no_class(name, pacs):
    (pacs / "PACS" / "photo" / name).mkdir()
    with pytest.raises(ValueError, match=rf"photo has a stray folder '{name}', expected the classes dog, elephant"):
        datasets["pacs"](pacs)


def test_pacs_names_the_class_that_a_domain_lacks(pacs):
    (pacs / "PACS" / "sketch" / "house").rename(pacs / "house")
    with pytest.raises(ValueError, match=r"sketch has no folder for the class 'house', expected the same .* Add it"):
        datasets["pacs"](pacs)


def test_image_folder_names_the_class_that_a_domain_lacks(photos, write_image, load_photos):
    write_image(photos / "art" / "lamp" / "1.png")
    with pytest.raises(ValueError, match=r"Real World has no folder for the class 'lamp', expected the same classes"):
        load_photos(photos)


def test_a_folder_inside_a_class_is_named(photos, load_photos):
    (photos / "art" / "cup" / "more").mkdir()
    with pytest.raises(ValueError, match=r"cup.more is a folder inside a class folder, expected only images.* Move"):
        load_photos(photos)


def test_a_class_without_images_is_named(photos, load_photos):
    (photos / "art" / "cup" / "1.png").rename(photos / "art" / "cup" / "1.gif")
    with pytest.raises(ValueError, match=r"cup holds no image, expected at least one file ending in \.jpg.* Add"):
        load_photos(photos)


def test_an_image_of_no_bytes_is_named_at_once(photos, load_photos):
    (photos / "art" / "cup" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cup.1\.png is empty \(0 bytes\), expected an image\. Replace"):
        load_photos(photos)


def test_image_folder_needs_a_root():
    with pytest.raises(MissingData, match=r"none is given\. Set dataset.root to a folder that holds <domain>"):
        datasets["image_folder"]()


def test_image_folder_names_a_wrong_root(tmp_path, load_photos):
    with pytest.raises(MissingData, match=r"looked for images in .*photo, which is not a folder\. Set dataset.root"):
        load_photos(tmp_path / "photo")


def test_image_folder_refuses_an_empty_root(tmp_path, load_photos):
    with pytest.raises(ValueError, match=r"holds no folders, expected one per domain: <domain>/<class>/<image>"):
        load_photos(tmp_path)


def test_image_folder_refuses_a_root_one_folder_too_deep(photos, load_photos):
    with pytest.raises(ValueError, match=r"Bed has no class folders inside, expected .* one folder higher"):
        load_photos(photos / "art")


@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints"])
def test_image_folder_refuses_hidden_folders(name, photos, write_image, load_photos):
    write_image(photos / "art" / name / "1.png")
    with pytest.raises(ValueError, match=rf"art has a stray folder '{name}', expected only images in folders"):
        load_photos(photos)
    (photos / "art" / name).rename(photos / name)
    with pytest.raises(ValueError, match=rf"photos has a stray folder '{name}', expected only images in folders"):
        load_photos(photos)


def test_image_folder_refuses_two_folders_of_one_name(photos, write_image, load_photos):
    write_image(photos / "real_world" / "cup" / "1.png")
    with pytest.raises(ValueError, match=r"'Real World' and 'real_world' in .* both make the domain 'real_world'"):
        load_photos(photos)


@pytest.mark.parametrize("name", ["2012", "写真"])
def test_image_folder_refuses_a_folder_that_makes_no_name(name, photos, write_image, load_photos):
    write_image(photos / name / "cup" / "1.png")
    with pytest.raises(ValueError, match=rf"{name} makes no domain name, expected one that starts .* Rename it"):
        load_photos(photos)
