"""The sheets that `dgbench show` prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from dgbench import adapter, prose, sheet
from dgbench.algorithm import Needs
from dgbench.hparams import facts, hparam, uniform
from dgbench.registry import UnknownName, algorithms, datasets

SHEETS = [("algorithm", name) for name in algorithms.names()] + [("dataset", name) for name in datasets.names()]


def shown(kind: str, name: str, width: int = 100) -> str:
    """A sheet as a terminal of some width shows it."""
    console = Console(width=width)
    with console.capture() as captured:
        for part in getattr(sheet, kind)(name):
            console.print(part, highlight=False)
    return captured.get()


def squeezed(text: str) -> str:
    """Without line ends and columns."""
    return " ".join(text.split())


def test_every_method_that_comes_with_dgbench_says_what_a_step_costs():
    assert [name for name in algorithms.names() if algorithms[name].cost is None] == []


@pytest.mark.parametrize(("kind", "name"), SHEETS)
def test_every_component_has_a_sheet_of_100_columns(kind, name, monkeypatch):
    def load(self):
        raise AssertionError("a sheet reads no data")

    registry = {"algorithm": algorithms, "dataset": datasets}[kind]
    if kind == "dataset":
        monkeypatch.setattr(registry[name], "load", load)
    text = shown(kind, name)
    assert max(map(len, text.splitlines())) <= 100
    first, second, *_ = text.splitlines()
    assert first.startswith(f"{name}  {registry[name].__name__}, ")
    assert second.rstrip().endswith(f"{name}.py")
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", algorithms.names())
def test_an_algorithms_sheet_leaves_nothing_out(name):
    cls, text = algorithms[name], squeezed(shown("algorithm", name, width=400))
    for doc in (sys.modules[cls.__module__].__doc__, cls.__doc__):
        assert squeezed(str(doc)) in text
    for field, fact in facts(cls.HParams).items():
        assert field in text
        assert squeezed(fact.doc) in text
        for choice in fact.by_regime.values():
            assert choice.sampler.text in text
        assert fact.key == field or f"key {fact.key}" in text


def test_what_differs_by_regime_key_preset_and_step_is_said():
    text = squeezed(shown("algorithm", "dann", width=200))
    assert "lr_d small 0.001 10^U(-4.5, -2.5) discriminator's learning rate large 5e-05 10^U(-5, -3.5)" in text
    assert "domainbed_2020, domainbed_2024: alternating" in text
    assert "optim.lr small 0.001 10^U(-4.5, -2.5) learning rate large 5e-05 10^U(-5, -3.5) key lr_g" in text
    assert "steps: capped at half of the run; key vrex_penalty_anneal_iters" in squeezed(shown("algorithm", "vrex"))


@pytest.mark.parametrize(("cost", "words"), [(None, "Not measured."), (2.5, "A step takes about 2.5 times as long")])
def test_what_a_step_costs_is_said(cost, words, monkeypatch):
    monkeypatch.setattr(algorithms["vrex"], "cost", cost)
    assert f"Cost {words}" in squeezed(shown("algorithm", "vrex"))


def test_brackets_are_no_markup():
    @dataclass
    class HParams:
        mixing: str = hparam("[red]", uniform(0, 1), "one of [0, 1] or [/bold]")

    console = Console(width=100)
    with console.capture() as captured:
        console.print(sheet._hparam_table(facts(HParams)))
    assert "mixing  [red]    U(0, 1)  one of [0, 1] or [/bold]" in captured.get()
    assert "(3, 224, 224) in [0, 1]." in shown("dataset", "pacs")


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(), "Nothing special"),
        (Needs(domain_labels=True, min_domains=2), "The domain of each example; at least 2 training domains"),
        (Needs(tasks=("regression",)), "Regression as the task"),
        (Needs(joint_prediction=8, pretrained=True), "Pretrained weights; 8 examples of one domain per prediction"),
    ],
)
def test_needs_in_words(needs, words):
    assert sheet._in_words(needs) == words


def test_every_need_has_its_words():
    assert set(sheet.NEEDS) == {*Needs.__dataclass_fields__, *adapter.Needs.__dataclass_fields__}


def test_a_datasets_sheet_is_its_card_its_prose_and_its_options():
    text = squeezed(shown("dataset", "digits_rot"))
    card = datasets["digits_rot"].card
    for fact in (card.summary, card.licence, card.source, card.citation, *card.defects, *card.checksums.values()):
        assert fact in text
    assert "rot0 (300), rot15 (300), rot30 (300), rot45 (299), rot60 (299), rot75 (299): 1797 in all" in text
    assert "Network mlp, random initial weights Steps 500, evaluated every 100" in text
    assert "Angles between others are easy, the two ends are not" in text
    assert "Splits None official; the partition into domains is drawn from `data_seed`." in text
    assert "data_seed 0 seed of everything random in the data" in text
    assert text.count("CC BY 4.0") == 1


def test_a_dataset_of_the_readers_own_files_says_so():
    text = squeezed(shown("dataset", "image_folder"))
    assert "Domains what the files hold Classes what the files hold" in text
    assert "root null folder of the files" in text


def test_lines_are_filled_anew_but_meant_ends_are_kept():
    paragraph = "A sentence that goes on\nfor two lines.\nNew one.\n    indented"
    assert prose.filled(paragraph, 26) == "A sentence that goes on for two lines.\nNew one.\n    indented"


def test_an_installed_package_shows_paths_from_its_own_root():
    outside = Path("/elsewhere/plugin.py")
    assert sheet._relative(outside) == str(outside)
    assert sheet._relative(algorithms.place("dann").path).endswith("algorithms/alignment/dann.py")


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(UnknownName, match=r"'vrx' is not a known algorithm. Did you mean 'vrex'\?"):
        shown("algorithm", "vrx")
