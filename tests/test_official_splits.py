"""`protocol.splits=official` from the data's declaration to the table, and which splits a criterion has evaluated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import dgbench
from dgbench import record
from dgbench.algorithms.erm import ERM
from dgbench.composition import compose
from dgbench.config import resolve
from dgbench.dataset import Card, Domain, Items, MultiDomainDataset
from dgbench.record import RunFolder
from dgbench.registry import datasets
from dgbench.runner import Outcome, execute
from dgbench.selection import selection
from dgbench.splits import make_splits, wanted_splits

SIZE = 30
PARTS = {"in": range(16), "val": range(16, 20), "test": range(20, 30)}
CARD = Card(
    summary="Toy data that declare their splits; which of two classes is it?",
    domains=("a", "b", "c"),
    sizes=(SIZE,) * 3,
    classes=("zero", "one"),
    regime="small",
    network="mlp",
    num_steps=5,
    evaluate_every=4,
    licence="none",
    source="made up",
    checksums={},
    citation="none",
)


class Shelf(Domain):
    """Example k is the number k of the domain; augmented, it is negative."""

    def __getitems__(self, indices):
        indices = torch.as_tensor(indices)
        return Items(torch.stack([indices, self.targets[indices]], 1).float(), self.targets[indices])

    def training_items(self, indices):
        x, y = self.__getitems__(indices)
        return Items(-x, y)


class Undeclared(MultiDomainDataset):
    """No splits of its own."""

    card = CARD

    def load(self):
        for name in CARD.domains:
            yield Shelf(name, torch.arange(SIZE) % 2)


class Whole(Undeclared):
    """All three splits of every domain."""

    declared: ClassVar[dict[str, str]] = {"in": "abc", "val": "abc", "test": "abc"}

    def load(self):
        self.splits = {
            split: {name: torch.tensor(PARTS[split]) for name in names} for split, names in self.declared.items()
        }
        return super().load()


class NoVal(Whole):
    """Nothing to choose by."""

    declared: ClassVar[dict[str, str]] = {"in": "abc", "test": "abc"}


class Apart(Whole):
    """The first two domains train, the last one tests."""

    card = dataclasses.replace(CARD, splits="official", train_domains=("a", "b"), test_domains=("c",))
    declared: ClassVar[dict[str, str]] = {"in": "ab", "val": "ab", "test": "c"}


class Judged(Whole):
    """One domain each trains, validates and tests."""

    card = dataclasses.replace(CARD, splits="official", train_domains=("a",), val_domains=("b",), test_domains=("c",))
    declared: ClassVar[dict[str, str]] = {"in": "ab", "test": "c"}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Undeclared, Whole, NoVal, Apart, Judged):
        monkeypatch.setitem(datasets._given, "no_val" if cls is NoVal else cls.__name__.lower(), cls)


def resolved(dataset: str, *overrides: str):
    keys = ["protocol.splits=official", "optim.batch_size=4", "network.width=4", "workers=0"]
    return resolve(compose([f"dataset={dataset}", *keys, *overrides]))


def train(dataset: str, *overrides: str) -> Outcome:
    return execute(resolved(dataset, *overrides))


def last(outcome: Outcome) -> dict:
    return RunFolder(outcome.folder).lines()[-1]


BOTH = ("train_domains=[a,b]", "test_domains=[a,b]")


def test_domains_train_validate_and_test_on_their_own_parts(monkeypatch) -> None:
    trained_on: set[float] = set()
    loss = ERM.loss

    def recording(self, batch):
        trained_on.update(batch.x[..., 0].flatten().tolist())
        return loss(self, batch)

    monkeypatch.setattr(ERM, "loss", recording)
    options = ("protocol.num_steps=40", "network.normalise=none", "protocol.augment=false")
    outcome = train("whole", *BOTH, *options)
    assert outcome.status == "complete", outcome.reason
    assert last(outcome)["n"] == {"val/a": 4, "val/b": 4, "test/a": 10, "test/b": 10}
    assert trained_on == {float(k) for k in PARTS["in"]}
    for (split, _), part in make_splits(resolved("whole", *BOTH)).items():
        assert part.indices.tolist() == list(PARTS[split])


def test_the_table_chooses_by_val_and_reports_test() -> None:
    options = ("protocol.num_steps=12", "protocol.evaluate_every=1", "protocol.augment=false", "optim.lr=0.1")
    outcome = train("whole", *BOTH, *options)
    lines = RunFolder(outcome.folder).lines()
    val = [sum(line["values"][f"val/{name}/accuracy"] for name in "ab") / 2 for line in lines]
    best = val.index(max(val))
    assert 0 < best < 11, val
    chosen = selection("train_validation").choose(record.read("runs"))
    assert chosen["test_domain"].to_list() == ["a", "b"]
    assert chosen["split"].unique().to_list() == ["test"]
    assert chosen["step"].unique().to_list() == [best]
    assert chosen["value"].to_list() == [lines[best]["values"][f"test/{name}/accuracy"] for name in "ab"]
    kept = {file.name for file in RunFolder(outcome.folder).checkpoints.iterdir()}
    assert kept == {f"step_{step:06d}.pt" for step in (best, 11)}
    said = " ".join(str(dgbench.table("runs")).split())
    assert "Reported: accuracy on the test domain's official test split." in said
    assert "trained on a, b;" in said
    assert "Missing" not in said


@pytest.mark.parametrize(("preset", "sign"), [("dgbench", 1), ("domainbed_2020", -1), ("domainbed_2024", -1)])
def test_an_official_val_split_is_augmented_as_the_preset_says(preset, sign) -> None:
    for (split, _), part in make_splits(resolved("whole", *BOTH, f"protocol={preset}")).items():
        numbers = part.domain.__getitems__(part.indices).x[:, 0].tolist()
        assert numbers == [(sign if split == "val" else 1) * k for k in PARTS[split]]


def test_a_domain_that_is_trained_and_tested_on_is_not_left_out() -> None:
    for train_domains, test in (("[b,c]", "[a]"), ("[a,b]", "[a]"), ("[a]", "[a,b]")):
        train("whole", f"train_domains={train_domains}", f"test_domains={test}")
    chosen = selection("train_validation").choose(record.read("runs"))
    assert sorted(zip(chosen["trained_on"], chosen["test_domain"], strict=True)) == [
        ("a", "a"),
        ("a", "b"),
        ("a b", "a"),
        ("all other domains", "a"),
    ]


def test_without_val_only_the_last_step_can_be_taken() -> None:
    outcome = train("no_val", *BOTH)
    assert outcome.status == "complete", outcome.reason
    assert last(outcome)["n"] == {"test/a": 10, "test/b": 10}
    rows = record.read("runs")
    assert selection("train_validation").choose(rows).is_empty()
    chosen = selection("last_step").choose(rows)
    assert chosen["value"].to_list() == [last(outcome)["values"][f"test/{name}/accuracy"] for name in "ab"]
    assert dgbench.load(outcome.folder, step=4).step == 5
    cells = dgbench.table("runs", "last_step").cells
    assert cells["is_missing"].to_list() == [False] * 3
    assert dgbench.table("runs").cells["mean"].to_list() == [None] * 3


def test_validation_domains_come_before_val() -> None:
    outcome = train("whole", "val_domains=[b]", "test_domains=[c]", "criteria=[train_validation]")
    assert last(outcome)["n"] == {"in/b": 16, "test/c": 10}


def test_the_card_s_validation_domains_are_chosen_by() -> None:
    assert last(train("judged", "criteria=[train_validation]"))["n"] == {"in/b": 16, "test/c": 10}


@pytest.mark.parametrize(
    ("overrides", "train_val_test"),
    [
        ([], "a|b|c"),
        (["train_domains=[a,b]"], "ab||c"),
        (["test_domains=[b]"], "a||b"),
        (["val_domains=[]"], "a||c"),
        (["val_domains=[c]", "test_domains=[b]"], "a|c|b"),
        (["protocol.splits=random"], "a||c"),
    ],
)
def test_what_the_user_names_comes_before_the_card_s_validation_domains(overrides, train_val_test) -> None:
    domains = resolved("judged", *overrides).domains
    assert "|".join(map("".join, (domains.train, domains.val, domains.test))) == train_val_test


def test_the_card_s_standard_needs_no_key() -> None:
    run = resolve(compose(["dataset=apart", "optim.batch_size=4"]))
    assert (run.protocol.splits, run.domains.train, run.domains.test) == ("official", ("a", "b"), ("c",))
    assert set(make_splits(run)) == {("in", "a"), ("in", "b"), ("val", "a"), ("val", "b"), ("test", "c")}
    free = resolve(compose(["dataset=apart", "protocol.splits=random", "test_domains=[a]"]))
    assert free.domains.train == ("b",)
    assert {split for split, _ in make_splits(free)} == {"in", "out"}


@pytest.mark.parametrize(
    ("dataset", "overrides", "text"),
    [
        ("apart", ["test_domains=[b]"], "b has no test split; it is declared for c. Name these as test_domains, or"),
        ("apart", ["train_domains=[c]"], "c has no in split; it is declared for a, b. Name these as train_domains, or"),
        ("whole", [*BOTH, "protocol.uda_holdout_fraction=0.5"], "=0.5 divides random splits, but protocol.splits=offi"),
    ],
)
def test_what_the_data_do_not_declare_is_refused(dataset, overrides, text) -> None:
    outcome = train(dataset, *overrides)
    assert outcome.status == "failed"
    assert text in str(outcome.reason)
    assert str(outcome.reason).endswith("protocol.splits=random.")


def test_data_without_splits_are_refused_before_there_is_a_run() -> None:
    with pytest.raises(ValueError, match=r"splits=official, but Undeclared declares no splits. Leave it random\."):
        resolved("undeclared", "test_domains=[a]")
    with pytest.raises(ValueError, match="a, b stands in train_domains and in test_domains"):
        resolved("whole", *BOTH, "protocol.splits=random")
    assert not Path("runs").exists()


REPORTED, HELD_OUT, OUT = ("in", "a"), ("out", "a"), [("out", "b"), ("out", "c")]
OF_VAL = [("out", "c"), ("in", "b")]
OFFICIAL_VAL = [("val", "b"), ("val", "c")]


@pytest.mark.parametrize(
    ("criterion", "plain", "with_val", "official"),
    [
        ("train_validation", [*OUT, REPORTED], [("in", "b"), REPORTED], OFFICIAL_VAL),
        ("domain_cross_validation", [REPORTED], [REPORTED], []),
        ("oracle", [REPORTED, HELD_OUT], [REPORTED, HELD_OUT], []),
        ("oracle_best", [REPORTED, HELD_OUT], [REPORTED, HELD_OUT], []),
        ("last_step", [REPORTED], [REPORTED], []),
        (None, [*OUT, REPORTED, HELD_OUT], [*OF_VAL, REPORTED, HELD_OUT], OFFICIAL_VAL),
    ],
)
def test_only_what_a_criterion_needs_is_evaluated(criterion, plain, with_val, official, monkeypatch) -> None:
    asked = ["test_domains=[a]", *([f"criteria=[{criterion}]"] if criterion else [])]
    random, val = "protocol.splits=random", "val_domains=[b]"
    assert wanted_splits(resolved("whole", *asked, random)) == plain
    assert wanted_splits(resolved("whole", *asked, random, val)) == with_val
    assert wanted_splits(resolved("whole", *asked)) == [*official, ("test", "a")]

    # A method that is told how it does is told so of the training domains, whoever else is asked.
    monkeypatch.setattr(ERM, "needs", dataclasses.replace(ERM.needs, evaluation=True))
    assert set(wanted_splits(resolved("whole", *asked, random))) == {*plain, *OUT}
    assert set(wanted_splits(resolved("whole", *asked, random, val))) == {*with_val, ("out", "c")}
    assert wanted_splits(resolved("whole", *asked)) == [*OFFICIAL_VAL, ("test", "a")]


def test_another_criterion_makes_a_run_again_and_fewer_do_not() -> None:
    keys = ("test_domains=[a]", "protocol.splits=random")
    first = train("whole", *keys, "criteria=[last_step]")
    assert set(last(first)["n"]) == {"in/a"}
    assert train("whole", *keys, "criteria=[domain_cross_validation]").skipped
    second = train("whole", *keys, "criteria=[oracle,train_validation]")
    assert (second.folder, second.skipped) == (first.folder, False)
    assert set(last(second)["n"]) == {"in/a", "out/a", "out/b", "out/c"}
    assert train("whole", *keys).skipped


def test_an_average_that_follows_the_validation_loss_needs_one() -> None:
    text = "averaging=swad:0.1 follows the loss on examples held out of the training domains, but this run holds none"
    assert text in str(train("no_val", *BOTH, "averaging=swad:0.1").reason)
    assert train("no_val", *BOTH, "averaging=sma").status == "complete"
    assert train("whole", *BOTH, "averaging=swad", "criteria=[last_step]").status == "complete"
