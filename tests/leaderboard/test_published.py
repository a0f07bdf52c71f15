"""Published rows: where each number comes from, and that they stay apart from runs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import dgbench
from dgbench.leaderboard.aggregate import AVERAGE
from dgbench.leaderboard.domainbed_names import DATASETS, dataset_names
from dgbench.leaderboard.published import MARK, published
from dgbench.registry import datasets
from dgbench.selection import criteria
from tests.fabricate import make_run, make_scores

PACS = ("art_painting", "cartoon", "photo", "sketch")
# The last column of the source's tables: the mean of its seven datasets.
OVERALL = {
    ("ERM", "train_validation"): 66.6,
    ("ERM", "domain_cross_validation"): 63.2,
    ("ERM", "oracle"): 68.7,
    ("CORAL", "train_validation"): 67.5,
    ("CORAL", "domain_cross_validation"): 65.0,
    ("CORAL", "oracle"): 69.2,
}


def make_pacs(runs_dir: Path, **columns: object) -> Path:
    for test in PACS:
        lines = [(0, make_scores(test, 0.25, domains=PACS))]
        make_run(runs_dir, lines, domains=PACS, test=[test], **{"dataset": "pacs", **columns})  # type: ignore[arg-type]
    return runs_dir


def test_each_number_has_a_source_a_place_and_a_range() -> None:
    held = published()
    assert held.numbers
    for number in held.numbers:
        source = held.sources[number.source]
        assert source.url.startswith("https://")
        assert source.file
        assert source.protocol
        assert number.place
        assert number.criterion in criteria()
        assert 0 <= number.value <= 100
        assert number.error is None or 0 <= number.error < 10
    keys = [(n.method, n.criterion, n.dataset, n.column, n.source) for n in held.numbers]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("key", OVERALL)
def test_seven_datasets_have_the_mean_that_was_published(key: tuple[str, str]) -> None:
    values = [n.value for n in published().numbers if (n.method, n.criterion) == key and n.column == AVERAGE]
    assert len(values) == 7
    assert sum(values) / 7 == pytest.approx(OVERALL[key], abs=0.05 + 1e-9)


def test_test_domains_have_the_average_that_was_published() -> None:
    whole = 0
    for names in (dataset_names(name, len(known.domains)) for name, known in DATASETS.items()):
        numbers = [n for n in published().numbers if (n.dataset, n.method) == (names[0], "ERM")]
        at = {n.column: n.value for n in numbers if n.criterion == "train_validation"}
        assert set(at) <= {*names[1].domains, AVERAGE}
        if at.keys() == {*names[1].domains, AVERAGE}:
            whole += 1
            assert sum(at[name] for name in names[1].domains) / (len(at) - 1) == pytest.approx(at[AVERAGE], abs=0.1)
    # Of RotatedMNIST, not all test domains were read to the digit.
    assert whole == 6


def test_names_of_datasets_and_domains_are_ours() -> None:
    for number in published().numbers:
        if number.dataset in datasets.names():
            assert number.column in {*datasets[number.dataset].card.domains, AVERAGE}


def test_they_stand_below_the_runs_and_are_not_ranked(tmp_path: Path) -> None:
    make_pacs(tmp_path, algorithm="vrex")
    plain, made = dgbench.table(tmp_path), dgbench.table(tmp_path, published=True)
    assert made.sheets[:-1] == plain.sheets
    assert made.cells.equals(plain.cells)
    below = made.sheets[-1]
    assert below.columns == (*PACS, "Average")
    assert [(line.method, line.rank) for line in below.lines] == [(f"ERM {MARK}", None), (f"CORAL {MARK}", None)]
    assert below.lines[0].cells[-1].mean == pytest.approx(0.855)
    said = " ".join(str(made).split())
    assert "pacs: published accuracy in %, selected by train_validation" in said
    assert "protocol DomainBed 2020; ResNet-50" in said
    assert "Published, not run here, and not ranked with the runs: DomainBed's results of 2020-10-06" in said
    assert "ERM (published) 84.7 80.8 97.2 79.3±1.0 85.5±0.2" in said
    assert "CORAL (published) — — — — 86.2±0.3" in said
    assert "missing" not in said


@pytest.mark.parametrize(("criterion", "erm"), [("oracle", "86.7±0.3"), ("domain_cross_validation", "83.0±0.7")])
def test_each_criterion_has_its_own_rows(tmp_path: Path, criterion: str, erm: str) -> None:
    made = dgbench.table(make_pacs(tmp_path), criterion, published=True)
    assert made.sheets[-1].columns == ("Average",)
    assert f"ERM (published) {erm}" in " ".join(str(made).split())


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_they_are_printed_in_every_format_but_csv(tmp_path: Path, format: str) -> None:
    make_pacs(tmp_path)
    assert "CORAL (published)" in str(dgbench.table(tmp_path, format=format, published=True))
    with pytest.raises(ValueError, match=r"in csv nothing would set them apart from runs. Leave one of them out"):
        dgbench.table(tmp_path, format="csv", published=True)


def test_where_nothing_was_published_a_sentence_says_so(tmp_path: Path) -> None:
    make_pacs(tmp_path / "one", dataset="mine")
    make_pacs(tmp_path / "two", score="macro_accuracy")
    for runs, criterion, name in (("one", "oracle", "mine"), ("two", "oracle", "pacs"), ("two", "last_step", "pacs")):
        made = dgbench.table(tmp_path / runs, criterion, published=True)
        assert MARK not in str(made)
        assert made.sheets[-1].notes[-1] == f"No published rows of {name}, selected by {criterion}, are known here."


def test_the_wheel_ships_them() -> None:
    said = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "published.json" in said["tool"]["setuptools"]["package-data"]["dgbench.leaderboard"]
