"""Submissions beside others and beside what was published; and the two commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.cells import CELL
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.submit import write
from dgbench.leaderboard.tabs import tabs
from dgbench.leaderboard.validate import judge, sentences, validate
from tests.leaderboard.submitted_runs import CONTACT, CREATED, Json, changed, inside, make_runs, put, submit

ROOT = Path(__file__).resolve().parents[2]


def labelled(said: Json, label: str, **method: Any) -> Json:
    return changed(said, lambda made: made["method"].update(name=label, label=label, **method))


def place(folder: Path, said: Json, name: str = "a.json") -> Path:
    folder.mkdir(exist_ok=True)
    write(said, folder / name)
    return folder / name


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["dgbench", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]


def test_names_that_look_alike_are_refused_beside_each_other(small: Json, tmp_path: Path):
    first = place(tmp_path, labelled(small, "Bell 10"), "a.json")
    for other, is_confusable in (("BELL-10", True), ("Be11.lO", True), ("Bell 11", False), ("Bell 10+", False)):
        second = place(tmp_path, labelled(small, other), "b.json")
        assert validate([first])[0].problems == validate([second])[0].problems == ()
        problems = validate([first, second])[1].problems
        assert bool(problems) == is_confusable, other
        if is_confusable:
            assert problems[0].startswith(
                f"$.method.name: got '{other}' (erm), which can be taken for 'Bell 10' (erm) of {first}, expected a"
            )


def test_one_name_is_one_algorithm(small: Json, tmp_path: Path):
    first = place(tmp_path, labelled(small, "ours"), "a.json")
    second = place(tmp_path, labelled(small, "ours", algorithm="vrex"), "b.json")
    assert validate([first])[0].problems == validate([second])[0].problems == ()
    (said,) = validate([first, second])[1].problems
    assert "got 'ours' (vrex), which can be taken for 'ours' (erm)" in said


def test_a_method_has_one_submission_to_a_suite(submission: Json, tmp_path: Path):
    first = place(tmp_path, submission, "a.json")
    second = place(tmp_path, changed(submission, put("environments", 0, "hardware", "threads", to=2)), "b.json")
    assert validate([first])[0].problems == validate([second])[0].problems == ()
    assert validate([first, second])[1].problems == (
        f"$.suite: got embedded version 1 for 'erm' (erm), as {first} has it, expected one submission of a method to a "
        "suite. Keep one of the two.",
    )


def test_a_cell_stands_in_one_file(small: Json, tmp_path: Path):
    first, second = place(tmp_path, small, "a.json"), place(tmp_path, small, "b.json")
    (said,) = validate([first, second])[1].problems
    assert said.startswith("$.results: got train_validation / digits_color / ")
    assert f", which {first} has too, expected each cell in one file." in said
    # Other settings make other cells, and one method may be submitted for several.
    other = submit(make_runs(tmp_path / "r", "network.width=9", datasets=["digits_color"], trials=[0]), suite=None)
    assert validate([first, place(tmp_path, other, "c.json")])[1].problems == ()


# Each is another text of the same setting: keys of cells are hashes of texts.
SPELLED = {
    "null in the network": put("datasets", 0, "network", "more", to=None),
    "null in the trainer": put("datasets", 0, "trainer", "more", to=None),
    "true for 1": put("datasets", 0, "trainer", "devices", to=True),
    "a float for 1": put("datasets", 0, "trainer", "devices", to=1.0),
}


@pytest.fixture(scope="module")
def on_one_dataset(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return submit(make_runs(tmp_path_factory.mktemp("one"), datasets=["digits_color"], trials=[0]), suite=None)


@pytest.mark.parametrize("case", SPELLED)
def test_a_cell_stays_one_however_its_setting_is_spelled(case, on_one_dataset: Json, tmp_path: Path):
    said = on_one_dataset
    assert said["datasets"][0]["trainer"]["devices"] == 1
    first, second = place(tmp_path, said, "a.json"), place(tmp_path, changed(said, SPELLED[case]), "b.json")
    (one,), (other,) = validate([first]), validate([second])
    assert one.problems == other.problems == ()
    assert one.cells is not None
    assert other.cells is not None
    assert len(one.cells.join(other.cells, on=CELL, how="semi")) == 0
    (problem,) = validate([first, second])[1].problems
    assert f", which {first} has too, expected each cell in one file." in problem


def test_the_commands(small: Json, tmp_path: Path, capsys, monkeypatch):
    runs = make_runs(tmp_path / "r", datasets=["digits_color"], trials=[0])
    file = tmp_path / "submission.json"
    given = ("--method", "erm", "--contact", CONTACT, "--created", CREATED)
    assert run(capsys, monkeypatch, "submit", runs, *given)[:2] == (
        0,
        "submission.json: valid (erm, no suite, 3 cells)\n",
    )
    assert run(capsys, monkeypatch, "leaderboard", "validate", file)[:2] == (
        0,
        f"{file}: valid (erm, no suite, 3 cells)\n",
    )
    broken = place(tmp_path / "[b]", changed(small, inside(put("evaluations", "value", 0, to=7.0))), "broken.json")
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", file, broken)
    assert (code, out) == (1, f"{file}: valid (erm, no suite, 3 cells)\n")
    assert err.startswith(f"{broken}: $.payload.evaluations.value[0]: got 7.0 of n=")
    (tmp_path / "half.json").write_text('{"schema')
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", tmp_path / "half.json", file)
    assert (code, out) == (1, f"{file}: valid (erm, no suite, 3 cells)\n")
    assert err.startswith(f"{tmp_path / 'half.json'}: $: no JSON at line 1, column 2")
    for name in ("my erm.json", "x.txt"):
        code, out, err = run(capsys, monkeypatch, "submit", runs, *given, "--out", name)
        assert (code, Path(name).exists()) == (1, False)
        assert err.startswith(f"Error: --out: got a file called '{name}', expected a-z, A-Z, 0-9, _, - and .")
    before = file.read_bytes()
    code, out, err = run(capsys, monkeypatch, "submit", runs, "--method", "erm", "--contact", CONTACT)
    assert (code, file.read_bytes() == before) == (1, True)
    assert err.startswith("Error: submission.json is there already, and what is published stays. Name another file by")
    checksum = json.loads(before)["checksum"]
    assert run(capsys, monkeypatch, "submit", runs, *given, "--supersedes", checksum)[0] == 0
    assert json.loads(file.read_bytes())["supersedes"] == checksum
    file.write_bytes(before)
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", tmp_path / "no.json")
    assert (code, out) == (1, "")
    assert err == f"Error: {tmp_path / 'no.json'} is not there. Name a submission that `dgbench submit` wrote.\n"
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", "nope")
    assert (code, err) == (1, "Error: nope is not there. Name a submission that `dgbench submit` wrote.\n")
    code, out, err = run(capsys, monkeypatch, "submit", runs, *given, "--suite", "embedded", "--out", "x.json")
    assert (code, out, Path("x.json").exists()) == (1, "", False)
    assert err.startswith("Error: The runs make no valid submission.")


def test_of_many_problems_some_are_said(small: Json, tmp_path: Path):
    wrong = changed(small, lambda said: said.update(results=[]))
    refused = sentences([place(tmp_path, wrong)])[1]
    assert len(refused) == 21
    assert refused[-1].endswith("a.json: and 12 more.")


def test_what_is_published_here_is_valid_and_makes_a_board():
    published = judge([ROOT / "leaderboard" / "submissions"])
    assert [(v.path.name, v.problems) for v in published if v.problems] == []
    said = {v.path.name: v.submission for v in published if v.submission is not None}
    names = {one.method.name for one in said.values()}
    assert len(names) == len(said) >= 12
    assert "erm" in names
    assert {one.suite.name for one in said.values() if one.suite is not None} == {"embedded"}
    assert all(one.suite is not None for one in said.values())
    for panel in tabs(entries(said))[0].panels:
        assert {row.entry.name for row in panel.board.ranked} == names
        assert panel.board.baseline.name == "erm"
