"""What each preset of the protocol does to a run: one test per flag, one case per preset."""

from __future__ import annotations

import pytest
import torch

import dgbench
from dgbench import hparams, record
from dgbench.algorithms.erm import ERM
from dgbench.composition import compose, presets
from dgbench.config import resolve
from dgbench.dataset import Augmented, Card, Domain, GeneratedOptions, Items, MultiDomainDataset, TensorDomain
from dgbench.loader import Split, evaluation_batches
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


class NoisyDomain(FlippingDomain):
    """The input is a number that augmentation draws."""

    def training_items(self, indices):
        return Items(torch.rand(len(indices), 1), self.targets[indices])


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


def test_who_reads_augmented_validation_examples_changes_nothing() -> None:
    domain = Augmented(NoisyDomain("a", torch.arange(SIZE) % 2))
    split = Split(domain, torch.arange(SIZE))
    before = torch.default_generator.get_state()
    once, again, by_others = (torch.cat([items.x for items in evaluation_batches(split, 8, n)]) for n in (0, 0, 2))
    assert torch.equal(before, torch.default_generator.get_state())
    assert torch.equal(once, again)
    assert torch.equal(once, by_others)
    assert len(once.unique()) == SIZE


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
        seed = (RunFolder(outcome.folder).read() or {})["identity"]["seed"]
        drawn = Drawn(data_seed=seed if expected else 0)
        assert seen <= {x for domain in drawn.domains for x in domain.__getitems__(range(SIZE)).x.flatten().tolist()}
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


def test_a_seed_of_the_data_that_decides_nothing_is_refused():
    arguments = ["dataset=digits_color", "test_domains=[0]", "protocol=domainbed_2024", "dataset.data_seed=3"]
    with pytest.raises(ValueError, match="data_seed=3 decides nothing under protocol"):
        resolve(compose(arguments))


def test_a_presets_name_is_no_label():
    with pytest.raises(LookupError, match=r"'mine' is not a known protocol \(protocol\.name; label names a row\)"):
        resolve(compose(["test_domains=[0]", "protocol.name=mine"]))
