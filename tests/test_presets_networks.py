"""What each preset of the protocol says of ResNets: where they start, and whether batch norms move."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import dgbench
from dgbench.registry import datasets
from dgbench.runner import execute
from tests.test_presets import PRESETS, each, resolved


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """The override that names a folder of two domains of two images."""
    for domain, shade in (("dark", 20), ("light", 200)):
        for place, label in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / domain / label
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 40), (shade, 60 * place, 90)).save(folder / "1.png")
    return f"dataset.root={tmp_path / 'photos'}"


@each(False, True, False)
def test_pretrained_resnets_keep_their_batch_norm_statistics(preset, expected, photos, tmp_path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pt")
    keys = ["dataset=image_folder", photos, "dataset.image_size=32", "test_domains=[light]", "network=timm:resnet18"]
    keys += [f"network.weights={tmp_path / 'resnet18.pt'}"]
    some = ["optim.batch_size=2", "protocol.num_steps=1", "workers=0", "protocol.holdout_fraction=0.5"]
    outcome = execute(resolved(preset, *keys, *some))
    assert outcome.status == "complete", outcome.reason
    state = dgbench.load(outcome.folder).state_dict()
    moved = {name: not value.eq(0).all() for name, value in state.items() if name.endswith("running_mean")}
    assert len(moved) == 20
    assert set(moved.values()) == {not expected}


@each("card", "tv_in1k", "ram_in1k")
def test_resnets_start_from_the_preset_s_weights(preset, expected, photos, monkeypatch) -> None:
    # The card's and DomainBed's of 2020 are the same weights: another card tells them apart.
    image_folder = datasets["image_folder"]
    monkeypatch.setattr(image_folder, "card", dataclasses.replace(image_folder.card, weights="a1_in1k"))
    asked: list[object] = []

    def build_network(name, *args, **options):
        asked.extend((name, options["weights"], options["freeze_bn"]))
        raise RuntimeError("nothing is downloaded here")

    monkeypatch.setattr("dgbench.assembly.build_network", build_network)
    run = resolved(preset, photos, dataset="image_folder", test_domains="[light]", **{"protocol.holdout_fraction": 0.5})
    execute(run)
    weights = "a1_in1k" if expected == "card" else expected
    assert asked == ["timm:resnet50", weights, preset == "domainbed_2020"]
    assert run.recipe["weights"] == weights


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_user_says_of_a_network_and_other_networks_stand(preset, photos) -> None:
    folder = [photos, "dataset=image_folder", "test_domains=[light]"]
    for freeze in (True, False):
        run = resolved(preset, *folder, f"network.freeze_bn={freeze}", "network.weights=a1_in1k")
        assert (run.recipe["freeze_bn"], run.recipe["weights"]) == (freeze, "a1_in1k")
        assert run.recipe["name"] == "timm:resnet50"
    assert resolved(preset, *folder, "network.weights=none").recipe["weights"] is None
    for name in ("timm:vit_tiny_patch16_224", "small_cnn"):
        recipe = resolved(preset, *folder, f"network={name}").recipe
        assert (recipe["weights"], recipe["freeze_bn"]) == (None, False)
    digits = resolved(preset, dataset="digits_rot", test_domains="[rot0]").recipe
    assert (digits["name"], digits["weights"], digits["freeze_bn"]) == ("mlp", None, False)
