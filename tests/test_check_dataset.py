"""The contract of the datasets, and of its checker."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench import check
from dgbench.registry import datasets
from tests import broken_datasets

NAMES = [clause.name for clause in check.DATASET_CLAUSES]


def failed(findings):
    return {finding.clause: finding.message for finding in findings if finding.passed is False}


@pytest.fixture
def folder(tmp_path: Path):
    """Writes `counts` images per (domain, class): links to one file, so that a real set's numbers cost nothing."""
    image = tmp_path / "image.png"
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(image)

    def write(counts: dict[tuple[str, str], int]) -> Path:
        for (domain, name), count in counts.items():
            home = tmp_path / "root" / domain / name
            home.mkdir(parents=True)
            for i in range(count):
                os.link(image, home / f"{i}.png")
        return tmp_path / "root"

    return write


def arguments(name: str, folder, request) -> dict:
    """How to construct a dataset: from files that are computed, linked or downloaded."""
    cls = datasets[name]
    if name == "image_folder":
        counts = {(domain, label): 3 for domain in ("Art", "Real World") for label in ("cat", "dog")}
        return {"root": folder(counts), "image_size": 8}
    if name == "csv":
        table = request.getfixturevalue("tmp_path") / "table.csv"
        table.write_text("city,size,price\nOslo,1,1.5\nRome,2,2.5\n")
        return {"root": str(table), "target": "price", "domain": "city"}
    if hasattr(cls.Options, "image_size"):
        first, *rest = cls.card.classes
        counts = {(domain, label): 1 for domain in cls.card.domains for label in rest}
        counts |= {(d, first): n - len(rest) for d, n in zip(cls.card.domains, cls.card.sizes, strict=True)}
        return {"root": folder(counts), "image_size": 8}
    return {"data_dir": request.getfixturevalue("data_dir")} if hasattr(cls.Options, "root") else {}


@pytest.mark.parametrize("name", datasets.names())
def test_every_dataset_keeps_the_contract(name, folder, request):
    findings = check.check_dataset(name, **arguments(name, folder, request))
    assert not failed(findings)
    assert [finding.clause for finding in findings] == NAMES
    skipped = {finding.clause for finding in findings if finding.passed is None}
    assert skipped <= {"classes", "resident", "data_seed", "splits"}


@pytest.mark.parametrize(
    ("clause", "cls", "text"), broken_datasets.BROKEN, ids=[cls.__name__ for _, cls, _ in broken_datasets.BROKEN]
)
def test_a_defect_fails_its_clause_and_no_other(clause, cls, text):
    messages = failed(check.check_dataset(cls))
    assert list(messages) == [clause]
    assert re.search(text, messages[clause])
    assert "expected" in messages[clause]


def test_a_healthy_dataset_fails_nothing():
    findings = check.check_dataset(broken_datasets.Healthy, data_seed=3)
    assert {finding.clause for finding in findings if finding.passed is not True} == {"splits"}


def test_every_clause_has_a_meaning_and_a_defect():
    assert {clause for clause, *_ in broken_datasets.BROKEN} == set(NAMES)
    for i, clause in enumerate(check.DATASET_CLAUSES):
        assert clause.meaning.endswith(".")
        assert set(clause.after) <= set(NAMES[:i])


def test_missing_files_are_no_defect(tmp_path: Path):
    findings = {finding.clause: finding for finding in check.check_dataset("pacs", tmp_path)}
    assert not failed(findings.values())
    assert "PACS was looked for in" in findings["loads"].message
    assert findings["items"] == ("items", None, "Not evaluated: it rests on loads.")


def test_an_option_may_leave_a_domain_out():
    assert not failed(check.check_dataset("digits_style", exclude_invert=True))


def test_one_domain_is_enough_if_it_trains_and_tests():
    roles = {"train_domains": ("dark",), "test_domains": ("dark",), "splits": "official"}
    single = broken_datasets.broken(
        "Single",
        load=broken_datasets.only_dark,
        splits=broken_datasets.splits(**{"in": range(10), "test": range(10, 20)}),
        card=broken_datasets.changed(domains=("dark",), sizes=(20,), **roles),
    )
    assert not failed(check.check_dataset(single))


def test_a_defect_on_the_card_excuses_a_missing_class():
    card = broken_datasets.changed(defects=("dark has no example of yes",))
    excused = broken_datasets.broken("Excused", domain=broken_datasets.OneClassInTheDark, card=card)
    assert not failed(check.check_dataset(excused))


def test_a_file_on_the_shelf_is_checked_under_its_own_name():
    ((kind, name, findings),) = check.check_file(datasets.place("digits_color").path)
    assert (kind, name) == ("dataset", "digits_color")
    assert not failed(findings)


def test_what_is_no_dataset_is_refused():
    with pytest.raises(TypeError, match="no MultiDomainDataset"):
        check.check_dataset(dict)  # type: ignore[arg-type]
