"""Submissions beside others and beside what was published; and the two commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.leaderboard.submit import write
from dgbench.leaderboard.validate import sentences, validate
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


def test_a_cell_stands_in_one_file(small: Json, tmp_path: Path):
    first, second = place(tmp_path, small, "a.json"), place(tmp_path, small, "b.json")
    (said,) = validate([first, second])[1].problems
    assert said.startswith("$.results: got train_validation / digits_color / ")
    assert f", which {first} has too, expected each cell in one file." in said
    # Other settings make other cells, and one method may be submitted for several.
    other = submit(make_runs(tmp_path / "r", "network.width=9", datasets=["digits_color"], trials=[0]), suite=None)
    assert validate([first, place(tmp_path, other, "c.json")])[1].problems == ()


def test_published_values_stay_unless_it_is_said(small: Json, tmp_path: Path):
    before, now = tmp_path / "before", tmp_path / "now"
    old = place(before, small)
    place(now, small)
    assert sentences([now], before)[1] == []
    # The same runs without their last evaluation.
    runs = make_runs(tmp_path / "r", datasets=["digits_color", "digits_rot"], test=[[0], [1]], trials=[0, 1])
    for file in runs.glob("*/evaluations.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]))
    new = submit(runs, suite=None)
    place(now, new)
    (said,) = sentences([now], before)[1]
    assert said.startswith(f"{old}: $.results: ")
    assert "expected published values to stay" in said
    assert said.endswith(f"Submit with --supersedes {small['checksum']}, or leave the file as it was.")
    place(now, submit(runs, suite=None, supersedes=small["checksum"]))
    assert sentences([now], before)[1] == []
    (now / "a.json").unlink()
    assert " is gone (and 31 more)" in sentences([now], before)[1][0]


def test_a_changed_value_is_named(small: Json, tmp_path: Path):
    runs = make_runs(tmp_path / "r", datasets=["digits_color", "digits_rot"], test=[[0], [1]], trials=[0, 1])
    result = next(row for row in small["results"] if row["criterion"] == "last_step")
    file = runs / result["run_id"] / "evaluations.jsonl"
    old = f'"in/{result["test_domain"]}/accuracy": {result["value"]!r}'
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, f'"in/{result["test_domain"]}/accuracy": 1.0'))
    place(tmp_path / "now", submit(runs, suite=None))
    place(tmp_path / "before", small)
    (said,) = sentences([tmp_path / "now"], tmp_path / "before")[1]
    assert f"$.results: {result['value']!r} of " in said
    assert f" / digits_color / {result['test_domain']} / {result['trial_seed']} became 1.0" in said


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
    broken = place(tmp_path, changed(small, inside(put("evaluations", "value", 0, to=7.0))), "[b]roken.json")
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", file, broken)
    assert (code, out) == (1, f"{file}: valid (erm, no suite, 3 cells)\n")
    assert err.startswith(f"{broken}: $.payload.evaluations.value[0]: got 7.0 of n=")
    (tmp_path / "half.json").write_text('{"schema')
    code, out, err = run(capsys, monkeypatch, "leaderboard", "validate", tmp_path / "half.json", file)
    assert (code, out) == (1, f"{file}: valid (erm, no suite, 3 cells)\n")
    assert err.startswith(f"{tmp_path / 'half.json'}: $: no JSON at line 1, column 2")
    assert run(capsys, monkeypatch, "leaderboard", "validate", tmp_path / "no.json")[0] == 1
    code, out, err = run(capsys, monkeypatch, "submit", runs, *given, "--suite", "embedded", "--out", "x.json")
    assert (code, out, Path("x.json").exists()) == (1, "", False)
    assert err.startswith("Error: The runs make no valid submission.")


def test_of_many_problems_some_are_said(small: Json, tmp_path: Path):
    wrong = changed(small, lambda said: said.update(results=[]))
    refused = sentences([place(tmp_path, wrong)])[1]
    assert len(refused) == 21
    assert refused[-1].endswith("a.json: and 12 more.")


def test_what_is_published_here_is_valid():
    assert sentences([ROOT / "leaderboard" / "submissions"])[1] == []
