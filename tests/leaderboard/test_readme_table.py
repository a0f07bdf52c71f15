"""README's table is that of the submissions that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbench.leaderboard import page, readme
from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.readme import BEGIN, END
from dgbench.leaderboard.tabs import tabs
from tests import boards
from tests.leaderboard.submitted_runs import Json

ROOT = Path(__file__).resolve().parents[2]


def table_of(tmp_path: Path, said) -> str:
    file = tmp_path / "README.md"
    file.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    made = readme.with_table(file, tabs(entries(said)))
    assert made.startswith(f"above\n{BEGIN}\n")
    assert made.endswith(f"{END}\nbelow\n")
    return made.removeprefix(f"above\n{BEGIN}\n").removesuffix(f"{END}\nbelow\n")


def test_readme_is_not_stale():
    """Else: `dgbench leaderboard build --readme README.md`."""
    made = tabs(page.read(ROOT / "leaderboard" / "submissions"))
    assert (ROOT / "README.md").read_text("utf-8") == readme.with_table(ROOT / "README.md", made)


def test_table(tmp_path):
    only = boards.submission("only", boards.values(0.9, 9, ("digits_rot",)), suite=None)
    said = boards.many({"erm": 0.8, "vrex": 0.82, "coral": 0.7}) | {"only.json": only}
    lines = table_of(tmp_path, said).splitlines()
    assert (
        lines[0] == "Suite embedded: dgbench, 500 steps, mlp / small_cnn; accuracy in %, selected by train_validation."
    )
    assert lines[2] == (
        "| rank | 95 % | method | digits_rot | digits_color | digits_style | texture_patches | Average | worst domain |"
    )
    assert lines[3] == "| --: | :-: | :-- | --: | --: | --: | --: | --: | --: |"
    assert [line.split(" | ")[:3] for line in lines[4:]] == [
        ["| 1", "1", "vrex"],
        ["| 2", "2", "erm"],
        ["| 3", "3", "coral"],
    ]
    digits_rot = said["vrex.json"].aggregates
    (mean,) = [a.mean for a in digits_rot if (a.criterion, a.dataset, a.column) == PLACE]
    assert lines[4].split(" | ")[3].startswith(f"{100 * mean:.1f} ± ")


PLACE = ("train_validation", "digits_rot", "Average")


def test_no_submissions(tmp_path):
    said = "Suite `embedded` (digits_rot, digits_color, digits_style, texture_patches): no submissions yet.\n"
    assert table_of(tmp_path, {}) == said


@pytest.mark.parametrize(
    "text",
    ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", f"{END}\n{BEGIN}\n{END}\n"],
    ids=["none", "open", "reversed", "twice", "unopened"],
)
def test_place_has_to_be_marked(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(
        ValueError, match=r"README.md has no place for the table. Mark it by one line <!-- leaderboard:b"
    ):
        readme.with_table(tmp_path / "README.md", ())
    with pytest.raises(FileNotFoundError, match=r"There is no file .*gone.md. Name one"):
        readme.with_table(tmp_path / "gone.md", ())


def test_it_is_filled_or_nothing_is_written(tmp_path: Path, small: Json):
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "erm.json").write_text(json.dumps(small))
    file, out = tmp_path / "README.md", tmp_path / "site"
    file.write_text("no place")
    with pytest.raises(ValueError, match="has no place for the table"):
        page.build(tmp_path / "submissions", out, file)
    assert not out.exists()
    file.write_text(f"{BEGIN}\n{END}\n")
    assert page.build(tmp_path / "submissions", out, file) == 1
    assert "no submissions yet" in file.read_text()
    assert (out / "index.html").exists()
