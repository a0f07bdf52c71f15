"""What each preset of the protocol does to a run: one test per row of the table, one case per preset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

import dgbench
from dgbench import hparams, record
from dgbench.algorithms.erm import ERM
from dgbench.composition import compose, presets
from dgbench.config import resolve
from dgbench.dataset import Card, Domain, GeneratedOptions, Items, MultiDomainDataset, TensorDomain
from dgbench.record import Interrupted, RunFolder
from dgbench.registry import algorithms, datasets
from dgbench.run import Run
from dgbench.runner import execute
from dgbench.selection import selection

PRESETS = ("dgbench", "domainbed_2020", "domainbed_2024")
SIZE = 20
CARD = Card(
    summary="Toy data; which of two classes is it?",
    domains=("a", "b", "c"),
    sizes=(SIZE,) * 3,
    classes=("zero", "one"),
    regime="small",
    network="mlp",
    num_steps=500,
    evaluate_every=100,
    licence="none",
    source="made up",
    checksums={},
    citation="none",
)


def each(*expected: object) -> pytest.MarkDecorator:
    """One case per preset."""
    return pytest.mark.parametrize(("preset", "expected"), list(zip(PRESETS, expected, strict=True)))


def resolved(preset: str, *overrides: str, **keys: object) -> Run:
    return resolve(compose([f"protocol={preset}", *overrides, *(f"{key}={value}" for key, value in keys.items())]))


class FlippingDomain(Domain):
    """The input is the class; augmented, it is the other class."""

    def __getitems__(self, indices):
        y = self.targets[torch.as_tensor(indices)]
        return Items(torch.eye(2)[y], y)

    def training_items(self, indices):
        x, y = self.__getitems__(indices)
        return Items(1 - x, y)


class Flipping(MultiDomainDataset):
    """Whoever learned from augmented examples is wrong on all others."""

    card = CARD

    def load(self):
        for name in CARD.domains:
            yield FlippingDomain(name, torch.arange(SIZE) % 2)


class Drawn(MultiDomainDataset):
    """Each example is a number of its own, drawn from `data_seed`."""

    card = CARD
    Options = GeneratedOptions
    options: GeneratedOptions

    def load(self):
        generator = torch.Generator().manual_seed(self.options.data_seed)
        for name in CARD.domains:
            yield TensorDomain(name, torch.rand(SIZE, 1, generator=generator), torch.arange(SIZE) % 2)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._given, "flipping", Flipping)
    monkeypatch.setitem(datasets._given, "drawn", Drawn)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """The override that names a folder of two domains of two images."""
    for domain, shade in (("dark", 20), ("light", 200)):
        for place, label in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / domain / label
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 40), (shade, 60 * place, 90)).save(folder / "1.png")
    return f"dataset.root={tmp_path / 'photos'}"


def test_these_are_all_the_presets() -> None:
    assert sorted(PRESETS) == presets()


@each(0.0, 1.0, 1.0)
def test_validation_examples_are_augmented(preset, expected) -> None:
    outcome = dgbench.train(
        dataset="flipping",
        test_domains=["a"],
        protocol=preset,
        optim={"lr": 0.05, "batch_size": 8},
        network={"width": 8, "normalise": "none"},
        workers=0,
        **{"protocol.num_steps": 61, "protocol.evaluate_every": 60},
    )
    values = RunFolder(outcome.folder).lines()[-1]["values"]
    assert {values[f"out/{name}/accuracy"] for name in ("b", "c")} == {expected}
    # A test domain never is: what was learned of flipped examples is wrong there.
    assert {values[f"{split}/a/accuracy"] for split in ("in", "out")} == {0.0}


@each(False, True, True)
def test_generated_data_are_drawn_from_the_run_s_seed(preset, expected, monkeypatch) -> None:
    seen: set[float] = set()
    loss, forward = ERM.loss, ERM.forward

    def training(self, batch):
        seen.update(batch.x.flatten().tolist())
        return loss(self, batch)

    def evaluating(self, x):
        seen.update(x.flatten().tolist())
        return forward(self, x)

    monkeypatch.setattr(ERM, "loss", training)
    monkeypatch.setattr(ERM, "forward", evaluating)
    everything = []
    for draw in (0, 1):
        seen.clear()
        keys = {"dataset": "drawn", "test_domains": ["a"], "hparams_seed": draw, "optim": {"batch_size": 8}}
        outcome = dgbench.train(
            **keys, protocol=preset, **{"protocol.num_steps": 3, "protocol.evaluate_every": 1}, network={"width": 4}
        )
        seed = RunFolder(outcome.folder).read()["identity"]["seed"]
        drawn = Drawn(data_seed=seed if expected else 0)
        assert seen <= {x for domain in drawn.domains for x in domain.inputs.flatten().tolist()}
        # All of the test domain, what the others hold out, and something of what they train on.
        assert len(seen) > SIZE + 2 * 4
        assert set(RunFolder(outcome.folder).lines()[-1]["n"].values()) == {16, 4}
        everything.append(set(seen))
    assert everything[0].isdisjoint(everything[1]) == expected

    # Draws of hyper-parameters compete in one cell of one table, whatever data each of them drew.
    runs = record.runs("runs")
    assert [runs[name].n_unique() for name in ("run_id", "data", "data_seed", "protocol_key")] == [2, 1, 1, 1]
    assert runs["data_seed"][0] == (-1 if expected else 0)
    assert len(selection("train_validation").choose(record.read("runs"))) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_data_that_are_not_generated_are_everyone_s(preset) -> None:
    one, two = (resolved(preset, dataset="flipping", test_domains="[a]", seed=seed) for seed in (1, 2))
    assert one.data is two.data
    assert "data_seed" not in one.identity["dataset"]["options"]


@pytest.fixture
def short() -> list[str]:
    keys = ["dataset=drawn", "test_domains=[a]", "optim.batch_size=4", "network.width=4", "optim.dropout=0.5"]
    return [*keys, "protocol.num_steps=9", "protocol.evaluate_every=3", "checkpoints=all"]


@each([0, 3, 6, 8], [0, 3, 6], [0, 3, 6, 8])
def test_the_final_step_is_evaluated(preset, expected, short) -> None:
    outcome = execute(resolved(preset, *short))
    assert outcome.status == "complete"
    assert [line["step"] for line in RunFolder(outcome.folder).lines()] == expected
    assert dgbench.load(outcome.folder, step=expected[-1]).step == expected[-1] + 1
    assert execute(resolved(preset, *short)).skipped


@each([0, 3, 6, 8], [0, 3, 6], [0, 3, 6, 8])
def test_an_interrupted_run_continues_on_the_same_schedule(preset, expected, short) -> None:
    def stop(steps_done: int) -> None:
        if steps_done == 8:  # in domainbed_2020, after the last evaluation
            raise Interrupted

    whole = execute(resolved(preset, *short, "runs_dir=whole"))
    run = resolved(preset, *short, "runs_dir=parts")
    with pytest.raises(Interrupted):
        execute(run, stop)
    assert run.folder.status() == "interrupted"
    outcome = execute(run)
    assert outcome.status == "complete"
    lines = RunFolder(outcome.folder).lines()
    assert [line["step"] for line in lines] == expected
    assert lines == RunFolder(whole.folder).lines()
    for file in sorted(run.folder.checkpoints.iterdir()):
        weights, wanted = (
            torch.load(folder / "checkpoints" / file.name, weights_only=True)
            for folder in (outcome.folder, whole.folder)
        )
        torch.testing.assert_close(weights, wanted, rtol=0, atol=0)


@each(False, True, False)
def test_resnets_keep_their_batch_norm_statistics(preset, expected, photos) -> None:
    keys = ["dataset=image_folder", photos, "dataset.image_size=32", "test_domains=[light]", "network=timm:resnet18"]
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

    monkeypatch.setattr("dgbench.runner.build_network", build_network)
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


@each(True, False, False)
@pytest.mark.parametrize("name", ["irm", "vrex"])
def test_hyper_parameters_that_count_steps_are_capped_at_half_the_run(name, preset, expected) -> None:
    cls = algorithms[name].HParams
    steps = {draw: hparams.draw(cls, draw, 0, regime="small").anneal_steps for draw in range(40)}
    late, early = (next(d for d in steps if d and is_so(steps[d])) for is_so in (lambda s: s > 500, lambda s: s < 250))

    def drawn(draw: int, *more: str) -> int:
        run = resolved(preset, *more, algorithm=name, dataset="drawn", test_domains="[a]", hparams_seed=draw)
        return run.identity["algorithm"]["hparams"]["anneal_steps"]

    assert drawn(late) == (250 if expected else steps[late])
    assert drawn(0) == (250 if expected else 500)
    assert drawn(early) == steps[early]
    assert drawn(late, "protocol.num_steps=101") == (50 if expected else steps[late])
    assert drawn(late, "algorithm.anneal_steps=400") == 400


@each("grl", "alternating", "alternating")
def test_a_method_s_own_value_for_a_preset(preset, expected) -> None:
    run = {
        draw: resolved(preset, algorithm="dann", dataset="drawn", test_domains="[a]", hparams_seed=draw)
        for draw in (0, 1)
    }
    assert {r.hp.form for r in run.values()} == {expected}
    assert run[0].hp.adversarial_weight != run[1].hp.adversarial_weight
    other = "alternating" if expected == "grl" else "grl"
    asked = resolved(preset, f"algorithm.form={other}", algorithm="dann", dataset="drawn", test_domains="[a]")
    assert asked.hp.form == other
