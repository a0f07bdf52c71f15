"""The contract of the methods, and of the checker itself."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench import check
from dgbench.finding import generators, moved_generators
from dgbench.registry import ComponentError, UnknownName, algorithms
from tests import broken_algorithms

NAMES = [clause.name for clause in check.ALGORITHM_CLAUSES]
FILE = '''"""A method."""

from dataclasses import dataclass

from dgbench.algorithm import Algorithm


@dataclass(kw_only=True)
class HParams:
    """None."""


class Mine(Algorithm):
    """Minimise the mean loss."""

    HParams = HParams

    def loss(self, batch):
        return {"loss": self.domain_risks(batch).mean()}
'''


def failed(findings):
    return {finding.clause: finding.message for finding in findings if finding.passed is False}


@pytest.mark.parametrize("name", algorithms.names())
def test_every_method_keeps_the_contract(name):
    findings = check.check_algorithm(name)
    assert not failed(findings)
    assert [finding.clause for finding in findings] == NAMES


@pytest.mark.parametrize(
    ("clause", "cls", "text"), broken_algorithms.BROKEN, ids=[cls.__name__ for _, cls, _ in broken_algorithms.BROKEN]
)
def test_a_defect_fails_its_clause_and_no_other(clause, cls, text):
    messages = failed(check.check_algorithm(cls, draws=1))
    assert list(messages) == [clause]
    assert re.search(text, messages[clause])
    assert "expected" in messages[clause]


def test_a_healthy_method_fails_nothing():
    findings = check.check_algorithm(broken_algorithms.Healthy)
    assert not failed(findings)
    assert {f.clause for f in findings if f.passed is None} == {"refuses", "sampler"}
    assert all(f.message for f in findings)


def test_a_demanding_method_is_given_what_it_needs():
    findings = check.check_algorithm(broken_algorithms.Demanding)
    assert all(finding.passed for finding in findings), failed(findings)


def test_every_clause_has_a_meaning_and_a_defect():
    assert {clause for clause, *_ in broken_algorithms.BROKEN} | {"device_free"} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    for i, clause in enumerate(check.ALGORITHM_CLAUSES):
        assert clause.meaning.endswith(".")
        assert set(clause.after) <= set(NAMES[:i])


def test_what_rests_on_a_failed_clause_is_not_evaluated():
    findings = {f.clause: f for f in check.check_algorithm(broken_algorithms.LossOfRows)}
    assert findings["trains"].passed is None
    assert findings["resumes"].message == "Not evaluated: it rests on deterministic and round_trip."


def test_checking_leaves_the_generators_alone():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = generators()
    check.check_algorithm(broken_algorithms.Healthy, draws=0)
    assert not moved_generators(before)
    random.random()
    assert moved_generators(before) == ["random"]


def test_what_is_no_method_is_refused():
    with pytest.raises(TypeError, match="no Algorithm, expected a subclass or a name"):
        check.check_algorithm(dict)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="Did you mean 'erm'"):
        check.check_algorithm("emr")


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "random.py"
    path.write_text(FILE)
    ((kind, name, findings),) = check.check_file(path)
    assert (kind, name) == ("algorithm", "random")
    assert not failed(findings)
    assert random.random() >= 0


@pytest.mark.parametrize("line", ["batch.x.cuda()", 'batch.x.to("cuda:0")'])
def test_a_device_is_found(tmp_path: Path, line: str):
    path = tmp_path / "mine.py"
    path.write_text(f"{FILE}\n    def unused(self, batch):\n        return {line}\n")
    ((_, _, findings),) = check.check_file(path)
    assert list(failed(findings)) == ["device_free"]
    assert re.search(r"Line 22 of dgbench.plugins.\w+.mine names a device", failed(findings)["device_free"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"holds 0 public subclasses of Algorithm or MultiDomainDataset or Adapter \(none\)"),
        (FILE + "\n\nclass Other(Mine):\n    pass\n", r"holds 2 public subclasses .*\(Mine, Other\)"),
        ("import not_there\n", r"cannot be imported \(ModuleNotFoundError: No module named 'not_there'\)"),
        ("def :\n", "cannot be imported .SyntaxError"),
    ],
)
def test_a_file_that_is_no_component(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ComponentError, match=message):
        check.check_file(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no Python file"):
        check.check_file(tmp_path / "mine.py")
