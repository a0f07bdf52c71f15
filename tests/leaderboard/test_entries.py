"""Submissions as rows of the page: their names, and which of them others are compared with."""

from __future__ import annotations

import pytest

from dgbench.leaderboard.entries import entries
from dgbench.leaderboard.tabs import tabs
from tests import boards
from tests.boards import submission, values


def baseline_of(said, title):
    (tab,) = [tab for tab in tabs(entries(said)) if tab.title == title]
    return {panel.board.baseline.file for panel in tab.panels if panel.board.criterion == "train_validation"}


def test_the_baseline_is_not_chosen_by_what_a_file_says_of_itself():
    said = boards.many({"erm": 0.8, "vrex": 0.81})
    for title in ("embedded", "digits_rot"):
        assert baseline_of(said, title) == {"erm.json"}
    old = "2020-10-01T00:00:00Z"
    others = {
        "a.json": submission("erm", values(0.4, 5), created=old, source="0123456789abcdef"),
        "b.json": submission("erm", values(0.4, 6), created=old, suite=None),
        "c.json": submission("erm", values(0.4, 7), created=old, label="mine"),
        "z.json": submission("erm", values(0.4, 8), created=old),
    }
    for file, other in others.items():
        for title in ("embedded", "digits_rot"):
            assert baseline_of(said | {file: other}, title) == {"erm.json"}, (file, title)


def test_names_baselines_and_files():
    said = {
        "first.json": submission("erm", values(0.8, 0), created="2026-02-01T00:00:00Z"),
        "second.json": submission("erm", values(0.7, 1), created="2026-01-01T00:00:00Z"),
        "third.json": submission("vrex", values(0.75, 2)),
    }
    made = tabs(entries(said))[0].panels[0].board
    assert [row.entry.name for row in made.rows] == ["erm (first)", "vrex", "erm (second)"]
    assert made.baseline.name == "erm (first)"
    alone = tabs(entries({"third.json": said["third.json"]}))[0].panels[0].board
    assert (alone.baseline, alone.rows[0].rank, alone.rows[0].rank_interval) == (None, 1, None)
    with pytest.raises(ValueError, match=r"^'a b.json': got a file called 'a b.json', expected a-z, .* Rename it.$"):
        entries({"a b.json": said["first.json"]})
