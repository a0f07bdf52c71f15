"""Submissions beside those that are published: what may change, and who is at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.leaderboard.submit import write
from dgbench.leaderboard.validate import sentences
from tests.leaderboard.submitted_runs import Json, changed, make_runs, put, submit


def place(folder: Path, said: Json, name: str = "a.json") -> Path:
    folder.mkdir(exist_ok=True)
    write(said, folder / name)
    return folder / name


def labelled(said: Json, label: str, **others: str) -> Json:
    def change(made: Json) -> None:
        made["method"].update(name=label, label=label)
        made.update(others)

    return changed(said, change)


@pytest.fixture
def before(tmp_path: Path, small: Json) -> Path:
    """A folder with one submission, a.json."""
    place(tmp_path / "before", small)
    return tmp_path / "before"


def test_published_values_stay_unless_it_is_said(before: Path, small: Json, tmp_path: Path):
    now, old = tmp_path / "now", before / "a.json"
    place(now, small)
    assert sentences([now], before)[1] == []
    # The same runs, of which one has one right answer fewer.
    runs = make_runs(tmp_path / "r", datasets=["digits_color", "digits_rot"], test=[[0], [1]], trials=[0, 1])
    result = next(row for row in small["results"] if row["criterion"] == "last_step")
    file = runs / result["run_id"] / "evaluations.jsonl"
    text = f'"in/{result["test_domain"]}/accuracy": '
    assert f"{text}{result['value']!r}" in file.read_text()
    value = (round(result["value"] * result["n"]) - 1) / result["n"]
    file.write_text(file.read_text().replace(f"{text}{result['value']!r}", f"{text}{value!r}"))
    place(now, submit(runs, suite=None))
    (said,) = sentences([now], before)[1]
    assert said.startswith(f"{old}: $.results: ")
    cell = f"digits_color / {result['test_domain']} / trial {result['trial_seed']}"
    assert f" / {cell} became {value!r}" in said
    remedy = f"Submit with --supersedes {small['checksum']}, or leave the file as it was."
    assert said.endswith(f", expected a published submission to stay. {remedy}")
    place(now, submit(runs, suite=None, supersedes=small["checksum"]))
    assert sentences([now], before)[1] == []


def test_a_published_file_does_not_vanish(before: Path, small: Json, tmp_path: Path):
    now = tmp_path / "now"
    place(now, small, "renamed.json")
    assert sentences([now], before)[1] == []
    (now / "renamed.json").unlink()
    (said,) = sentences([now], before)[1]
    number = len(small["results"]) - 1
    assert said.startswith(f"{before / 'a.json'}: $.results: ")
    assert f" is gone (and {number} more), expected a published submission to stay." in said


CHANGES = {
    "$.contact: 'someone@example.org' became 'another@example.org'": put("contact", to="another@example.org"),
    "$.method.code: null became 'https://example.org/x'": put("method", "code", to="https://example.org/x"),
    "$.method.summary: '' became 'Better.'": put("method", "summary", to="Better."),
}


@pytest.mark.parametrize("text", CHANGES)
def test_what_is_said_of_published_values_stays(text, before: Path, small: Json, tmp_path: Path):
    place(tmp_path / "now", small)
    assert sentences([tmp_path / "now"], before)[1] == []
    place(tmp_path / "now", changed(small, CHANGES[text]))
    (said,) = sentences([tmp_path / "now"], before)[1]
    assert said.startswith(f"{before / 'a.json'}: {text}, expected a published submission to stay.")
    place(tmp_path / "now", changed(changed(small, CHANGES[text]), put("supersedes", to=small["checksum"])))
    assert sentences([tmp_path / "now"], before)[1] == []


def test_a_claim_stays(submission: Json, tmp_path: Path):
    place(tmp_path / "before", submission)
    place(tmp_path / "now", submission)
    assert sentences([tmp_path / "now"], tmp_path / "before")[1] == []
    place(tmp_path / "now", changed(submission, put("suite", to=None)))
    (said,) = sentences([tmp_path / "now"], tmp_path / "before")[1]
    assert ": $.suite: an object of 2 became null, expected a published submission to stay." in said


def test_only_the_same_method_supersedes(before: Path, small: Json, tmp_path: Path):
    now = tmp_path / "now"
    mine = place(now, labelled(small, "mine"), "mine.json")
    place(now, small)
    assert sentences([now], before)[1] == []
    place(now, labelled(small, "mine", supersedes=small["checksum"]), "mine.json")
    expected = (
        f"{mine}: $.supersedes: got the checksum of 'erm' (erm) in {before / 'a.json'}, expected that of a submission "
        "of 'mine' (erm). Leave out --supersedes."
    )
    assert sentences([now], before)[1] == [expected]
    (now / "a.json").unlink()
    first, second = sentences([now], before)[1]
    assert first == expected
    assert " is gone (and " in second


def test_the_one_that_was_not_there_is_at_fault(small: Json, tmp_path: Path):
    published, now = tmp_path / "before", tmp_path / "now"
    old, again = labelled(small, "Bell 10"), labelled(small, "BELL-10")
    place(published, old, "coral.json")
    place(now, old, "coral.json")
    assert sentences([now], published)[1] == []
    place(now, again, "b.json")
    (said,) = sentences([now], published)[1]
    assert said.startswith(f"{now / 'b.json'}: $.method.name: got 'BELL-10' (erm), which can be taken for 'Bell 10' ")
    # Where nothing is known of before, the later name is.
    (said,) = sentences([now])[1]
    assert said.startswith(f"{now / 'coral.json'}: $.method.name: got 'Bell 10' (erm), which can be taken for ")
