"""Tables of the reader's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dgbench import check, run
from dgbench.dataset import MissingData
from dgbench.registry import UnknownName, datasets

HOUSES = """city,year,size,rooms,garden,price
New York,1990,10.5,2,true,1.5
Boston,900,11,3,false,2.25
New York,1990,12,2,true,3.5
Boston,900,13,1,true,4.5
"""
NUMBERS = ("size", "rooms", "garden")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode("latin-1"))
        return str(path)

    return write


def load(root: str, **options):
    return datasets["csv"](root=root, **{"target": "price", "domain": "city", "features": NUMBERS} | options)


def test_a_column_of_decimals_is_regressed_on_the_others(write):
    dataset = load(write(HOUSES))
    assert dataset.domain_names == ("boston", "new_york")
    assert (dataset.task.kind, dataset.task.num_classes, dataset.class_names) == ("regression", 1, ())
    boston, new_york = (domain.resident for domain in dataset.domains)
    assert boston[0].tolist() == [[11, 3, 0], [13, 1, 1]]
    assert boston[1].tolist() == [[2.25], [4.5]]
    assert new_york[0].tolist() == [[10.5, 2, 1], [12, 2, 1]]
    assert new_york[1].tolist() == [[1.5], [3.5]]
    assert boston[0].dtype == boston[1].dtype == torch.float32


def test_features_are_by_default_all_other_columns_and_keep_the_order_they_are_given_in(write):
    root = write(HOUSES.replace("New York", "1").replace("Boston", "0"))
    assert load(root, features=None).options.features == ("year", *NUMBERS)
    assert load(root, features=["rooms", "size"]).domains[0].inputs.tolist() == [[3, 11], [1, 13]]


def test_domains_given_as_numbers_are_in_numeric_order(write):
    dataset = load(write(HOUSES), domain="year")
    assert dataset.domain_names == ("year_900", "year_1990")
    assert dataset.domains[0].inputs[:, 0].tolist() == [11, 13]
    negative = HOUSES.replace("1990", "-2").replace("900", "2")
    assert load(write(negative), domain="year").domain_names == ("year_minus_2", "year_2")


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        ("price", "regression", ()),
        ("rooms", "classification", ("1", "2", "3")),
        ("garden", "classification", ("false", "true")),
        ("city", "classification", ("Boston", "New York")),
    ],
)
def test_the_values_of_the_target_decide_the_task(target, task, classes, write):
    dataset = load(write(HOUSES), target=target, domain="year", features=("size",))
    assert (dataset.task.kind, dataset.class_names) == (task, classes)
    assert dataset.options.target_scale == ("standard" if task == "regression" else "none")
    if classes:
        assert [domain.targets.dtype for domain in dataset.domains] == [torch.int64] * 2
        told = [classes[i] for domain in dataset.domains for i in domain.targets]
        rows = [line.split(",") for line in HOUSES.splitlines()]
        column = rows[0].index(target)
        assert told == [rows[i][column] for i in (2, 4, 1, 3)]


@pytest.mark.parametrize(("num_values", "task"), [(10, "classification"), (11, "regression")])
def test_more_than_ten_integers_are_a_quantity(num_values, task, write):
    root = write("d,x,y\n" + "".join(f"{'ab'[i % 2]},0.5,{i}\n" for i in range(num_values)))
    options = {"target": "y", "domain": "d", "features": None}
    assert load(root, **options).task.kind == task
    for explicit in ("classification", "regression"):
        assert load(root, task=explicit, **options).task.kind == explicit


def test_explicit_options_win(write):
    dataset = load(write(HOUSES), target_scale="minmax", task="regression", target="garden", features=["size"])
    assert dataset.options.target_scale == "minmax"
    assert dataset.domains[0].targets.tolist() == [[0.0], [1.0]]
    assert load(write(HOUSES), task="classification").class_names == ("1.5", "2.25", "3.5", "4.5")


def test_what_is_left_open_and_what_is_said_are_one_run(write):
    root = write(HOUSES)
    features = ["size", "rooms", "garden"]
    said = {"task": "regression", "features": features, "target_scale": "standard"}
    asked = {"root": root, "target": "price", "domain": "city", "features": features}
    opened = [run.open_dataset("csv", "data", {**asked, **more}) for more in ({}, said)]
    assert opened[0].describe_options() == opened[1].describe_options()
    assert "root" not in opened[0].describe_options()


def test_the_fingerprint_is_of_the_content(tmp_path, write):
    before = load(write(HOUSES)).fingerprint()
    (tmp_path / "copy.csv").write_text(HOUSES)
    assert load(str(tmp_path / "copy.csv")).fingerprint() == before
    assert load(write(HOUSES.replace("10.5", "10.6"))).fingerprint() != before


@pytest.mark.parametrize("options", [{}, {"target": "garden", "features": ["size"]}, {"domain": "year"}], ids=str)
def test_a_table_keeps_the_contract(options, write):
    options = {"target": "price", "domain": "city", "features": NUMBERS} | options
    root = write(HOUSES + "New York,1990,9,2,false,1.0\n")
    findings = check.check_dataset("csv", root=root, **options)
    assert not [finding for finding in findings if finding.passed is False]


def test_a_domain_may_lack_a_class(write):
    dataset = load(write(HOUSES), target="rooms", features=["size"])
    assert [sorted(set(domain.targets.tolist())) for domain in dataset.domains] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"target": None},
            "csv needs a column for dataset.target, got none, expected one of city, year, size",
        ),
        ({"domain": None}, "csv needs a column for dataset.domain, got none, .*. Set dataset.domain."),
        ({"target": "prize"}, r"'prize' is not a known column of .* \(dataset.target\). Did you mean 'price'\?"),
        ({"domain": "town"}, r"'town' is not a known column of .* \(dataset.domain\)"),
        ({"features": ["sizes"]}, r"'sizes' is not a known column of .* \(dataset.features\). Did you mean 'size'\?"),
        ({"domain": "price"}, "dataset.target and dataset.domain both name 'price' of .*, expected two columns"),
        ({"features": []}, r"The inputs from .* are \[\], expected at least one column"),
        ({"features": ["size", "size"]}, r"are \[size, size\], expected at least one column, each once"),
        ({"features": ["size", "price"]}, r"are \[size, price\], expected .* and not the target price. Name them with"),
        ({"features": None, "domain": "year"}, "'city' of .* holds the text 'New York' in row 1, .* or leave it out"),
        (
            {"target": "city", "domain": "year", "task": "regression"},
            "'New York' in row 1, expected numbers. Mend it, or set",
        ),
        ({"task": "regresion"}, r"'regresion' is not a known task \(dataset.task\). Did you mean 'regression'\?"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, text, write):
    root = write(HOUSES)
    with pytest.raises((ValueError, UnknownName), match=text):
        load(root, **options)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (HOUSES, "", r"table.csv cannot be read as a table \(empty CSV\), expected UTF-8 text"),
        ("900,11", "900,11,7", "table.csv cannot be read as a table .* Export it so."),
        ("Boston", "Bost\xf6n", r"cannot be read as a table \(invalid utf-8 sequence\)"),
        (HOUSES.split("\n", 1)[1], "", "table.csv has no rows below its line of names, expected some"),
        ("city,year", "city,", "has a column without a name, expected a name for each. Add it in line 1."),
        ("city,year", "city,price", "has several columns named 'price', expected one. Rename the others."),
        ("900,11", "900,", "The column 'size' of .* has no value in row 2, expected .* leave the column out"),
        ("900,11", "900,1e39", "The column 'size' of .* has the value 1e.?39 in row 2, expected"),
        (",3.5", ",", "The column 'price' of .* has no value in row 3, expected .* Fill it in, or delete the row.$"),
        ("Boston,", ",", "The column 'city' of .* has no value in row 2, .* Fill it in, or delete the row.$"),
        (",2.25", ",NA", "The column 'price' of .* holds the text 'NA' in row 2, .* if these are names of classes."),
        ("Boston", "New York", "'city' of .* has the value 'New York' in every row, expected at least two domains"),
        ("Boston", "new york", "The values 'New York' and 'new york' in the column 'city' of .* both make the domain"),
        ("Boston", "+", "The value '\\+' in the column 'city' of .* makes no domain name, expected one with letters"),
    ],
    ids=range(14),
)
def test_wrong_tables_are_refused(old, new, text, write):
    assert old in HOUSES
    with pytest.raises(ValueError, match=text):
        load(write(HOUSES.replace(old, new)))


def test_a_target_of_one_class_is_refused(write):
    with pytest.raises(
        ValueError, match=r"has the value 'true' in every row, expected at least two classes. Choose an"
    ):
        load(write(HOUSES.replace("false", "true")), target="garden", features=["size"])


def test_a_table_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingData, match=r"reads a table of yours, but none is given. Set dataset.root to a file"):
        datasets["csv"]()
    with pytest.raises(MissingData, match=r"looked for a table in .*, which is not a file. Set dataset.root to one"):
        datasets["csv"](root=str(tmp_path))
