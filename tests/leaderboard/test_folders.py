"""What a folder of submissions may hold, for the check of a pull request and for the page alike."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench.leaderboard import page
from dgbench.leaderboard.validate import sentences
from tests.leaderboard.submitted_runs import Json

NAME = "expected a-z, A-Z, 0-9, _, - and . with .json at the end, for it becomes part of an address. Rename it,"


def copied(name: str) -> Callable[[Path, str], object]:
    return lambda folder, text: (folder / name).write_text(text)


def linked(folder: Path, text: str) -> None:
    elsewhere = folder.with_name("elsewhere.json")
    elsewhere.write_text(text)
    (folder / "b.json").symlink_to(elsewhere)


def nested(folder: Path, text: str) -> None:
    (folder / "b.json").mkdir()
    (folder / "b.json" / "c.json").write_text(text)


def piped(folder: Path, text: str) -> None:
    os.mkfifo(folder / "b.json")


MISFITS = {
    "we ird;name.json": (copied("we ird;name.json"), f"$: got a file called 'we ird;name.json', {NAME}"),
    "another kind": (copied("evil.html"), f"$: got a file called 'evil.html', {NAME}"),
    "hidden": (copied(".b.json"), f"$: got a file called '.b.json', {NAME}"),
    "no ASCII": (copied("\u0435rm.json"), f"$: got a file called '\\u0435rm.json', {NAME}"),
    "a command in its name": (
        copied("A\n::error::hello.json"),
        f"A\\n::error::hello.json: $: got a file called 'A\\n::error::hello.json', {NAME}",
    ),
    "a link": (linked, "b.json: $: got a link, expected the file itself. Put a copy in its place."),
    "a folder": (nested, "b.json: $: got no regular file, expected a submission. Name one that"),
    "a pipe": (piped, "b.json: $: got no regular file, expected a submission. Name one that"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_validate_and_build_refuse_what_does_not_belong_in_a_folder(case, small: Json, tmp_path: Path):
    add, expected = MISFITS[case]
    folder, text = tmp_path / "submissions", json.dumps(small)
    folder.mkdir()
    (folder / "a.json").write_text(text)
    assert sentences([folder])[1] == []
    assert [entry.file for entry in page.read(folder)] == ["a.json"]
    add(folder, text)
    assert sentences([folder])[0] == [f"{folder / 'a.json'}: valid (erm, no suite, 8 cells)"]
    (said,) = sentences([folder])[1]
    assert expected in said
    assert said.isprintable()
    with pytest.raises(ValueError, match=re.escape("is no valid submission: $: got ")) as caught:
        page.read(folder)
    assert str(caught.value).isprintable()


def test_a_link_to_a_folder_is_not_read(small: Json, tmp_path: Path):
    folder, link = tmp_path / "submissions", tmp_path / "link"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(small))
    assert sentences([folder])[1] == []
    link.symlink_to(folder)
    assert sentences([link]) == ([], [f"{link}: $: got a link, expected the file itself. Put a copy in its place."])


def test_a_single_file_has_such_a_name_too(small: Json, tmp_path: Path):
    for name, is_fit in (("a.json", True), ("a b.json", False), ("a.JSON", False), ("a.json\n", False)):
        (tmp_path / name).write_text(json.dumps(small))
        accepted, refused = sentences([tmp_path / name])
        assert (len(accepted), len(refused)) == (is_fit, not is_fit), name
